package console

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
	"hearth/ui/devicetest"
)

var update = flag.Bool("update", false, "write the transcripts in testdata anew")

// user sits at the other end of the line.
type user struct {
	t      testing.TB
	ctx    context.Context
	typing *io.PipeWriter
	done   chan error
	log    *bytes.Buffer

	mu     sync.Mutex
	screen *screen
	output []byte
	change chan struct{}
}

type line struct {
	io.Reader
	io.Writer
}

// Write is what the console writes to.
func (u *user) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.screen.write(b)
	u.output = append(u.output, b...)
	close(u.change)
	u.change = make(chan struct{})
	return len(b), nil
}

func sit(t testing.TB, s *devicetest.Services, change func(*Config)) *user {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	u := &user{t: t, ctx: ctx, screen: newScreen(), change: make(chan struct{}), done: make(chan error, 1), log: &bytes.Buffer{}}
	cfg := Config{
		Now: func() time.Time { return time.UnixMilli(devicetest.Minute) },
		Log: slog.New(slog.NewTextHandler(u.log, nil)),
	}
	cfg.Messenger, cfg.Node, cfg.Device = s.Clients()
	if change != nil {
		change(&cfg)
	}
	reader, typing := io.Pipe()
	u.typing = typing
	go func() { u.done <- New(cfg).Run(ctx, line{reader, u}) }()
	return u
}

// leave ends the input and waits for the console.
func (u *user) leave() {
	u.t.Helper()
	u.typing.Close()
	select {
	case err := <-u.done:
		if err != nil {
			u.t.Errorf("Run: %v", err)
		}
	case <-u.ctx.Done():
		u.t.Fatal("the console did not end")
	}
	u.screen.check(u.t)
}

func (u *user) key(keys string) {
	u.t.Helper()
	if _, err := u.typing.Write([]byte(keys)); err != nil {
		u.t.Fatal(err)
	}
}

// wait waits for a state of the screen.
func (u *user) wait(what string, ok func(lines []string) bool) {
	u.t.Helper()
	for {
		u.mu.Lock()
		yes, change, now := ok(u.screen.text()), u.change, strings.Join(u.screen.text(), "\n")
		u.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-change:
		case <-u.ctx.Done():
			u.t.Fatalf("no %s on the screen:\n%s", what, now)
		}
	}
}

// waitPrompt waits for a prompt below line number from and gives that line's
// number.
func (u *user) waitPrompt(from int) int {
	u.t.Helper()
	var at int
	u.wait("prompt", func(lines []string) bool {
		at = len(lines)
		return len(lines) > from && u.screen.atPrompt()
	})
	return at
}

func (u *user) lines(from, to int) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.screen.text()[from:to])
}

func (u *user) seen() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return string(u.output)
}

// A transcript in testdata is what stands on the screen, with
//
//	# a remark, and
//	! a directive: something happens to the device, see happen
//	PIN: <<123456>>  for what is typed and not echoed
//
// Directives before the first prompt happen before the console starts.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, strings.Split(strings.TrimRight(string(want), "\n"), "\n"))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("the screen is another (go test ./ui/console -update writes the transcripts anew):\n%s", difference(string(want), got))
			}
		})
	}
}

func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			g = append(g, "(the end)")
			return fmt.Sprintf("line %d\n want %q\n got  %q", i+1, w[i], g[min(i, len(g)-1)])
		}
	}
	return fmt.Sprintf("more than wanted: %q", g[len(w):])
}

var prompts = []string{Prompt, "PIN: ", "New PIN: ", "The same PIN again: ", "Switch the device off? Type yes: ", "Restart the device? Type yes: ",
	"The 13 words: ", "The code that `link` shows on the other device: ", "Type wipe to go on: ", "Type yes to go on: ", "Wipe this device all the same? Type yes: "}

// typed finds the input in a line of a transcript.
func typed(line string) (prompt, keys string, secret, ok bool) {
	for _, p := range prompts {
		if rest, found := strings.CutPrefix(line, p); found {
			if inner, found := strings.CutPrefix(rest, "<<"); found {
				return p, strings.TrimSuffix(inner, ">>"), true, true
			}
			return p, rest, false, true
		}
	}
	return "", "", false, false
}

