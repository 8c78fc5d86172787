//go:build boot

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"hearth/build/emulator"
	"hearth/initramfs/disk"
)

// TestTroubles is what may befall a device in the years after its first day: no
// network, a wrong clock, no TPM, an edited card, and somebody who tries PINs.
func TestTroubles(t *testing.T) {
	const board = emulator.AMD64
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	dir := t.TempDir()
	l, err := Open(ctx, Options{Board: board, Source: "../..", Dir: dir, Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	passed := scenarios(t, board)
	start := func(change func(*emulator.Options)) *console {
		t.Helper()
		c := switchOn(t, ctx, l, change)
		c.expect(`hearth> `)
		return c
	}
	open := func(c *console) {
		t.Helper()
		c.expect(`The account is locked`)
		c.send("unlock " + pin)
		c.expect(`The account is open`)
	}

	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	c.setup()
	c.send("add " + l.Friend.ID() + " friend")
	c.expect(`friend is ` + l.Friend.ID())
	c.powerOff()
	passed("an account, and off")

	c = start(func(o *emulator.Options) { o.Offline = true })
	open(c)
	c.send("send friend written offline")
	c.expect(`Written down; it goes out as soon as the network takes it`)
	c.send("status")
	c.expect(`no network address`)
	c.expect(`1 waiting to be sent`)
	c.expect(`network +[\d.]+ s, trouble: `)
	c.powerOff()
	c = boot(t, ctx, l)
	open(c)
	c.expect(`message from friend: You wrote "written offline"`)
	c.powerOff()
	passed("no network: said, the message is kept, and sent when there is one")

	for _, wrong := range []struct {
		years int
		said  string // by status or by the log
	}{
		{-10, `clock: was 20\d\d-.*, set forward to `},
		{10, `clock +\d+ days .* ahead of the network's`},
	} {
		c = start(func(o *emulator.Options) { o.Clock = time.Now().AddDate(wrong.years, 0, 0) })
		open(c)
		text := fmt.Sprintf("it is %+d years", wrong.years)
		c.send("send friend " + text)
		c.expect(`message from friend: You wrote "` + regexp.QuoteMeta(text) + `"`)
		c.send("find " + text)
		c.expect(time.Now().UTC().Format("2006-01-02"))
		c.send("logs 1000")
		c.send("status")
		c.expect(wrong.said)
		c.expect(`services +init`)
		c.powerOff()
		passed(fmt.Sprintf("the clock %+d years off: said, messages flow and bear the right day", wrong.years))
	}

	c = start(func(o *emulator.Options) { o.TPM = "" })
	c.send("status")
	c.expect(`(?i)the data is encrypted, and its key does not open|no TPM`)
	c.send("unlock " + pin)
	c.expect(`(?i)not running|no TPM|closed`)
	c.machine.Stop()
	passed("no TPM: said, and nothing opens")

	card := filepath.Join(dir, "data.img")
	// edit overwrites 64 KiB and returns what was there.
	edit := func(at int64, with []byte) (old []byte) {
		t.Helper()
		f, err := os.OpenFile(card, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		old = make([]byte, len(with))
		if _, err := f.ReadAt(old, at); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(with, at); err != nil {
			t.Fatal(err)
		}
		return old
	}
	zeros := make([]byte, 64<<10)
	edit(0, zeros)
	c = boot(t, ctx, l)
	open(c)
	c.powerOff()
	passed("the card edited, first header: its copy serves")
	old := edit(disk.Payload, zeros)
	c = boot(t, ctx, l)
	c.send("status")
	c.expect(`data +[\d.]+ s, trouble: `)
	c.machine.Stop()
	edit(disk.Payload, old)
	c = boot(t, ctx, l)
	open(c)
	c.powerOff()
	passed("the card edited, start of the file system: said, and nothing is formatted")

	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	for i := range 10 {
		c.send(fmt.Sprintf("unlock 00000%d", i))
		c.expect(`(?i)wrong PIN`)
	}
	c.send("unlock " + pin)
	c.expect(`(?i)locked (?:itself|out)|too many|tries`)
	c.machine.Stop()
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + pin)
	c.expect(`(?i)locked (?:itself|out)|too many|tries`)
	c.machine.Stop()
	passed("ten wrong PINs: not even the right one, nor after the plug was pulled")
}
