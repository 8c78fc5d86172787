package devnet_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hearth/build/devnet"
	"hearth/node/api"
)

// The test below kills the real messenger process at random moments, while two
// people write to each other without a pause. HEARTH_KILLS says how often; a few
// times a second is what a machine manages. The vault is another process, which
// lives on: like a TPM, it would count what is cut off while it tries a PIN.
//
// SIGKILL leaves the process no moment to do anything, but leaves what it gave to
// the kernel: it shows that every step on the disk is one that can be gone on from.
// That what was synced is on the disk is the file system's promise.
const usualKills = 25

func kills(t testing.TB) int {
	text := os.Getenv("HEARTH_KILLS")
	if text == "" {
		return usualKills
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("HEARTH_KILLS is %q, which is no number of kills", text)
	}
	return n
}

// victim is one person whose messenger is killed all the time.
type victim struct {
	t       testing.TB
	name    string
	file    string // the program
	dir     string
	network []string // flags that say where the seed is
	id      string
	pin     string
	random  *rand.Rand
	written int // messages begun

	mu       sync.Mutex
	promised map[string]bool // text to: shown as stored, not only written down
	events   map[string]int  // received texts, as announced
	struck   map[string]int  // kills by what the messenger was doing
}

// life is one run of the program.
type life struct {
	cmd    *exec.Cmd
	said   bytes.Buffer
	conn   *grpc.ClientConn
	client api.MessengerClient
}

// newVictim gives somebody a vault of their own.
func newVictim(t testing.TB, name, file string, network []string, seed uint64) *victim {
	v := &victim{t: t, name: name, file: file, dir: shortDir(t), network: network, pin: "271828",
		random:   rand.New(rand.NewPCG(seed, seed)),
		promised: make(map[string]bool), events: make(map[string]int), struck: make(map[string]int)}
	vault := exec.Command(file, "vault", "-developer", "-dir", filepath.Join(v.dir, "vault"), "-api", filepath.Join(v.dir, "vault.sock"))
	if err := vault.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vault.Process.Kill(); vault.Wait() })
	conn, err := api.Dial(filepath.Join(v.dir, "vault.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := api.NewVaultClient(conn).Status(t.Context(), &api.VaultStatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return v
}

// start runs the program. It does not wait for anything.
func (v *victim) start() *life {
	l := &life{cmd: exec.Command(v.file, append([]string{"messenger", "-dir", v.dir, "-vault", filepath.Join(v.dir, "vault.sock"),
		"-api", filepath.Join(v.dir, "messenger.sock"), "-poll", "200ms"}, v.network...)...)}
	l.cmd.Stdout, l.cmd.Stderr = &l.said, &l.said
	err := l.cmd.Start()
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { l.cmd.Process.Kill() }) // for a test that ends early
	if l.conn, err = api.Dial(filepath.Join(v.dir, "messenger.sock")); err != nil {
		v.t.Fatal(err)
	}
	l.client = api.NewMessengerClient(l.conn)
	return l
}

// leave ends the program in order.
func (l *life) leave(t testing.TB) {
	t.Helper()
	l.cmd.Process.Signal(syscall.SIGTERM)
	if err := l.end(); err != nil {
		t.Errorf("%v\n%s", err, l.said.String())
	}
}

// end waits for the program.
func (l *life) end() error {
	err := l.cmd.Wait()
	l.conn.Close()
	return err
}

func (v *victim) open(ctx context.Context, l *life) error {
	for {
		_, err := l.client.Unlock(ctx, &api.UnlockRequest{Pin: v.pin}, grpc.WaitForReady(true))
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "Unavailable") {
			return err
		}
	}
}

