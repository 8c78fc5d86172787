package boot

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
	"hearth/node/api"
)

// testDevice is a Device interface over services that never run.
func testDevice() (*device, *journal.Journal) {
	log := journal.New(200, func() time.Duration { return 0 })
	services := supervise.New(nil, log, func(string) io.Writer { return io.Discard })
	return newDevice(log, services), log
}

func TestStatusTellsWhatBecameOfTheStages(t *testing.T) {
	d, _ := testDevice()
	d.setStage(StageState{Name: "tpm"})
	d.setStage(StageState{Name: "network"})
	d.setStage(StageState{Name: "tpm", Done: 1500 * time.Millisecond})
	d.setStage(StageState{Name: "network", Done: 20 * time.Second, Trouble: "no answer from a DHCP server yet"})
	for _, c := range []struct{ name, address, stages string }{
		{name: "before the network answers", stages: "tpm 1500 , network 20000 no answer from a DHCP server yet"},
		{name: "when it came late", address: "192.0.2.7", stages: "tpm 1500 , network 20000 "},
		{name: "when it is lost again", address: "", stages: "tpm 1500 , network 20000 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			d.setAddress(c.address)
			status, err := d.Status(t.Context(), &api.DeviceStatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var stages []string
			for _, s := range status.Stages {
				stages = append(stages, fmt.Sprintf("%s %d %s", s.Name, s.DoneMs, s.Trouble))
			}
			if got := strings.Join(stages, ", "); got != c.stages || status.Address != c.address {
				t.Errorf("address %q, stages %q; want %q, %q", status.Address, got, c.address, c.stages)
			}
			if s := status.Services[0]; s.Name != "init" || int(s.Pid) != os.Getpid() || s.MemoryKib == 0 {
				t.Errorf("first service %v", s)
			}
		})
	}
}

func TestLogsGivesAsManyLinesAsAskedFor(t *testing.T) {
	d, log := testDevice()
	for i := range 120 {
		log.Say("stage", "line %d", i)
	}
	for asked, want := range map[uint32]int{0: 50, 1: 1, 100: 100, 4000000000: 120} {
		reply, err := d.Logs(t.Context(), &api.LogsRequest{Lines: asked})
		if err != nil {
			t.Fatal(err)
		}
		if got := len(reply.Lines); got != want || !strings.HasSuffix(reply.Lines[got-1], "line 119") {
			t.Errorf("asked for %d: %d lines, want %d", asked, got, want)
		}
	}
}

func TestPowerOffPassesOnWhatWasAsked(t *testing.T) {
	for _, restart := range []bool{false, true} {
		d, log := testDevice()
		asked := make(chan bool, 1)
		d.powerOff = func(restart bool) { asked <- restart }
		ctx := api.WithCaller(t.Context(), api.Caller{UID: api.UIDConsole})
		if _, err := d.PowerOff(ctx, &api.PowerOffRequest{Restart: restart}); err != nil {
			t.Fatal(err)
		}
		if got := <-asked; got != restart {
			t.Errorf("restart %v became %v", restart, got)
		}
		if line := log.Last(1)[0]; !strings.HasSuffix(line, "asked for by user 105") {
			t.Errorf("log %q", line)
		}
	}
}

func TestAnImageWithoutModulesIsFine(t *testing.T) {
	if err := loadModules(t.TempDir(), func(string, ...any) {}); err != nil {
		t.Error(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/"+ModulesList, []byte("gone.ko\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := loadModules(dir, func(string, ...any) {}); err == nil || !strings.Contains(err.Error(), "gone.ko") {
		t.Errorf("a listed module that is missing: %v", err)
	}
}
