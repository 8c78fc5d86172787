package devnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hearth/build/devnet"
	"hearth/hw/tpm/swtpmtest"
)

// program is the one program of the project.
func program(t testing.TB) string {
	t.Helper()
	file, err := devnet.Program()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// chatter is a `hearth chat` of its own and who sits at it.
type chatter struct {
	t     testing.TB
	cmd   *exec.Cmd
	types io.WriteCloser
	ended chan error

	mu   sync.Mutex
	said bytes.Buffer
	from int // what was looked at already
	more chan struct{}
}

// chat starts the program, on a terminal or on pipes.
func chat(t testing.TB, file string, terminal bool, args ...string) *chatter {
	t.Helper()
	var err error
	c := &chatter{t: t, ended: make(chan error, 1), more: make(chan struct{}, 1)}
	c.cmd = exec.Command(file, append([]string{"chat"}, args...)...)
	var output io.Reader
	if terminal {
		person, line := openPTY(t)
		c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = line, line, line
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		c.types, output = person, person
		defer line.Close()
	} else {
		if c.types, err = c.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		c.cmd.Stdout, c.cmd.Stderr = w, w
		output = r
		defer w.Close()
		t.Cleanup(func() { r.Close() })
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			n, err := output.Read(buf)
			c.mu.Lock()
			c.said.Write(buf[:n])
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
			if err != nil { // EIO at the end of a terminal
				return
			}
		}
	}()
	go func() {
		err := c.cmd.Wait()
		<-read
		c.ended <- err
		close(c.ended)
	}()
	t.Cleanup(func() { c.cmd.Process.Kill(); <-c.ended })
	return c
}

func (c *chatter) line(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c.types, text+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chatter) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said.String()
}

// shows waits until something new matches.
func (c *chatter) shows(pattern string) []string {
	c.t.Helper()
	re := regexp.MustCompile(pattern)
	late := time.After(time.Minute)
	for {
		c.mu.Lock()
		fresh := c.said.Bytes()[c.from:]
		if at := re.FindSubmatchIndex(fresh); at != nil {
			var found []string
			for i := 0; i < len(at); i += 2 {
				found = append(found, string(fresh[at[i]:at[i+1]]))
			}
			c.from += at[1]
			c.mu.Unlock()
			return found
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-late:
			c.t.Fatalf("no %q in\n%s", pattern, c.all())
		}
	}
}

// ends waits for the end of the program, in order.
func (c *chatter) ends() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(time.Minute):
		c.t.Fatalf("it does not end:\n%s", c.all())
	}
	return nil
}

