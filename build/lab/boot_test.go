//go:build boot

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/build/emulator"
)

// patience is how long a step may take on a slow machine that emulates an ARM
// processor; a step normally takes a few seconds.
const patience = 3 * time.Minute

const (
	pin      = "271828"
	wrongPIN = "314159"
)

// TestFirstLight does on a real image what a person does on the first day: make
// an account, look at the screen, write to a friend and hear from them, switch
// off, mistype the PIN, unlock, and find everything still there.
func TestFirstLight(t *testing.T) {
	for _, board := range []emulator.Target{emulator.AMD64, emulator.VirtARM64} {
		t.Run(string(board), func(t *testing.T) { firstLight(t, board) })
	}
}

func firstLight(t *testing.T, board emulator.Target) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	dir := t.TempDir()
	l, err := Open(ctx, Options{
		Board: board, Source: "../..", Dir: dir, Progress: t.Output(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if size := l.Initramfs.Compressed; size > 20<<20 {
		t.Errorf("the initramfs has %d bytes, more than 20 MiB", size)
	}

	t.Log("== first boot: a new account")
	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	c.send("setup 123")
	c.expect(`A PIN has 6 to 32 characters`)
	id := c.setup()
	c.send("id")
	c.expect(id)
	waitForQR(t, ctx, c, id)

	t.Log("== a conversation over three hops")
	if err := l.WaitForNode(ctx); err != nil {
		c.fail(err)
	}
	c.send("add " + l.Friend.ID() + " friend")
	c.expect(`friend is ` + l.Friend.ID())
	c.send("send friend hello from the appliance")
	c.expect(`Sent; (\d+) of the (\d+) nodes of their swarm keep it`)
	c.expect(`message from friend: You wrote "hello from the appliance"`)
	c.expect(`message received`)
	t.Logf("from the kernel's start to the first message:\n%s", c.log())

	c.send("phrase " + pin)
	phrase := c.expect(`(?m)^((?:[a-z]+ ){12}[a-z]+)\r?$`)[1]

	t.Log("== garbage on the serial line")
	c.raw("\x00\xff\xfe\x1b[31m\x80" + strings.Repeat("\x07", 100) + "\r")
	c.raw(strings.Repeat("x", 10_000) + "\r")
	c.send("nonsense")
	c.expect(`There is no command "nonsense"`)

	t.Log("== figures")
	c.figures(board, l)

	t.Log("== restart")
	c.send("restart")
	c.expect(`yes`)
	c.send("yes")
	c.expect(`The device restarts`)
	c.expect(`mounts: start`)
	c.expect(`The account is locked`)
	c.powerOff()

	t.Log("== second boot: the PIN opens the same account")
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + wrongPIN)
	c.expect(`(?i)wrong PIN.*?(\d+) (?:more )?tr(?:y|ies)`)
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	c.send("id")
	c.expect(id)
	c.send("logs 1000")
	c.expect(`(?s)power: stopping the services.*what was said before this start`)
	c.send("read friend")
	c.expect(`you: hello from the appliance`)
	c.send("phrase " + pin)
	c.expect(regexp.QuoteMeta(phrase))
	if err := l.Friend.Send(ctx, id, "good morning"); err != nil {
		c.fail(err)
	}
	c.expect(`message from friend: good morning`)
	c.powerOff()
	if leak := c.secrets.ReplaceAllString(c.log(), ""); strings.Contains(leak, phrase) {
		t.Error("the recovery phrase was printed where nobody asked for it")
	}

	t.Log("== without its TPM the account stays closed")
	if err := os.Rename(filepath.Join(dir, "tpm"), filepath.Join(dir, "tpm-away")); err != nil {
		t.Fatal(err)
	}
	c = boot(t, ctx, l)
	c.send("status")
	c.expect(`(?i)the data is encrypted, and its key does not open.*sealed by another TPM`)
	c.machine.Stop()

	t.Log("== and nothing was destroyed: with it, it opens again")
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "tpm")), os.Rename(filepath.Join(dir, "tpm-away"), filepath.Join(dir, "tpm"))); err != nil {
		t.Fatal(err)
	}
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	c.powerOff()
}

// console is the serial line in the hands of a test.
type console struct {
	t       *testing.T
	machine *Appliance
	secrets *regexp.Regexp // answers that may hold a phrase

	mu   sync.Mutex
	all  bytes.Buffer
	from int // what was looked at already
	more chan struct{}
}

// boot switches on and waits for the prompt.
func boot(t *testing.T, ctx context.Context, l *Lab) *console {
	t.Helper()
	begin := time.Now()
	c := switchOn(t, ctx, l, func(*emulator.Options) {})
	c.expect(`hearth> `)
	t.Logf("prompt %.1f s after the emulator was started (KVM: %v)", time.Since(begin).Seconds(), c.machine.Accelerated)
	return c
}