func replay(t *testing.T, script []string) string {
	services := devicetest.Start(t)
	var out []string
	for len(script) > 0 && (strings.HasPrefix(script[0], "#") || strings.HasPrefix(script[0], "!")) {
		if directive, ok := strings.CutPrefix(script[0], "! "); ok {
			happen(t, services, directive)
		}
		out = append(out, script[0])
		script = script[1:]
	}
	u := sit(t, services, nil)
	prompt := u.waitPrompt(0) // number of lines, the last one being the prompt
	out = append(out, u.lines(0, prompt-1)...)
	for _, line := range script {
		if strings.HasPrefix(line, "#") {
			out = append(out, line)
			continue
		}
		if directive, ok := strings.CutPrefix(line, "! "); ok {
			out = append(out, line)
			if happen(t, services, directive) {
				before := prompt
				prompt = u.waitPrompt(before)
				out = append(out, u.lines(before-1, prompt-1)...)
			}
			continue
		}
		wanted, keys, secret, ok := typed(line)
		if !ok {
			continue // output, compared at the end
		}
		if now := u.lines(prompt-1, prompt)[0]; now != wanted {
			t.Fatalf("the prompt is %q where the transcript has %q", now, line)
		}
		u.key(keys + "\r")
		before := prompt
		prompt = u.waitPrompt(before)
		shown := u.lines(before-1, prompt-1)
		if secret {
			if shown[0] != wanted {
				t.Errorf("%q was shown while a PIN was typed", shown[0])
			}
			shown[0] = line
		}
		out = append(out, shown...)
	}
	u.leave()
	return strings.Join(out, "\n") + "\n"
}

