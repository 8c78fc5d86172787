//go:build boot

package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"hash/crc32"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"hearth/build/emulator"
	"hearth/firmware/card"
)

// TestSDCard starts an emulated Raspberry Pi 3 from the SD card of `make image`: a
// power cut while the card is prepared, a first start, a message to a friend, a
// second start, and two damaged cards.
func TestSDCard(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	dir := t.TempDir()
	l, err := Open(ctx, Options{
		Board: emulator.RaspberryPi3, Source: "../..", Dir: dir, Progress: t.Output(),
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sd := filepath.Join(dir, "card.img")

	t.Log("== the power fails while the file system is made")
	cut, err := l.Boot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(cut.Serial)
	for lines.Scan() && !strings.Contains(lines.Text(), "first start: making a file system") {
	}
	cut.Stop()
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}

	t.Log("== first start: the card is prepared, a new account")
	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	for _, want := range []string{`data: first start: making a file system on \d+ MiB`, `data: /dev/mmcblk0p4: the file system now has \d+ MiB`} {
		if !regexp.MustCompile(want).MatchString(c.log()) {
			t.Errorf("it did not say %s", want)
		}
	}
	if took := regexp.MustCompile(`data: done, (\d+) ms`).FindStringSubmatch(c.log()); took == nil {
		c.fail(os.ErrNotExist)
	} else if ms, err := strconv.Atoi(took[1]); err != nil || ms > 120_000 {
		t.Errorf("preparing the card took %s ms", took[1])
	} else {
		t.Logf("FIGURES raspi3b: preparing a card of %d MiB took %d ms; a slot has %d bytes, the image %d",
			cardSize>>20, ms, l.Card.Slot, l.Card.Size)
	}
	id := c.setup()
	if err := l.WaitForNode(ctx); err != nil {
		c.fail(err)
	}
	c.send("add " + l.Friend.ID() + " friend")
	c.expect(`friend is ` + l.Friend.ID())
	c.send("send friend hello from a card")
	c.expect(`Sent; (\d+) of the (\d+) nodes of their swarm keep it`)
	c.expect(`message from friend: You wrote "hello from a card"`)
	c.send("status")
	c.expect(`Raspberry Pi 3 Model B`)
	c.powerOff()
	t.Logf("the whole line:\n%s", c.log())
	checkCard(t, sd)

	t.Log("== second start: everything is there")
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	c.send("id")
	c.expect(id)
	c.send("read friend")
	c.expect(`you: hello from a card`)
	c.powerOff()
	for _, unwanted := range []string{"first start", "the partition now reaches", "the file system now has"} {
		if strings.Contains(c.log(), unwanted) {
			t.Errorf("it said again: %s", unwanted)
		}
	}

	t.Log("== a superblock is lost: put back from its copy")
	change(t, sd, func(super []byte) { clear(super) })
	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	if !strings.Contains(c.log(), "superblock put back from a copy") {
		t.Error("it did not say so")
	}
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	c.powerOff()

	t.Log("== the kernel has seen damage before: the data is read, not written")
	change(t, sd, func(super []byte) {
		super[58] |= 2                                // state: has errors
		binary.LittleEndian.PutUint32(super[404:], 1) // how many
		copy(super[424:], "ext4_lookup\x00")          // the first one
		binary.LittleEndian.PutUint32(super[1020:], ^crc32.Checksum(super[:1020], crc32.MakeTable(crc32.Castagnoli)))
	})
	c = boot(t, ctx, l)
	c.send("status")
	c.expect(`data is read-only`)
	c.powerOff()
}

// change changes the superblock of a card's data.
func change(t *testing.T, path string, how func(super []byte)) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	super, at := make([]byte, 1024), card.Layout[card.Data-1].Start+1024
	if _, err := f.ReadAt(super, at); err != nil {
		t.Fatal(err)
	}
	how(super)
	if _, err := f.WriteAt(super, at); err != nil {
		t.Fatal(err)
	}
}

// checkCard lets the distribution's own tool look at a card that was switched off
// in order, where there is one.
func checkCard(t *testing.T, path string) {
	t.Helper()
	tool, err := exec.LookPath("e2fsck")
	if err != nil {
		t.Log("no e2fsck here, no second opinion")
		return
	}
	at := strconv.FormatInt(card.Layout[card.Data-1].Start, 10)
	if out, err := exec.Command(tool, "-fn", path+"?offset="+at).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}