// switchOn starts a machine that change has made another.
func switchOn(t *testing.T, ctx context.Context, l *Lab, change func(*emulator.Options)) *console {
	t.Helper()
	machine, err := l.BootAs(ctx, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(machine.Stop)
	return attach(t, machine)
}

// attach reads the serial line from now on.
func attach(t *testing.T, machine *Appliance) *console {
	c := &console{
		t: t, machine: machine, more: make(chan struct{}, 1),
		secrets: regexp.MustCompile(`(?s)phrase \d+.*?hearth>`),
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := machine.Serial.Read(buf)
			c.mu.Lock()
			c.all.Write(buf[:n])
			c.mu.Unlock()
			select {
			case c.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return c
}

// expect waits until the line shows something new that matches.
func (c *console) expect(pattern string) []string {
	c.t.Helper()
	found, err := c.await(pattern)
	if err != nil {
		c.fail(err)
	}
	return found
}

// errMachineEnded says that there is nobody any more to wait for.
var errMachineEnded = errors.New("the machine ended")

// await is expect for whom an error is no surprise.
func (c *console) await(pattern string) ([]string, error) {
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		fresh := c.all.Bytes()[c.from:]
		if at := re.FindSubmatchIndex(fresh); at != nil {
			var found []string
			for i := 0; i < len(at); i += 2 {
				found = append(found, string(fresh[max(at[i], 0):max(at[i+1], 0)]))
			}
			c.from += at[1]
			c.mu.Unlock()
			return found, nil
		}
		c.mu.Unlock()
		select {
		case <-c.more:
		case <-deadline:
			return nil, fmt.Errorf("waited %v for %q", patience, pattern)
		case <-c.machine.Done():
			return nil, fmt.Errorf("%w (%v) before %q", errMachineEnded, c.machine.Err(), pattern)
		}
	}
}

func (c *console) send(line string) { c.t.Helper(); c.raw(line + "\r") }

func (c *console) raw(s string) {
	c.t.Helper()
	if _, err := c.machine.Serial.Write([]byte(s)); err != nil {
		c.fail(err)
	}
}

// setup makes the account.
func (c *console) setup() (id string) {
	c.send("setup " + pin)
	return c.expect(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
}

func (c *console) powerOff() {
	c.t.Helper()
	c.send("poweroff")
	c.expect(`yes`)
	c.send("yes")
	select {
	case <-c.machine.Done():
		if err := c.machine.Err(); err != nil {
			c.fail(err)
		}
	case <-time.After(patience):
		c.fail(fmt.Errorf("the machine did not switch itself off"))
	}
	c.machine.Stop()
}

func (c *console) log() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all.String()
}

func (c *console) fail(err error) {
	c.t.Helper()
	c.t.Logf("the serial line said:\n%s", c.log())
	c.t.Fatal(err)
}

// waitForQR reads the code from the panel's picture with a foreign decoder, until
// it is the Session ID.
func waitForQR(t *testing.T, ctx context.Context, c *console, id string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := exec.LookPath("zbarimg"); err != nil {
		t.Fatal("zbarimg not found: install it with `make deps`")
	}
	file := filepath.Join(t.TempDir(), "screen.png")
	for version := uint64(0); ; {
		picture, state, err := c.machine.Panel.Wait(ctx, version)
		if err != nil {
			c.fail(fmt.Errorf("the panel does not show the Session ID as a code (last picture: %s): %w", file, err))
		}
		version = state.Version
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := png.Encode(f, picture); err != nil {
			t.Fatal(err)
		}
		f.Close()
		read, _ := exec.CommandContext(ctx, "zbarimg", "-q", "--raw", file).Output()
		if strings.TrimSpace(string(read)) == id {
			t.Logf("zbarimg reads the Session ID from the panel")
			return
		}
	}
}

// figures prints what the image costs. They are no bounds: the machine that runs
// the tests is not the board.
func (c *console) figures(board emulator.Target, l *Lab) {
	c.send("logs 1000")
	first := c.expect(`first screen drawn.*?(\d+\.\d+) ?s`)[1]
	c.send("status")
	c.expect(`services`)
	text := c.expect(`(?s)(.*?)start +mounts`)[1]
	var kib float64
	for _, m := range regexp.MustCompile(`process \d+, ([\d.]+) MiB`).FindAllStringSubmatch(text, -1) {
		mib, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			c.fail(err)
		}
		kib += mib
	}
	c.t.Logf("FIGURES %s: first screen %s s after the kernel's start; initramfs %.1f MiB compressed; %.1f MiB resident in all processes",
		board, first, float64(l.Initramfs.Compressed)/(1<<20), kib)
}