// openPTY makes a terminal: the end of a person, and that of the program.
func openPTY(t testing.TB) (person, line *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var inner error
	err = raw.Control(func(fd uintptr) {
		if inner = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); inner == nil {
			number, inner = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, inner); err != nil {
		t.Fatal(err)
	}
	if line, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	return person, line
}

// shortDir is for sockets, whose paths are short.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "chat")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestTwoChatsTalk(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	folder := t.TempDir()
	n, err := devnet.Start(ctx, devnet.Config{Dir: folder})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	file, chip := program(t), swtpmtest.New(t)
	aliceDir, bobDir := shortDir(t), shortDir(t)
	sitAlice := func() *chatter {
		return chat(t, file, true, "-dir", aliceDir, "-tpm", chip.Socket, "-seed", n.SeedURL(), "-seed-pin", fmt.Sprintf("%x", n.Pin()), "-name", "Alice", "-poll", "300ms")
	}
	sitBob := func() *chatter {
		return chat(t, file, false, "-dir", bobDir, "-developer", "-devnet", folder, "-poll", "300ms")
	}

	// Alice has a terminal and a TPM, Bob is a script without one.
	alice, bob := sitAlice(), sitBob()
	alice.shows(`There is no account yet`)
	bob.shows(`DEVELOPER MODE: no TPM`)
	bob.shows(`There is no account yet`)
	alice.line("setup")
	alice.shows(`New PIN: $`)
	alice.line("271828")
	alice.shows(`The same PIN again: $`)
	alice.line("271828")
	aliceID := alice.shows(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
	bob.line("setup 314159")
	bobID := bob.shows(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
	alice.line("add " + bobID + " Bob")
	alice.shows(`Bob is ` + bobID)
	bob.line("add " + aliceID + " Alice")
	bob.shows(`Alice is ` + aliceID)
	alice.line("send Bob hello from a terminal")
	alice.shows(`Sent|waiting|[Ss]tored`)
	bob.shows(`message from .*: hello from a terminal`)
	bob.line("send " + aliceID + " hello from a pipe")
	alice.shows(`message from Bob: hello from a pipe`)

	// A second one in the same folder is refused, and says why.
	second := sitBob()
	second.shows(`another hearth chat runs in ` + regexp.QuoteMeta(bobDir))
	if err := second.ends(); err == nil {
		t.Error("the second chat in one folder ended well")
	}

	// Both end in order, one by its command and one by a signal; what is said
	// meanwhile waits.
	alice.line("exit")
	if err := alice.ends(); err != nil {
		t.Errorf("leaving: %v\n%s", err, alice.all())
	}
	bob.line("send " + aliceID + " are you asleep?")
	bob.shows(`Sent|waiting|[Ss]tored`)
	bob.line("lock")
	bob.shows(`The account is locked`)
	bob.cmd.Process.Signal(syscall.SIGTERM)
	if err := bob.ends(); err != nil {
		t.Errorf("after a signal: %v\n%s", err, bob.all())
	}
	chip.PowerCut()
	chip.PowerOn(t)
	alice = sitAlice()
	alice.shows(`The account is locked`)
	alice.line("unlock 271828")
	alice.shows(`message from Bob: are you asleep\?`)
	alice.line("id")
	alice.shows(aliceID)

	// Nothing of it is for others to read.
	for _, dir := range []string{aliceDir, bobDir} {
		err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			if info.Mode().Perm()&0o077 != 0 && path != dir {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			b, err := os.ReadFile(path)
			if info.Mode().IsRegular() && (err != nil || bytes.Contains(b, []byte("asleep")) || bytes.Contains(b, []byte("271828"))) {
				t.Errorf("%s holds what was typed, or %v", path, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}

	// The end of an account, and the phrase that brings it back elsewhere.
	alice.line("phrase 271828")
	phrase := alice.shows(`(?m)^((?:[a-z]+ ){12}[a-z]+)\r?$`)[1]
	alice.line("wipe")
	alice.shows(`Type wipe to go on: $`)
	alice.line("wipe")
	alice.shows(`PIN: $`)
	alice.line("271828")
	alice.shows(`The account is gone from this device. 3 of the 3 nodes`)
	alice.line("exit")
	if err := alice.ends(); err != nil {
		t.Error(err)
	}
	words := strings.Fields(phrase)
	carol := chat(t, file, false, "-dir", shortDir(t), "-developer", "-devnet", n.SeedURL())
	carol.line("restore " + strings.Join(append(append([]string{}, words[:6]...), append([]string{"qqwrong"}, words[7:]...)...), " "))
	carol.shows(`word 7: the word is not in the list`) // before a PIN is asked for
	carol.line("restore " + phrase)
	carol.line("112358")
	carol.line("112358")
	carol.shows(`Your account is back. Your Session ID is\s+` + aliceID)
	carol.types.Close() // the end of a script is the end of the program
	if err := carol.ends(); err != nil {
		t.Errorf("%v\n%s", err, carol.all())
	}
	if strings.Contains(carol.all(), words[3]+" "+words[4]) {
		t.Error("the words were repeated")
	}
}

func TestAChatThatCannotStartSaysWhy(t *testing.T) {
	t.Parallel() // it mostly waits
	file, dir := program(t), shortDir(t)
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"no TPM and not told to do without", []string{"-dir", dir, "-tpm", filepath.Join(dir, "none")}, `no TPM at .*-developer`},
		{"no network in the folder", []string{"-dir", dir, "-developer", "-devnet", dir}, `no network has run there`},
		{"a seed elsewhere without its pin", []string{"-dir", dir, "-developer", "-devnet", "https://192.0.2.1:1/json_rpc"}, `not on this machine`},
		{"a seed without a pin", []string{"-dir", dir, "-developer", "-seed", "https://127.0.0.1:1/json_rpc"}, `pin`},
		{"something beside flags", []string{"alice"}, `unexpected argument "alice"`},
		{"a folder with too long a name", []string{"-dir", filepath.Join(dir, strings.Repeat("x", 100)), "-developer"}, `choose a shorter -dir`},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := chat(t, file, false, c.args...)
			p.shows(`hearth chat: .*` + c.says)
			if err := p.ends(); err == nil {
				t.Error("it ended well")
			}
		})
	}
}