// work writes to somebody, and reads, until the program is gone. doing says what it
// is at.
func (v *victim) work(ctx context.Context, l *life, to string, doing func(string)) {
	doing("starting")
	if v.open(ctx, l) != nil {
		return
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	stream, err := l.client.Events(ctx, &api.EventsRequest{})
	if err != nil {
		return
	}
	wait.Go(func() {
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			if m := e.GetReceived(); m != nil {
				v.mu.Lock()
				v.events[m.Text]++
				v.mu.Unlock()
			}
		}
	})
	for i := v.random.IntN(8); ; i++ {
		v.written++
		text := fmt.Sprintf("%s %d", v.name, v.written)
		var reply *api.SendReply
		switch {
		case i%12 == 5:
			doing("sending a file")
			reply, err = v.sendFile(ctx, l, to, text)
		default:
			doing("sending")
			reply, err = l.client.Send(ctx, &api.SendRequest{To: to, Text: text})
		}
		if err == nil {
			v.mu.Lock()
			v.promised[text] = reply.State == api.Message_STORED
			v.mu.Unlock()
		}
		if err == nil && i%6 == 3 {
			doing("reacting")
			_, err = l.client.React(ctx, &api.ReactRequest{With: to, Id: reply.Id, Emoji: "👍"})
		}
		if err == nil && i%8 == 7 {
			doing("reading")
			_, err = l.client.Messages(ctx, &api.MessagesRequest{With: to, MarkRead: true})
		}
		if err != nil {
			return
		}
		doing("between")
		select {
		case <-time.After(time.Duration(v.random.IntN(20)) * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

func (v *victim) sendFile(ctx context.Context, l *life, to, text string) (*api.SendReply, error) {
	stream, err := l.client.SendFile(ctx)
	if err != nil {
		return nil, err
	}
	head := &api.FileHead{To: to, Name: text + ".bin", Text: text}
	_ = stream.Send(&api.SendFileRequest{Part: &api.SendFileRequest_Head{Head: head}})
	_ = stream.Send(&api.SendFileRequest{Part: &api.SendFileRequest_Data{Data: []byte(strings.Repeat(text, 500))}})
	return stream.CloseAndRecv()
}

// live runs the program once and kills it at a random moment.
func (v *victim) live(ctx context.Context, to string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := v.start()
	// Every third moment lies anywhere from the start on, where what was left is taken
	// up again; the others, when the account is open, however long that took.
	wait, moment := make(chan struct{}), v.random.Int64N(int64(600*time.Millisecond))
	open := sync.OnceFunc(func() { close(wait) })
	if v.random.IntN(3) == 0 {
		open()
	}
	var mu sync.Mutex
	at := ""
	var working sync.WaitGroup
	working.Go(func() {
		defer open()
		v.work(ctx, l, to, func(what string) {
			if what != "starting" {
				open()
			}
			mu.Lock()
			at = what
			mu.Unlock()
		})
	})
	<-wait
	select {
	case <-time.After(time.Duration(moment)):
	case <-ctx.Done():
	}
	mu.Lock()
	v.struck[at]++
	mu.Unlock()
	l.cmd.Process.Kill()
	err := l.end()
	if status, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		v.t.Errorf("%s ended by itself before it was killed: %v\n%s", v.name, err, l.said.String())
	}
	cancel()
	working.Wait()
}

// all reads a whole conversation, page by page.
func (v *victim) all(ctx context.Context, l *life, with string) (list []*api.Message) {
	v.t.Helper()
	before := uint64(0)
	for {
		reply, err := l.client.Messages(ctx, &api.MessagesRequest{With: with, Limit: 200, Before: before})
		if err != nil {
			v.t.Fatal(err)
		}
		if len(reply.Messages) == 0 {
			return list
		}
		list = append(list, reply.Messages...)
		before = slices.MinFunc(reply.Messages, func(x, y *api.Message) int { return int(int64(x.Id) - int64(y.Id)) }).Id
		if before == 1 {
			return list
		}
	}
}

// settled waits until nothing waits any more.
func settled(ctx context.Context, t testing.TB, l *life) {
	t.Helper()
	for {
		st, err := l.client.State(ctx, &api.StateRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if st.Waiting == 0 && !st.Connecting {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("messages still wait: %v", st)
		}
	}
}

func TestNothingIsLostOrDoubledWhenTheProgramIsKilledAtRandomMoments(t *testing.T) {
	t.Parallel() // it mostly waits
	total := kills(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(total)*2*time.Second)
	defer cancel()
	n, err := devnet.Start(ctx, devnet.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	file := program(t)
	network := []string{"-seed", n.SeedURL(), "-seed-pin", fmt.Sprintf("%x", n.Pin())}
	people := []*victim{newVictim(t, "alice", file, network, 1), newVictim(t, "bob", file, network, 2)}
	for _, v := range people {
		l := v.start()
		st, err := l.client.Create(ctx, &api.CreateRequest{Pin: v.pin}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		v.id = st.SessionId
		l.leave(t)
	}
	for i, v := range people {
		l := v.start()
		if err := v.open(ctx, l); err != nil {
			t.Fatal(err)
		}
		if _, err := l.client.AddContact(ctx, &api.AddContactRequest{SessionId: people[1-i].id}); err != nil {
			t.Fatal(err)
		}
		l.leave(t)
	}

	began := time.Now()
	var wait sync.WaitGroup
	for i, v := range people {
		wait.Go(func() {
			for range (total + 1 - i) / 2 {
				if ctx.Err() != nil {
					return
				}
				v.live(ctx, people[1-i].id)
			}
		})
	}
	wait.Wait()
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}
	took := time.Since(began)

	// Now both live on. What each has written down is what the other must have.
	lives := make([]*life, len(people))
	for i, v := range people {
		lives[i] = v.start()
		if err := v.open(ctx, lives[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range lives {
		settled(ctx, t, l)
	}
	const end = "the end"
	for i, l := range lives {
		if reply, err := l.client.Send(ctx, &api.SendRequest{To: people[1-i].id, Text: end}); err != nil || reply.State != api.Message_STORED {
			t.Fatalf("%v, %v", reply, err)
		}
	}
	lost, doubled, sent := 0, 0, 0
	for i, v := range people {
		other, theirs := people[1-i], lives[1-i]
		wrote := make(map[string]int)
		for _, m := range v.all(ctx, lives[i], other.id) {
			if m.Outgoing {
				wrote[m.Text]++
				if m.State != api.Message_STORED {
					lost++
					t.Errorf("%q of %s: %v", m.Text, v.name, m.State)
				}
			}
		}
		got := received(ctx, other, theirs, v.id, wrote)
		for text, sure := range v.promised {
			if wrote[text] == 0 {
				lost++
				t.Errorf("%q was shown to %s (as stored: %t), and is gone", text, v.name, sure)
			}
		}
		for text, n := range wrote {
			sent++
			if got[text] == 0 {
				lost++
				t.Errorf("%q never came to %s", text, other.name)
			}
			if n > 1 || got[text] > 1 || other.events[text] > 1 {
				doubled++
				t.Errorf("%q is %d times with %s, %d times with %s, and was announced %d times", text, n, v.name, got[text], other.name, other.events[text])
			}
		}
		for text := range got {
			if wrote[text] == 0 {
				doubled++
				t.Errorf("%q came to %s and %s knows nothing of it", text, other.name, v.name)
			}
		}
	}
	for _, l := range lives {
		l.leave(t)
	}
	struck := people[0].struck
	for what, n := range people[1].struck {
		struck[what] += n
	}
	t.Logf("%d kills in %v, while %v: %d messages, %d lost, %d doubled", total, took.Round(time.Second/10), struck, sent, lost, doubled)
	if sent < total/2 {
		t.Errorf("only %d messages were sent", sent)
	}
	if n := struck["sending"] + struck["sending a file"]; n == 0 {
		t.Error("nobody was killed while sending")
	}
}

// received reads what somebody has got, once all of it is there, or after a while.
// Whatever would come twice comes before the last word.
func received(ctx context.Context, v *victim, l *life, from string, want map[string]int) map[string]int {
	v.t.Helper()
	late := time.After(30 * time.Second)
	for {
		got := make(map[string]int)
		for _, m := range v.all(ctx, l, from) {
			if !m.Outgoing {
				got[m.Text]++
			}
		}
		complete := true
		for text := range want {
			complete = complete && got[text] > 0
		}
		if complete {
			return got
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-late:
			return got
		}
	}
}
