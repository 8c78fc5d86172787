package boot

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

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
			reply, err := d.Status(t.Context(), &api.DeviceStatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var stages []string
			for _, s := range reply.Stages {
				stages = append(stages, fmt.Sprintf("%s %d %s", s.Name, s.DoneMs, s.Trouble))
			}
			if got := strings.Join(stages, ", "); got != c.stages || reply.Address != c.address {
				t.Errorf("address %q, stages %q; want %q, %q", reply.Address, got, c.address, c.stages)
			}
			if s := reply.Services[0]; s.Name != "init" || int(s.Pid) != os.Getpid() || s.MemoryKib == 0 {
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

// calledBy serves d to a caller and returns the client.
func calledBy(t *testing.T, d *device, uid uint32) api.DeviceClient {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, callerStream{stream, api.WithCaller(stream.Context(), api.Caller{UID: uid})})
	}))
	api.RegisterDeviceServer(server, d)
	go server.Serve(l)
	conn, err := grpc.NewClient("passthrough:///device", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
	})
	return api.NewDeviceClient(conn)
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s callerStream) Context() context.Context { return s.ctx }

// writes is a serial line; one Write is one line.
type writes chan string

func (w writes) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestTheConsoleTakesTheLogOverAndGivesItBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d, log := testDevice()
	serial := make(writes, 10)
	go log.Attach(ctx, serial)
	log.Say("stage", "before")
	if got := <-serial; got != "[   0.000] stage: before\r\n" {
		t.Errorf("written %q", got)
	}
	for _, uid := range []uint32{api.UIDPanel, 1000} {
		stream, err := calledBy(t, d, uid).Follow(ctx)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("user %d: %v", uid, err)
		}
	}

	streamCtx, crash := context.WithCancel(ctx)
	stream, err := calledBy(t, d, api.UIDConsole).Follow(streamCtx)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := stream.Header(); err != nil || h == nil {
		t.Fatalf("header %v, %v", h, err)
	}
	for _, text := range []string{"one", "two"} {
		log.Say("stage", "%s", text)
		if line, err := stream.Recv(); err != nil || line.Text != "[   0.000] stage: "+text {
			t.Errorf("line %v, %v", line, err)
		}
	}
	if err := stream.Send(&api.FollowRequest{}); err != nil { // "one" is on the line
		t.Fatal(err)
	}
	log.Say("stage", "three")
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if len(serial) > 0 {
		t.Errorf("written past the console: %q", <-serial)
	}
	crash()
	got := strings.TrimPrefix(<-serial, "\r\n")
	if strings.HasSuffix(got, "one\r\n") { // the confirmation may be lost with the stream
		got = <-serial
	}
	if got += <-serial; got != "[   0.000] stage: two\r\n[   0.000] stage: three\r\n" {
		t.Errorf("after the console's end: %q", got)
	}
}

func TestPowerOffWaitsForThoseWhoWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, log := testDevice()
		p := &power{log: log, services: d.services, background: newTasks()}
		written := false
		p.background.Go(func(ctx context.Context) {
			<-ctx.Done()
			time.Sleep(goodbye - time.Second) // a slow card
			written = true
		})
		p.quiet()
		if !written {
			t.Error("it did not wait")
		}
		p.background.Go(func(context.Context) { t.Error("something new was begun") })
		synctest.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		d, log := testDevice()
		p := &power{log: log, services: d.services, background: newTasks()}
		forever := make(chan struct{})
		p.background.Go(func(context.Context) { <-forever })
		p.quiet()
		if line := log.Last(1)[0]; !strings.Contains(line, "still at work") {
			t.Errorf("log %q", line)
		}
		close(forever)
	})
}

func TestASearchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if poll(ctx, time.Hour, func() bool { return false }) {
			t.Error("it found something")
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it searched for %v", took)
		}
	})
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
