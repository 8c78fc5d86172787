// Package console is the appliance's serial console: a prompt that takes one
// command a line and prints what happens meanwhile.
//
// New takes the clients of the local APIs; Run reads bytes from a terminal or
// a serial line and writes text to it. The line needs no terminal driver
// behind it: echo, erasing and line ends are the console's own. It can be
// driven by a program, line by line: every command's output ends with the
// prompt "hearth> ".
//
// Whatever comes from outside, by the line or in a message, is taken for
// hostile: see editor for what is typed and visible for what is shown.
package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// Prompt is what the console shows when it waits for a command.
const Prompt = "hearth> "

// Config is what a console needs.
type Config struct {
	Messenger api.MessengerClient
	// Node, Ledger and Device are nil where there is none, as beside a messenger on
	// an ordinary machine; their commands are not offered then.
	Node   api.NodeClient
	Ledger api.LedgerClient
	Device api.DeviceClient

	// Plain reads and writes lines only: no prompt, no echo, for a pipe.
	Plain bool
	// MayLeave lets Ctrl-D and "exit" end Run. A serial console goes on.
	MayLeave bool

	Now func() time.Time // nil = time.Now
	Log *slog.Logger     // told about messages without their content; nil = silent
}

// Console is a serial console.
type Console struct {
	cfg  Config
	term *terminal

	states atomic.Uint64 // counts the states seen

	mu      sync.Mutex
	state   *api.MessengerState        // the last one seen
	account api.MessengerState_Account // the last one told to the user
	told    bool                       // account has been set
	waiting map[uint64]bool            // numbers of messages that the user knows to wait

	moving map[transfer]time.Time // files on their way, and when that was last told; only for follow
}

// New makes a console. It asks nothing of the services yet.
func New(cfg Config) *Console {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Console{cfg: cfg}
}

// errLeave ends Run at the user's wish.
var errLeave = errors.New("leave")

// Run serves one terminal until its input ends, the user leaves, or ctx is
// done. The goroutine that reads from rw ends with rw's Read, which the caller
// of a line that stays open has to close.
func (c *Console) Run(ctx context.Context, rw io.ReadWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.term = newTerminal(rw, !c.cfg.Plain)
	go c.term.read(ctx, rw, c.cfg.MayLeave)

	var events sync.WaitGroup
	if c.cfg.Device != nil && !c.cfg.Plain {
		// First of all: until then, the log is written past this terminal.
		free := make(chan struct{})
		events.Go(func() { c.followLog(ctx, sync.OnceFunc(func() { close(free) })) })
		select {
		case <-free:
		case <-time.After(logPatience):
		case <-ctx.Done():
		}
	}
	c.welcome(ctx)
	events.Go(func() { c.follow(ctx) })
	events.Go(func() { c.tellWriting(ctx, c.term.writing) })
	defer events.Wait()
	defer cancel()
	for {
		in, err := c.term.next(ctx, Prompt, false)
		if err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return err
		}
		if err := c.execute(ctx, in); errors.Is(err, errLeave) {
			return nil
		}
	}
}

// welcome says where one is and what to do next. It waits a moment for the
// messenger, so that the first thing on the line is of use.
func (c *Console) welcome(ctx context.Context) {
	c.term.print("", "Hearth console. `help` lists the commands.")
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	state, err := c.cfg.Messenger.State(ctx, &api.StateRequest{})
	if err != nil {
		c.term.print("The messenger is not running yet; `status` tells how far the start is.")
		return
	}
	c.noteState(state, true)
}

// execute runs one line.
func (c *Console) execute(ctx context.Context, in input) error {
	if in.interrupted {
		return nil
	}
	if in.err != nil {
		c.term.print(sentence(in.err.Error()))
		return nil
	}
	word, rest := cutWord(in.text)
	if word == "" {
		return nil
	}
	cmd, ok := commands[strings.ToLower(word)]
	if !ok || !c.offers(cmd) {
		c.unknown(word)
		return nil
	}
	if !cmd.secret {
		c.term.remember(in.text)
	}
	running, cancel := context.WithTimeout(ctx, cmd.timeout())
	defer cancel()
	c.term.running(cancel)
	defer c.term.running(nil)
	err := cmd.run(c, running, rest)
	switch {
	case err == nil || errors.Is(err, errLeave):
		return err
	case ctx.Err() != nil || errors.Is(err, io.EOF): // Run ends; nobody waits for an answer
		return nil
	}
	c.explain(running, err)
	return nil
}

// usageError is what a command says about arguments it cannot use.
type usageError string

func (e usageError) Error() string { return string(e) }

// serviceError is an error of a call, with the name of who was called.
type serviceError struct {
	service string
	err     error
}

func (e serviceError) Error() string { return e.service + ": " + e.err.Error() }
func (e serviceError) Unwrap() error { return e.err }

var errInterrupted = errors.New("not done")

// explain prints an error for people.
func (c *Console) explain(ctx context.Context, err error) {
	var usage usageError
	var service serviceError
	switch {
	case errors.As(err, &usage):
		c.term.print(string(usage))
	case errors.As(err, &service):
		c.term.print(service.explain(ctx))
	default:
		c.term.print(sentence(err.Error()))
	}
}

func (e serviceError) explain(ctx context.Context) string {
	switch status.Code(e.err) {
	case codes.Unavailable:
		return "The " + e.service + " is not running yet; try `status`."
	case codes.DeadlineExceeded:
		return "The " + e.service + " did not answer in time."
	case codes.Canceled:
		if ctx.Err() != nil {
			return "Not waited for the answer."
		}
	case codes.Unimplemented:
		return "The " + e.service + " cannot do that."
	}
	return sentence(status.Convert(e.err).Message())
}

// sentence makes an error's text one.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return "It did not work, and no reason was given."
	}
	if first := text[0]; first >= 'a' && first <= 'z' {
		text = string(first-'a'+'A') + text[1:]
	}
	if strings.ContainsAny(text[len(text)-1:], ".!?") {
		return text
	}
	return text + "."
}

// cutWord cuts the first word off a line. A word in double quotes may hold
// spaces. The rest keeps its own spaces, up to one after the word.
func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " ")
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		if word, rest, ok := strings.Cut(quoted, `"`); ok {
			return word, strings.TrimPrefix(rest, " ")
		}
	}
	word, rest, _ = strings.Cut(line, " ")
	return word, rest
}

// ask shows a question and gives the answer. A secret answer is not echoed.
func (c *Console) ask(ctx context.Context, question string, secret bool) (string, error) {
	in, err := c.term.next(ctx, question, secret)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "", usageError("No answer came; nothing was done.")
	case err != nil:
		return "", err
	case in.interrupted:
		return "", errInterrupted
	case in.err != nil:
		return "", in.err
	}
	return in.text, nil
}
