//go:build boot

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hearth/build/emulator"
)

const duressPIN = "161803"

// TestKeys does to a device what its owner fears: the card is read, copied and put
// back later, the owner is forced to give a PIN, the power fails, and in the end the
// device is sold. It prints a table.
func TestKeys(t *testing.T) {
	for _, board := range []emulator.Target{emulator.AMD64, emulator.VirtARM64} {
		t.Run(string(board), func(t *testing.T) { keys(t, board) })
	}
}

func keys(t *testing.T, board emulator.Target) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	dir := t.TempDir()
	l, err := Open(ctx, Options{Board: board, Source: "../..", Dir: dir, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	card := filepath.Join(dir, "data.img")
	copied := func(name string) string {
		t.Helper()
		to := filepath.Join(dir, name)
		if out, err := exec.Command("cp", "--sparse=always", card, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return to
	}
	putBack := func(from string) {
		t.Helper()
		if out, err := exec.Command("cp", "--sparse=always", from, card).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	passed := scenarios(t, board)

	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	c.send("status")
	c.expect(`data +encrypted`)
	passed("first boot: the card is made, encrypted")
	id := c.setup()
	const secret = "the treasure lies under the third oak"
	if err := l.WaitForNode(ctx); err != nil {
		c.fail(err)
	}
	c.send("add " + l.Friend.ID() + " friend")
	c.expect(`friend is ` + l.Friend.ID())
	c.send("send friend " + secret)
	c.expect(`message from friend: You wrote`)
	c.send("duress")
	for _, answer := range []string{pin, duressPIN, duressPIN} {
		c.expect(`PIN(?: again)?: `)
		c.send(answer)
	}
	c.expect(`The duress PIN is set`)
	c.powerOff()
	old := copied("old.img")

	known := []string{secret, id, l.Friend.ID(), "hearth-data", pin, duressPIN}
	readsNothing(t, card, known)
	passed("the raw card shows none of what it keeps")

	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("status")
	c.expect(`copy +[\d.]+ s\r`) // without trouble
	for i := range 3 {
		c.send(fmt.Sprintf("unlock 00000%d", i))
		c.expect(fmt.Sprintf(`(?i)wrong PIN, %d tries left`, 9-i))
	}
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	passed("second boot, three wrong PINs, the right one")
	c.machine.Stop()
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	c.send("lock")
	c.expect(`The account is locked`)
	c.send("status")
	c.expect(`locked, 10 tries left`)
	passed("the plug pulled with the account open: a right PIN gives the try back")
	c.powerOff()

	putBack(old)
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("status")
	c.expect(`copy +[\d.]+ s, trouble: the card is an older copy of itself`)
	passed("an old copy of the card is noticed and said")

	c.send("unlock " + duressPIN)
	c.expect(`The account is open`)
	c.machine.Stop() // as if somebody pulled the plug
	after := func() {
		t.Helper()
		c = boot(t, ctx, l)
		c.expect(`The account is locked`)
		c.send("unlock " + pin)
		c.expect(`(?i)wrong PIN`)
		c.send("unlock " + duressPIN)
		c.expect(`The account is open`)
		c.send("id")
		if got := c.expect(`(05[0-9a-f]{64})`)[1]; got == id {
			t.Error("it is the account that was wiped")
		}
		c.send("contacts")
		c.expect(`Nobody yet`)
		c.powerOff()
		if strings.Contains(c.log(), secret) {
			t.Error("it shows the message")
		}
	}
	after()
	passed("duress, the plug pulled at once: an empty messenger")
	putBack(old)
	after()
	passed("duress, then an old copy of the card: the same")

	before := copied("before.img")
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("wipe everything")
	c.expect(`Type wipe everything`)
	c.send("wipe everything")
	c.expect(`The keys are gone`)
	c.expect(`mounts: start`)
	c.expect(`There is no account yet`)
	c.powerOff()
	readsNothing(t, card, known)
	passed("wiped for resale: as on the first day")
	putBack(before)
	c = boot(t, ctx, l)
	c.expect(`There is no account yet`)
	if !regexp.MustCompile(`everything here was wiped`).MatchString(c.log()) {
		t.Error("it did not say that the copy is of a card that was wiped")
	}
	c.powerOff()
	passed("a copy from before the wipe opens nothing")
}

// scenarios prints a table of what passed, with the time each took, at the end.
func scenarios(t *testing.T, board emulator.Target) (passed func(scenario string)) {
	var table []string
	began := time.Now()
	t.Cleanup(func() { t.Logf("SCENARIOS %s\n%s", board, strings.Join(table, "\n")) })
	return func(scenario string) {
		table = append(table, fmt.Sprintf("%-60s pass  %5.1f s", scenario, time.Since(began).Seconds()))
		began = time.Now()
	}
}

// readsNothing searches a card, byte by byte, for texts, hexadecimal numbers and
// their bytes.
func readsNothing(t *testing.T, path string, known []string) {
	t.Helper()
	var wanted [][]byte
	for _, k := range known {
		if len(k) < 8 {
			continue // chance finds those
		}
		wanted = append(wanted, []byte(k))
		if b, err := hex.DecodeString(k); err == nil {
			wanted = append(wanted, b, b[1:]) // a Session ID without its prefix, too
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const step, overlap = 1 << 20, 256
	in := bufio.NewReaderSize(f, step)
	window := make([]byte, 0, step+overlap)
	for at := int64(0); ; {
		n, err := io.ReadFull(in, window[len(window):len(window)+step])
		window = window[:len(window)+n]
		for _, w := range wanted {
			if i := bytes.Index(window, w); i >= 0 {
				t.Errorf("%q is at %d", w, at+int64(i))
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		keep := min(overlap, len(window))
		at += int64(len(window) - keep)
		window = append(window[:0], window[len(window)-keep:]...)
	}
}
