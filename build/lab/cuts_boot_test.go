//go:build boot

package lab

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"hearth/build/emulator"
)

var (
	cuts    = flag.Int("cuts", 3, "how often TestPowerCuts pulls the plug")
	cutSeed = flag.Uint64("cuts.seed", 1, "from what TestPowerCuts draws the moments")
)

// TestPowerCuts pulls the plug at random moments, of the start and of a conversation
// in which both sides write without a pause: the device starts every time, nothing that
// was shown as sent or stored is missing afterwards, and nothing is there twice.
//
// Emulator and TPM are killed; what the kernel has not yet handed to its disk is lost, what
// it has is not, so this says nothing about a card that loses writes it has confirmed.
func TestPowerCuts(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(5+*cuts)*2*time.Minute)
	defer cancel()
	random := rand.New(rand.NewPCG(*cutSeed, 0))
	l, err := Open(ctx, Options{Board: emulator.AMD64, Source: "../..", Dir: t.TempDir(), Progress: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := boot(t, ctx, l)
	c.expect(`There is no account yet`)
	id := c.setup()
	c.send("add " + l.Friend.ID() + " friend")
	c.expect(`friend is ` + l.Friend.ID())
	c.send("send friend hello")
	c.expect(`message from friend: You wrote "hello"`)

	var theirs, sent, unknown []string
	for i := range *cuts {
		// The friend writes all the time, whether the device is on or not.
		writing, stop := context.WithCancel(ctx)
		var friend sync.WaitGroup
		friend.Go(func() {
			for k := 0; writing.Err() == nil; k++ {
				text := fmt.Sprintf("f%dx%d.", i, k)
				if err := l.Friend.Send(ctx, id, text); err != nil {
					t.Errorf("%s: %v", text, err)
					return
				}
				theirs = append(theirs, text)
				select {
				case <-writing.Done():
				case <-time.After(time.Second):
				}
			}
		})
		if i > 0 {
			c = switchOn(t, ctx, l, func(*emulator.Options) {})
		}
		plug := time.AfterFunc(time.Duration(random.Int64N(int64(15*time.Second))), c.machine.Stop)
		phase := "while it started"
		err := func() error {
			if i > 0 {
				if _, err := c.await(`The account is locked`); err != nil {
					return err
				}
				phase = "while the account was opened"
				c.say("unlock " + pin)
				if _, err := c.await(`The account is open`); err != nil {
					return err
				}
			}
			for k := 0; ; k++ {
				phase = fmt.Sprintf("after %d messages", k)
				text := fmt.Sprintf("a%dx%d.", i, k)
				unknown = append(unknown, text)
				c.say("send friend " + text)
				if _, err := c.await(`Sent; \d+ of the \d+ nodes`); err != nil {
					return err
				}
				unknown, sent = unknown[:len(unknown)-1], append(sent, text)
			}
		}()
		plug.Stop()
		stop()
		friend.Wait()
		if !errors.Is(err, errMachineEnded) {
			c.fail(err)
		}
		t.Logf("cut %d %s", i+1, phase)
	}

	c = boot(t, ctx, l)
	c.expect(`The account is locked`)
	c.send("unlock " + pin)
	c.expect(`The account is open`)
	if err := l.Friend.Send(ctx, id, "that was the last one"); err != nil {
		t.Fatal(err)
	}
	c.expect(`message from friend: that was the last one`)

	// The friend answers each message that arrives with a quotation, once.
	found := func(text string, most int) (n int) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			c.send("find " + text)
			c.expect(`find ` + text)
			shown := c.expect(`(?s)(?:No message has that in it|With )(.*?)hearth> `)[1]
			if n = strings.Count(shown, text); n >= most || time.Now().After(deadline) {
				return n
			}
		}
	}
	for _, text := range theirs {
		if n := found(text, 1); n != 1 {
			t.Errorf("the friend's %s is there %d times", text, n)
		}
	}
	for _, text := range sent {
		if n := found(text, 2); n != 2 {
			t.Errorf("%s, shown as sent, and its answer are there %d times", text, n)
		}
	}
	for _, text := range unknown { // cut before it was shown as sent: all or nothing
		if n := found(text, 0); n == 1 {
			n = found(text, 2)
			if n != 2 {
				t.Errorf("%s, cut while it was sent, and its answer are there %d times", text, n)
			}
		} else if n > 2 {
			t.Errorf("%s, cut while it was sent, and its answer are there %d times", text, n)
		}
	}
	c.powerOff()
	if !t.Failed() {
		t.Logf("%d cuts: %d messages of the friend and %d of the device's own, none lost, none twice", *cuts, len(theirs), len(sent))
	}
}

// say types a line, whether somebody still reads it or not.
func (c *console) say(line string) { _, _ = c.machine.Serial.Write([]byte(line + "\r")) }