// happen does one directive and tells whether it shows on the console.
func happen(t *testing.T, s *devicetest.Services, directive string) (shows bool) {
	word, rest, _ := strings.Cut(directive, " ")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	switch word {
	case "open": // an account and a friend
		s.Open()
	case "locked":
		s.Change(func() {
			s.State = &api.MessengerState{Account: api.MessengerState_LOCKED, TriesLeft: 5}
			s.PIN = "123456"
		})
	case "developer":
		s.Change(func() { s.State.Developer, s.Device.Developer = true, true })
	case "down", "up": // a service goes or comes
		s.Change(func() { s.Down[rest] = word == "down" })
	case "fail": // METHOD TEXT
		method, text, _ := strings.Cut(rest, " ")
		s.Change(func() { s.Fail[method] = status.Error(codes.FailedPrecondition, text) })
	case "forgetful": // a node of the own swarm does not confirm that it deleted everything
		s.Change(func() { s.Unwiped = 1 })
	case "clock": // SECONDS that the network is ahead
		off, err := strconv.ParseInt(rest, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", directive, err)
		}
		s.Change(func() { s.State.ClockOff = off })
	case "unready":
		s.Change(func() { s.Node.Ready, s.Node.Trouble, s.Node.Swarm = false, rest, "" })
	case "tested": // this node by others, the others by it, and they keep files
		s.Change(func() {
			s.Node.Reachable, s.Node.Failing, s.Node.Heard, s.Node.ReachTrouble = 9, 1, devicetest.Minute-4000, rest
			s.Node.Files, s.Node.FileBytes, s.Node.FileQuota = 3, 1_234_567, 2<<30
			s.Peers[1].Since, s.Peers[1].Failures, s.Peers[1].Trouble = devicetest.Minute-185_000, 7, "link"
		})
	case "running": // services, stages and a log, as PID 1 tells them
		s.Change(func() {
			s.Device.Services = []*api.Service{{Name: "vault", Pid: 71, MemoryKib: 9216}, {Name: "node", Pid: 72, MemoryKib: 23040, Restarts: 1, Trouble: "signal: killed"}, {Name: "panel"}}
			s.Device.Stages = []*api.Stage{{Name: "mounts", DoneMs: 410}, {Name: "clock", DoneMs: 2210, Trouble: "no answer from a time server"}}
			s.Logs = []string{"0.41 mounts done", "2.21 clock: no answer", "2.50 node: \x1b[2Jready"}
			s.Peers = []*api.Peer{{Ed25519: strings.Repeat("a1", 32), Address: "127.0.1.1:22101", Swarm: "7fffffffffffffff", OwnSwarm: true}, {Ed25519: strings.Repeat("b2", 32), Address: "127.0.2.1:22102", Swarm: "4"}}
		})
	case "receive": // FROM "TEXT", as Go writes it
		from, quoted, _ := strings.Cut(rest, " ")
		text, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", directive, err)
		}
		if from == "Bob" {
			from = devicetest.Bob
		}
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Receive(from, text)
		return true
	case "device": // NAME of one that comes to the account
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Arrive(rest)
		return true
	case "request": // NAME "TEXT"
		name, quoted, _ := strings.Cut(rest, " ")
		text, err := strconv.Unquote(quoted)
		if err != nil {
			t.Fatalf("%s: %v", directive, err)
		}
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Request(name, text)
		return true
	case "offline", "online": // messages wait, or the waiting ones go out
		s.Change(func() { s.Waits = word == "offline" })
	case "stored", "failed", "liked", "unsent", "seen": // NUMBER, of a message with Bob
		number, err := strconv.ParseUint(rest, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", directive, err)
		}
		change := map[string]api.Update_Change{"stored": api.Update_STATE, "failed": api.Update_STATE, "liked": api.Update_REACTION, "unsent": api.Update_UNSENT, "seen": api.Update_READ}[word]
		s.Update(devicetest.Bob, number, change, func(m *api.Message) {
			switch word {
			case "stored":
				m.State, m.Stored, m.Swarm = api.Message_STORED, 2, 3
			case "failed":
				m.State, m.Failure = api.Message_FAILED, "the service nodes refuse it"
			case "liked":
				m.Reactions = append(m.Reactions, &api.Reaction{Emoji: "🥰"})
			case "unsent":
				m.Text, m.Deleted = "", true
			case "seen":
				m.State = api.Message_SEEN
			}
		})
		return word != "seen"
	case "typing":
		s.Tell(&api.Event{Event: &api.Event_Typing{Typing: &api.TypingEvent{SessionId: devicetest.Bob}}})
		return true
	case "info": // TEXT
		s.Tell(&api.Event{Event: &api.Event_Info{Info: &api.Message{SessionId: devicetest.Bob, Kind: api.Message_SCREENSHOT, Text: rest}}})
		return true
	case "rich": // a message from Bob with everything that can come with one
		s.Change(func() {
			s.Messages = append(s.Messages, &api.Message{SessionId: devicetest.Bob, Id: 90, Text: "look\nhere", Timestamp: devicetest.Minute + 3_600_000,
				Quote: &api.Quote{}, Attachments: []*api.Attachment{{Name: "minutes\u202etxt.exe", Type: "text/plain", Size: 59}, {Voice: true, Type: "audio/ogg", Size: 3000}},
				Preview: &api.Preview{Url: "https://example.org", Title: "An example"}, Invitation: &api.Invitation{Url: "https://open.example/room", Name: "Room"},
				Reactions: []*api.Reaction{{Emoji: "👍", Outgoing: true}, {Emoji: "🥰"}}, Expires: devicetest.Minute + 7_200_000},
				&api.Message{SessionId: devicetest.Bob, Kind: api.Message_TIMER, Outgoing: true, Text: "set messages to disappear 1 hour after sending", Timestamp: devicetest.Minute + 3_700_000})
		})
	case "invited": // a stranger wants the account in a group
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Invite(&api.Group{Id: devicetest.GroupID, Name: rest, State: api.Group_INVITED, InvitedBy: devicetest.Bob, InvitedByName: "Mallory\x1b[2J"})
		return true
	case "told": // in the group, by somebody without a name here
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		m := &api.Message{Text: rest}
		if name, ok := strings.CutPrefix(rest, "name "); ok {
			m.Kind, m.Text = api.Message_GROUP_NAME, "named the group "+name
		}
		if rest == "out" {
			m.Kind, m.Text = api.Message_GROUP_KICKED, "You were removed from the group."
			s.ReceiveInGroup(devicetest.GroupID, "", "", m)
			return true
		}
		s.ReceiveInGroup(devicetest.GroupID, devicetest.Bob, "Bob", m)
		return true
	case "connecting":
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Change(func() { s.State.Connecting = rest == "on" })
		return rest == "off" // only that is shown
	case "trouble":
		if err := s.Followed(ctx, 1); err != nil {
			t.Fatal("nobody follows the events")
		}
		s.Change(func() { s.State.Trouble = rest })
		return true
	default:
		t.Fatalf("unknown directive %q", directive)
	}
	return false
}

