// Command run shows the whole of Hearth on one machine: it installs what is
// missing, builds the image, starts a network of service nodes and a second
// person who answers, boots the appliance in an emulator, serves its panel on a
// web page, and connects the terminal to its serial console.
//
//	go run ./build/cmd/run -board amd64
//
// Its world is kept in a folder, so the next run meets the same account, asks
// for its PIN, and finds the same friend; -fresh begins a new world.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/term"

	"hearth/build/deps"
	"hearth/build/emulator"
	"hearth/build/kernel"
	"hearth/build/lab"
)

// leave is the key that ends the run: Ctrl-], as in telnet.
const leave = 0x1d

func main() {
	board := flag.String("board", string(emulator.AMD64), "what to emulate: amd64, virt-arm64 or raspi3b")
	source := flag.String("source", ".", "folder of the source code")
	dir := flag.String("dir", "", "folder of this world (default: run-BOARD in the cache folder)")
	fresh := flag.Bool("fresh", false, "forget the world of earlier runs first")
	page := flag.String("panel", "127.0.0.1:8180", "loopback address of the panel's web page")
	base := flag.Int("base-port", 22100, "first port of the network on loopback")
	verbose := flag.Bool("verbose", false, "write what the network and the friend log to network.log in the folder")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, settings{emulator.Target(*board), *source, *dir, *fresh, *page, *base, *verbose})
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "run:", err)
		os.Exit(1)
	}
}

type settings struct {
	board       emulator.Target
	source, dir string
	fresh       bool
	page        string
	base        int
	verbose     bool
}

func run(ctx context.Context, s settings) error {
	if !slices.Contains(emulator.Targets, s.board) {
		return fmt.Errorf("unknown board %q: use one of %v, as in BOARD=%s", s.board, emulator.Targets, emulator.AMD64)
	}
	if err := deps.Install(ctx, os.Stdout); err != nil {
		return err
	}
	if s.dir == "" {
		cache, err := kernel.CacheDir()
		if err != nil {
			return err
		}
		s.dir = filepath.Join(cache, "run-"+string(s.board))
	}
	unlock, err := lab.Claim(s.dir, s.fresh)
	if err != nil {
		return err
	}
	defer unlock()

	log := slog.New(slog.DiscardHandler)
	if s.verbose {
		f, err := os.Create(filepath.Join(s.dir, "network.log"))
		if err != nil {
			return err
		}
		defer f.Close()
		log = slog.New(slog.NewTextHandler(f, nil))
	}
	l, err := lab.Open(ctx, lab.Options{
		Board: s.board, Source: s.source, Dir: s.dir, BasePort: s.base,
		PanelPage: s.page, Progress: os.Stdout, Log: log,
	})
	if err != nil {
		return err
	}
	defer l.Close()
	appliance, err := l.Boot(ctx)
	if err != nil {
		return err
	}
	defer appliance.Stop()

	fmt.Printf(`
This terminal is now the appliance's serial console; Ctrl-] leaves.
    setup PIN            the first time: make an account
    unlock PIN           every later time
    add %s friend
    send friend hello    the friend answers
    help                 everything else
The device's screen and buttons: %s

`, l.Friend.ID(), l.PanelURL)
	return console(ctx, appliance)
}

// quiet is how long the serial line must say nothing, after the end of a script
// on standard input, until the run ends.
const quiet = 10 * time.Second

// console joins the terminal and the serial line until the appliance is off, the
// person leaves, ctx ends, or a script has ended and been answered.
func console(ctx context.Context, a *lab.Appliance) error {
	stdin := int(os.Stdin.Fd())
	if term.IsTerminal(stdin) {
		before, err := term.MakeRaw(stdin)
		if err != nil {
			return fmt.Errorf("setting up the terminal: %w", err)
		}
		defer func() {
			term.Restore(stdin, before)
			fmt.Println()
		}()
	}
	left, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with the process: a read of a terminal cannot be cancelled
		buf := make([]byte, 1024)
		for {
			n, err := os.Stdin.Read(buf)
			for _, b := range buf[:n] {
				if b == leave {
					close(left)
					return
				}
			}
			if _, werr := a.Serial.Write(buf[:n]); werr != nil {
				return
			}
			if err != nil {
				close(ended)
				return
			}
		}
	}()
	shown, said := make(chan struct{}), make(chan struct{}, 1)
	go func() {
		defer close(shown)
		io.Copy(io.MultiWriter(os.Stdout, teller(said)), a.Serial)
	}()
	var silence <-chan time.Time
	for {
		select {
		case <-a.Done():
			// What was said last is still on its way.
			select {
			case <-shown:
			case <-time.After(time.Second):
			}
			return a.Err()
		case <-left:
			return nil
		case <-ctx.Done():
			return nil
		case <-ended:
			ended, silence = nil, time.After(quiet)
		case <-said:
			if silence != nil {
				silence = time.After(quiet)
			}
		case <-silence:
			return nil
		}
	}
}

// teller is told when something is written, as often as somebody listens.
type teller chan struct{}

func (t teller) Write(p []byte) (int, error) {
	select {
	case t <- struct{}{}:
	default:
	}
	return len(p), nil
}
