package boot

import (
	"fmt"
	"strings"
	"testing"

	"hearth/initramfs/supervise"
)

func TestParseParameters(t *testing.T) {
	for _, c := range []struct {
		name, line string
		want       Parameters
	}{
		{name: "an empty line", line: "\n", want: Parameters{Baud: 115200}},
		{
			name: "everything, among the kernel's own words",
			line: "console=ttyAMA0,115200 quiet hearth.seed=https://10.0.2.2:22100/json_rpc hearth.seed-pin=00ff hearth.gateway=127.0.0.0/8=10.0.2.2 hearth.public=127.0.200.1:22300 panic=-1\n",
			want: Parameters{
				Seed: "https://10.0.2.2:22100/json_rpc", SeedPin: "00ff", Gateway: "127.0.0.0/8=10.0.2.2",
				Public: "127.0.200.1:22300", Serial: "ttyAMA0", Baud: 115200,
			},
		},
		{
			name: "a ledger", line: "hearth.ledger=/etc/genesis.json hearth.peer=ab@192.0.2.7:22022,cd@192.0.2.8:22022 hearth.trust=hearth-1:4711:ef",
			want: Parameters{Ledger: "/etc/genesis.json", Peers: "ab@192.0.2.7:22022,cd@192.0.2.8:22022", Trust: "hearth-1:4711:ef", Baud: 115200},
		},
		{name: "time servers", line: "hearth.ntp=10.0.2.2:1123,time.example.org", want: Parameters{NTP: "10.0.2.2:1123,time.example.org", Baud: 115200}},
		{name: "developer mode", line: "hearth.developer", want: Parameters{Developer: true, Baud: 115200}},
		{name: "developer mode, in other words", line: "hearth.developer=no hearth.developer=yes", want: Parameters{Developer: true, Baud: 115200}},
		{name: "the speed with parity and bits behind it", line: "console=ttyS0,9600n8", want: Parameters{Serial: "ttyS0", Baud: 9600}},
		{name: "the last of several consoles", line: "console=ttyS1 console=ttyS0,57600", want: Parameters{Serial: "ttyS0", Baud: 57600}},
		{name: "a console that is no serial line", line: "console=hvc0 console=ttyS0 console=null", want: Parameters{Serial: "ttyS0", Baud: 115200}},
		{name: "a serial line of its own", line: "hearth.serial=/dev/ttyGS0 console=ttyS0", want: Parameters{Serial: "ttyGS0", Baud: 115200}},
		{name: "no way out of /dev", line: "hearth.serial=../data/x console=ttyS0/../sda", want: Parameters{Baud: 115200}},
		{name: "a speed that is none", line: "console=ttyS0,fast", want: Parameters{Serial: "ttyS0", Baud: 115200}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ParseParameters(c.line, func(string, ...any) {}); got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestDeveloperModeIsOnOnlyInClearWords(t *testing.T) {
	for value, on := range map[string]bool{
		"": true, "=1": true, "=yes": true, "=true": true,
		"=": false, "=0": false, "=n": false, "=no": false, "=off": false, "=false": false, "=2": false, "=YES": false, "=1,": false,
	} {
		word := "hearth.developer" + value
		var said []string
		p := ParseParameters("hearth.developer "+word, func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) })
		if p.Developer != on {
			t.Errorf("%s: developer mode %v", word, p.Developer)
		}
		if on && len(said) > 0 || !on && (len(said) != 1 || !strings.HasPrefix(said[0], word+": ")) {
			t.Errorf("%s: it said %q", word, said)
		}
	}
}

func FuzzParseParameters(f *testing.F) {
	f.Add("console=ttyS0,115200 hearth.developer=1 hearth.serial=x")
	f.Add("console=tty,99999999999999999999 =")
	f.Fuzz(func(t *testing.T, line string) {
		p := ParseParameters(line, func(string, ...any) {})
		if p.Baud <= 0 || strings.Contains(p.Serial, "/") {
			t.Errorf("%+v", p)
		}
	})
}

func TestServices(t *testing.T) {
	full := Parameters{Seed: "https://s/json_rpc", SeedPin: "ab", Gateway: "127.0.0.0/8=10.0.2.2", Public: "127.0.200.1:22300", Serial: "ttyS0", Baud: 9600}
	for _, c := range []struct {
		name          string
		p             Parameters
		serial, panel string
		want          string // names and what must be among the arguments
	}{
		{
			name: "a full appliance", p: full, serial: "/dev/ttyS0", panel: "/dev/vport1p1",
			want: "panel|-virtual /dev/vport1p1;console|-serial /dev/ttyS0 -baud 9600;" +
				"vault|-tpm /dev/tpmrm0 -api /run/hearth/vault/vault.sock;" +
				"node|-public 127.0.200.1:22300 -vault /run/hearth/vault.sock -api /run/hearth/node/node.sock -gateway 127.0.0.0/8=10.0.2.2 -seed https://s/json_rpc -seed-pin ab;" +
				"messenger|-node /run/hearth/node.sock -api /run/hearth/messenger/messenger.sock -seed https://s/json_rpc -seed-pin ab -gateway 127.0.0.0/8=10.0.2.2",
		},
		{
			name: "a node on a ledger asks no seed, and its messenger does",
			p: Parameters{Seed: "https://s/json_rpc", SeedPin: "ab", Gateway: "127.0.0.0/8=10.0.2.2", Public: "192.0.2.7:22021",
				Ledger: "/etc/genesis.json", Peers: "cd@192.0.2.8:22022", Trust: "hearth-1:4711:ef"},
			want: "vault|;" +
				"node|-api /run/hearth/node/node.sock -gateway 127.0.0.0/8=10.0.2.2 -ledger /etc/genesis.json -peer cd@192.0.2.8:22022 -join hearth-1:4711:ef;" +
				"messenger|-api /run/hearth/messenger/messenger.sock -seed https://s/json_rpc -seed-pin ab -gateway 127.0.0.0/8=10.0.2.2 -trust hearth-1:4711:ef",
		},
		{
			name: "a ledger that only the messenger uses",
			p:    Parameters{Seed: "https://s/json_rpc", SeedPin: "ab", Trust: "hearth-1:4711:ef"},
			want: "vault|;messenger|-seed https://s/json_rpc -seed-pin ab -trust hearth-1:4711:ef",
		},
		{name: "neither screen nor serial line nor network", p: Parameters{}, want: "vault|;messenger|"},
		{name: "developer mode", p: Parameters{Developer: true}, want: "vault|-developer;messenger|"},
	} {
		t.Run(c.name, func(t *testing.T) {
			quiet := func(string, ...any) {}
			list := append(screenServices(c.p, c.serial, c.panel), keyServices(c.p, quiet)...)
			wanted := strings.Split(c.want, ";")
			if len(list) != len(wanted) {
				t.Fatalf("%d services, want %d", len(list), len(wanted))
			}
			users := make(map[uint32]bool)
			for i, s := range list {
				name, args, _ := strings.Cut(wanted[i], "|")
				if s.Name != name || s.Args[0] != "hearth" || s.Args[1] != name || !strings.Contains(strings.Join(s.Args, " "), args) {
					t.Errorf("service %d: %s %q, want %s with %q", i, s.Name, s.Args, name, args)
				}
				if s.UID == 0 || s.GID != s.UID || users[s.UID] {
					t.Errorf("%s runs as user %d, group %d", s.Name, s.UID, s.GID)
				}
				users[s.UID] = true
				checkEnvironment(t, s, c.p.Developer)
			}
		})
	}
}

func checkEnvironment(t *testing.T, s supervise.Service, developer bool) {
	t.Helper()
	env := strings.Join(s.Env, " ")
	trace := "GOTRACEBACK=none"
	if developer {
		trace = "GOTRACEBACK=single"
	}
	if !strings.Contains(env, trace) || !strings.Contains(env, "GOMEMLIMIT=") {
		t.Errorf("%s has the environment %s", s.Name, env)
	}
}