func TestWhatIsTypedWhileAMessageComesIsShownAgain(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, nil)
	n := u.waitPrompt(0)
	if err := s.Followed(u.ctx, 1); err != nil {
		t.Fatal(err)
	}
	u.key("send Bo")
	u.wait("echo", func(l []string) bool { return l[len(l)-1] == Prompt+"send Bo" })
	s.Receive(devicetest.Bob, "are you there?")
	u.wait("message above the line", func(l []string) bool {
		return len(l) == n+2 && l[n-1] == "* message from Bob: are you there?" && l[n+1] == Prompt+"send Bo"
	})
	u.key("b yes\r")
	u.waitPrompt(n + 2)
	s.Look(func() {
		if len(s.Sent) != 1 || s.Sent[0].GetText() != "yes" || s.Sent[0].GetTo() != "Bob" {
			t.Errorf("sent %v", s.Sent)
		}
	})
	u.leave()
	if !strings.Contains(u.log.String(), "message received") || strings.Contains(u.log.String(), "are you there") {
		t.Errorf("the log has %q", u.log)
	}
}

func TestCtrlCDuringASendSaysWhatBecameOfTheMessage(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Change(func() { s.Hang["Send"] = true })
	u := sit(t, s, nil)
	at := u.waitPrompt(0)
	if err := s.Followed(u.ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		state api.Message_State
		want  string
	}{
		{"before it was written down", api.Message_NONE, "Not sent: nothing was written down yet."},
		{"in the outbox", api.Message_WAITING, "Not waited for. It is kept in the outbox and goes out as soon as the network takes it; `unsend` takes it back."},
		{"that has just gone out", api.Message_STORED, "Not waited for, but it has gone out (stored at 2 of 3)."},
	} {
		s.Change(func() {
			s.Messages = []*api.Message{{SessionId: devicetest.Bob, Outgoing: true, Text: "hello", Id: 7, State: c.state, Stored: 2, Swarm: 3}}
			if c.state == api.Message_NONE {
				s.Messages = nil
			}
		})
		called := s.Called("Send")
		u.key("send Bob hello\r")
		select {
		case <-called:
		case <-u.ctx.Done():
			t.Fatal("nothing was sent")
		}
		u.key("\x03")
		before := at
		at = u.waitPrompt(before)
		if got := strings.Join(u.lines(before, at-1), "\n"); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	// That it goes out is told then.
	u.key("\r")
	at = u.waitPrompt(at)
	s.Update(devicetest.Bob, 7, api.Update_STATE, func(m *api.Message) { m.State = api.Message_STORED })
	u.wait("that it was sent", func(l []string) bool {
		return slices.Contains(l, "* sent to Bob; 2 of the 3 nodes of their swarm keep it")
	})
	u.leave()
}

func TestWhatAnotherDeviceHasReadIsNotAnnounced(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, nil)
	n := u.waitPrompt(0)
	if err := s.Followed(u.ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*api.Message{{SessionId: devicetest.Bob, Text: "old", Read: true}, {SessionId: devicetest.Bob, Text: "new"}} {
		s.Tell(&api.Event{Event: &api.Event_Received{Received: m}})
	}
	u.wait("new message", func(l []string) bool { return slices.Contains(l, "* message from Bob: new") })
	if got := u.lines(n-1, n)[0]; got != "* message from Bob: new" {
		t.Errorf("announced is %q", got)
	}
	u.leave()
}

func TestALogLineLeavesWhatIsTypedInPlace(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, nil)
	n := u.waitPrompt(0)
	if err := s.Followed(u.ctx, 1); err != nil { // then nothing else is about to be printed
		t.Fatal(err)
	}
	u.key("send Bo")
	u.wait("echo", func(l []string) bool { return l[len(l)-1] == Prompt+"send Bo" })
	for i, line := range []string{"[  12.345] supervisor: node runs (pid 70)", "[  12.346] node: WARN \x1b[2Jno news"} {
		if err := s.Say(u.ctx, line); err != nil {
			t.Fatal(err)
		}
		l := u.lines(0, n+1+i)
		if l[n-1+i] != strings.ReplaceAll(line, "\x1b", "␛") || l[n+i] != Prompt+"send Bo" {
			t.Errorf("the screen has\n%s", strings.Join(l, "\n"))
		}
	}
	u.key("b yes\r")
	u.waitPrompt(n + 3)
	s.Look(func() {
		if len(s.Sent) != 1 || s.Sent[0].GetText() != "yes" {
			t.Errorf("sent %v", s.Sent)
		}
	})
	u.leave()
}

func TestTheFirstPromptWaitsForTheLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*devicetest.Services)
	}{
		{"but not for a device that is not there", func(s *devicetest.Services) { s.Down["Device"] = true }},
		{"but not for one that does not answer", func(s *devicetest.Services) { s.Hang["Follow"] = true }},
		{"unless others show the log", func(s *devicetest.Services) {
			s.Fail["Follow"] = status.Error(codes.PermissionDenied, "only the console shows the log")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := devicetest.Start(t)
			c.change(s)
			u := sit(t, s, nil)
			u.waitPrompt(0)
			u.leave()
		})
	}
}

func TestAScriptFedInAtOnceLeavesAnOrdinaryTranscript(t *testing.T) {
	for _, eol := range []struct{ name, eol string }{{"CR", "\r"}, {"LF", "\n"}, {"CRLF", "\r\n"}} {
		t.Run(eol.name, func(t *testing.T) {
			s := devicetest.Start(t)
			u := sit(t, s, nil)
			u.key(strings.Join([]string{"setup", "secret-pin", "secret-pin", "contacts", ""}, eol.eol))
			u.leave()
			var got []string
			for _, l := range u.lines(0, len(u.screen.lines)) {
				if _, keys, _, ok := typed(l); ok {
					got = append(got, l)
					if strings.Contains(keys, "secret") {
						t.Errorf("the PIN is on the screen: %q", l)
					}
				}
			}
			want := []string{"hearth> setup", "New PIN: ", "The same PIN again: ", "hearth> contacts"}
			if len(got) > 0 && got[len(got)-1] == Prompt {
				got = got[:len(got)-1] // shown before the end of the input was noticed
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
			if strings.Contains(u.seen(), "secret-pin") {
				t.Error("the PIN was sent to the terminal")
			}
			if strings.Contains(u.log.String(), "secret") {
				t.Error("the PIN is in the log")
			}
			s.Look(func() {
				if s.PIN != "secret-pin" {
					t.Errorf("the PIN is %q", s.PIN)
				}
			})
		})
	}
}

func TestPlainLinesComeOutWithoutPromptAndEcho(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, func(c *Config) { c.Plain = true })
	u.key("send Bob hello\ncontacts") // without a last line end
	u.leave()
	seen := u.seen()
	if strings.ContainsAny(seen, "\r\x1b") || strings.Contains(seen, Prompt) || strings.Contains(seen, "send Bob") {
		t.Errorf("prompt, echo or control characters in %q", seen)
	}
	if !strings.Contains(seen, "Sent; 3 of the 3 nodes") || !strings.Contains(seen, devicetest.Bob+"  Bob") {
		t.Errorf("got %q", seen)
	}
}

func TestCtrlCStopsWaitingForAnAnswer(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Hang["React"] = true
	u := sit(t, s, nil)
	n := u.waitPrompt(0)
	u.key("react Bob 1 👍\r")
	u.wait("new line", func(l []string) bool { return len(l) > n })
	u.key("\x03")
	end := u.waitPrompt(n)
	if got := u.lines(n, end-1); !slices.Equal(got, []string{"Not waited for the answer."}) {
		t.Errorf("got %q", got)
	}
	u.key("uncertain\x03")
	end2 := u.waitPrompt(end)
	if got := u.lines(end-1, end2-1); !slices.Equal(got, []string{"hearth> uncertain^C"}) {
		t.Errorf("got %q", got)
	}
	u.leave()
}

func TestCtrlDLeavesOnlyWhereTheUserMay(t *testing.T) {
	s := devicetest.Start(t)
	u := sit(t, s, func(c *Config) { c.MayLeave = true })
	u.waitPrompt(0)
	u.key("\x04")
	if err := <-u.done; err != nil {
		t.Error(err)
	}
	u = sit(t, s, nil)
	n := u.waitPrompt(0)
	u.key("\x04exit\r")
	end := u.waitPrompt(n)
	if got := u.lines(n, end-1); !slices.Equal(got, []string{"There is no command \"exit\". `help` lists the commands."}) {
		t.Errorf("got %q", got)
	}
	u.leave()
}

func TestLinesThatCannotBeUsedAreRefused(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	tests := []struct {
		name, keys, answer string
		sent               int
	}{
		{"a line at the limit is a message that is too long", "send Bob " + long[:MaxLine-9] + "\r", "A message has at most 2,000 characters; this one has 8503.", 0},
		{"a line over the limit", "send Bob " + long + "\r", "That line is longer than 8,512 bytes and was not used.", 0},
		{"a line far over the limit", strings.Repeat("send Bob ", 200_000) + "\r", "That line is longer than 8,512 bytes and was not used.", 0},
		{"a line over the limit that was cleared", long + "x\x15send Bob hello\r", "Sent; 3 of the 3 nodes of their swarm keep it.", 1},
		{"bytes that are not UTF-8", "send Bob caf\xe9\r", "That line had bytes that are not UTF-8 text, so it was not used; type it again.", 0},
		{"a character cut short", "send Bob \xe2\x82\r", "That line had bytes that are not UTF-8 text, so it was not used; type it again.", 0},
		{"2,000 characters of four bytes", "send Bob " + strings.Repeat("😀", 2000) + "\r", "Sent; 3 of the 3 nodes of their swarm keep it.", 1},
		{"more than a message of characters of four bytes does not fit in a line", "send Bob " + strings.Repeat("😀", 2200) + "\r", "That line is longer than 8,512 bytes and was not used.", 0},
		{"2,000 characters", "send Bob " + strings.Repeat("é", 2000) + "\r", "Sent; 3 of the 3 nodes of their swarm keep it.", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := devicetest.Start(t)
			s.Open()
			u := sit(t, s, nil)
			u.waitPrompt(0)
			u.key(tt.keys)
			u.wait("answer", func(l []string) bool { return len(l) > 2 && l[len(l)-1] == Prompt && l[len(l)-2] == tt.answer })
			s.Look(func() {
				if len(s.Sent) != tt.sent {
					t.Errorf("%d messages were sent", len(s.Sent))
				}
			})
			u.leave()
		})
	}
}

func TestEditing(t *testing.T) {
	tests := []struct{ name, keys, sent string }{
		{"backspace erases", "send Bob helo\x08lo\r", "hello"},
		{"delete erases", "send Bob helo\x7flo\r", "hello"},
		{"backspace erases a wide character whole", "send Bob 日本語\x7f\x7f\x7fhello\r", "hello"},
		{"Ctrl-U clears the line", "send Alice oh no\x15send Bob hello\r", "hello"},
		{"Ctrl-W erases a word", "send Bob good morning \x17night\r", "good night"},
		{"a tabulator is a space", "send Bob\thello\r", "hello"},
		{"arrow keys leave no trace", "send Bob he\x1b[D\x1b[C\x1bOD\x1b[1;5Cllo\r", "hello"},
		{"a pasted title sequence leaves no trace", "send Bob hel\x1b]0;evil title\x07lo\r", "hello"},
		{"a device control string leaves no trace", "send Bob hel\x1bP$q\"p\x1b\\lo\r", "hello"},
		{"an unfinished sequence ends with the line", "send Bob hello\x1b[12\r", "hello"},
		{"an unfinished title ends with the line", "send Bob hello\x1b]0;\r", "hello"},
		{"control characters are no text", "send Bob \x00h\x01e\x0el\x1f\x0flo\r", "hello"},
		{"C1 controls are no text", "send Bob hel\u009b2J\u0085lo\r", "hel2Jlo"},
		{"direction overrides are no text", "send Bob \u202ehello\u202c\r", "hello"},
		{"joined emoji pass", "send Bob 👩\u200d🚀\r", "👩\u200d🚀"},
		{"spaces within a message stay", "send Bob a  b   c\r", "a  b   c"},
		{"arrow up brings the last line back", "xend Bob hello\x15help\rsend Bob hello\x03\x1b[A\x15send Bob hello\r", "hello"},
		{"a quoted name", "send \"Bob\" hello\r", "hello"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := devicetest.Start(t)
			s.Open()
			u := sit(t, s, nil)
			u.waitPrompt(0)
			u.key(tt.keys)
			u.wait("sent message", func(l []string) bool {
				return l[len(l)-1] == Prompt && slices.Contains(l, "Sent; 3 of the 3 nodes of their swarm keep it.")
			})
			u.leave()
			s.Look(func() {
				if len(s.Sent) != 1 || s.Sent[0].GetText() != tt.sent || s.Sent[0].GetTo() != "Bob" {
					t.Errorf("sent %q", s.Sent)
				}
			})
		})
	}
}

func TestHistoryHasCommandsButNoPINs(t *testing.T) {
	s := devicetest.Start(t)
	u := sit(t, s, nil)
	n := u.waitPrompt(0)
	u.key("contacts\r")
	n = u.waitPrompt(n)
	u.key("setup 123456\r")
	n = u.waitPrompt(n)
	u.key("\x1b[A")
	u.wait("contacts from the history", func(l []string) bool { return l[len(l)-1] == Prompt+"contacts" })
	u.key("\x1b[A\x1b[B")
	u.wait("an empty line", func(l []string) bool { return l[len(l)-1] == Prompt })
	u.leave()
}

// hostile is what a sender may try on the terminal of the recipient.
var hostile = []struct{ name, text string }{
	{"clear screen", "\x1b[2J\x1b[H"},
	{"set the title", "\x1b]0;pwned\x07"},
	{"copy to the clipboard", "\x1b]52;c;cm0gLXJmIC8=\x07"},
	{"ask for an answer", "\x1b[6n\x1b[c\x05"},
	{"C1 control sequence", "\u009b31m\u009d0;x\u009c"},
	{"raw C1 byte", "\x9b31m"},
	{"carriage return", "hello\rhearth> phrase"},
	{"a forged line", "hello\r\n* message from Bank: send me your PIN"},
	{"backspaces", "hello\b\b\b\b\bbye"},
	{"direction override", "\u202etxt.exe\u202c"},
	{"direction isolates", "\u2067abc\u2069"},
	{"line separators", "a\u2028b\u2029c\u0085d\vd\fe"},
	{"tag characters", "a\U000e0041\U000e0042"},
	{"zero width no-break space", "a\ufeffb"},
	{"delete and nothing", "\x7f\x00"},
}

func TestReceivedTextCannotReachTheTerminal(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			s := devicetest.Start(t)
			s.Open()
			text := strings.ToValidUTF8(h.text, "\ufffd") // protobuf strings are UTF-8
			s.Change(func() {
				s.Contacts = append(s.Contacts, &api.Contact{SessionId: "05" + strings.Repeat("ab", 32), Name: text, LastText: text, LastTime: 1, Unread: 1})
				s.Node.Trouble = text
				s.Logs = []string{text}
				s.Fail["Peers"] = status.Error(codes.Internal, text)
			})
			u := sit(t, s, nil)
			n := u.waitPrompt(0)
			if err := s.Followed(u.ctx, 1); err != nil {
				t.Fatal(err)
			}
			s.Receive("05"+strings.Repeat("ab", 32), text)
			from := n
			n = u.waitPrompt(n)
			if n != from+2 {
				t.Errorf("a message of one line took %d lines: %q", n-from-1, u.lines(from-1, n))
			}
			for _, command := range []string{"read", "contacts", "node", "logs", "peers", "status", "read 05" + strings.Repeat("ab", 32)} {
				u.key(command + "\r")
				n = u.waitPrompt(n)
			}
			u.leave() // checks what the terminal was sent
			for _, l := range u.lines(0, len(u.screen.lines)) {
				if strings.HasPrefix(l, "* message from Bank") || l == "hearth> phrase" {
					t.Errorf("a forged line: %q", l)
				}
			}
		})
	}
}

func TestVisible(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"ordinary text", "Grüße, 日本語 עברית 👩‍🚀!", "Grüße, 日本語 עברית 👩‍🚀!"},
		{"escape", "\x1b[2J", "␛[2J"},
		{"line breaks", "a\nb\r\nc", "a↵b↵c"},
		{"tabulator and wide spaces", "a\tb\u3000c\u00a0d", "a b c d"},
		{"C1", "\u009b", "<U+009B>"},
		{"override", "\u202e", "<U+202E>"},
		{"delete", "\x7f", "␡"},
		{"invalid UTF-8", "a\xffb", "a\ufffdb"},
		{"private use", "\ue000", "<U+E000>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := visible(tt.in); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTheConsoleFollowsTheMessengerWhenItComesBack(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Down["Messenger"] = true
	u := sit(t, s, nil)
	u.waitPrompt(0)
	s.Change(func() { s.Down["Messenger"] = false })
	u.wait("state of the account", func(l []string) bool { return slices.Contains(l, "The account is open.") })
	if err := s.Followed(u.ctx, 1); err != nil {
		t.Fatal(err)
	}
	s.Receive(devicetest.Bob, "one")
	u.wait("message", func(l []string) bool { return slices.Contains(l, "* message from Bob: one") })
	u.leave()
}

func TestRunEndsWithItsContext(t *testing.T) {
	s := devicetest.Start(t)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{}
	cfg.Messenger, cfg.Node, cfg.Device = s.Clients()
	r, w := io.Pipe()
	defer w.Close()
	done := make(chan error, 1)
	go func() { done <- New(cfg).Run(ctx, line{r, io.Discard}) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestServicesThatAreNotThereAtAll(t *testing.T) {
	conn, err := api.Dial(filepath.Join(t.TempDir(), "none.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s := devicetest.Start(t)
	u := sit(t, s, func(c *Config) {
		c.Messenger, c.Node, c.Device = api.NewMessengerClient(conn), api.NewNodeClient(conn), api.NewDeviceClient(conn)
	})
	n := u.waitPrompt(0)
	for command, want := range map[string]string{
		"contacts": "The messenger is not running yet; try `status`.",
		"peers":    "The node is not running yet; try `status`.",
		"logs":     "The device is not running yet; try `status`.",
	} {
		u.key(command + "\r")
		end := u.waitPrompt(n)
		if got := u.lines(n, end-1); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", command, got)
		}
		n = end
	}
	u.leave()
}

func FuzzConsoleInput(f *testing.F) {
	for _, seed := range []string{
		"status\r", "setup 123456\rid\rphrase\r123456\r", "send Bob hi\r\nread\r", "\x1b[A\x1b[B\x1bO\x1b]x\x1b\\", "poweroff\ryes\r",
		"\xff\xfe\x00\x1b[\x9b\xe2\x82\r", "help \x1b\r", "send \"Bob x\r", "logs 99999999999999999999\r", strings.Repeat("é", 3000) + "\r", "\x15\x17\x7f\x08\x03\x04",
	} {
		f.Add([]byte(seed))
	}
	services := devicetest.Start(f)
	services.Open()
	f.Fuzz(func(t *testing.T, keys []byte) {
		screen := newScreen()
		cfg := Config{Now: func() time.Time { return time.UnixMilli(devicetest.Minute) }}
		cfg.Messenger, cfg.Node, cfg.Device = services.Clients()
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
		defer cancel()
		if err := New(cfg).Run(ctx, line{bytes.NewReader(keys), writerFunc(screen.write)}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatalf("the console hangs after %q", keys)
		}
		screen.check(t)
		services.Look(func() {
			for _, m := range services.Sent {
				for _, r := range m.GetText() {
					if !plain(r) {
						t.Fatalf("sent %q", m.GetText())
					}
				}
			}
			services.Sent, services.Messages, services.PowerOff = nil, nil, nil
		})
	})
}

type writerFunc func([]byte)

func (w writerFunc) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}

func BenchmarkVisible(b *testing.B) {
	text := strings.Repeat("An ordinary message, with ümlauts. ", 50)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		visible(text)
	}
}
