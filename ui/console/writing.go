package console

import (
	"context"
	"strings"
	"time"

	"hearth/node/api"
)

// tellAgain is how often somebody is told that the owner still writes to them; the
// other side shows it for 15 seconds.
const tellAgain = 10 * time.Second

// headLength is how many characters of a line are looked at, at every key: command,
// name and number, and a first letter of text.
const headLength = 200

// done is what a terminal notes when a line was entered: the message itself says
// that the writing is over.
const done = "\n"

// addressee is the person whom the line being typed is for, once there is a first
// letter of text, and "" for any other line.
func addressee(line string) string {
	command, rest := cutWord(line)
	if command != "send" && command != "reply" {
		return ""
	}
	name, text := cutWord(rest)
	if command == "reply" {
		_, text = cutWord(text) // past the number
	}
	if strings.TrimSpace(text) == "" {
		return ""
	}
	return name
}

// tellWriting tells contacts that the owner writes to them. Whether anybody is
// told is a matter of the owner's settings, which the messenger knows.
func (c *Console) tellWriting(ctx context.Context, noted <-chan string) {
	var with string
	var told time.Time
	tell := func(stopped bool) {
		call, cancel := context.WithTimeout(ctx, tellAgain)
		defer cancel()
		// Nobody waits for it, and a name that is none is told when it is sent.
		_, _ = c.cfg.Messenger.Typing(call, &api.TypingRequest{With: with, Stopped: stopped})
	}
	for {
		select {
		case <-ctx.Done():
			return
		case name := <-noted:
			if name == done {
				with = ""
				continue
			}
			if with != "" && name != with {
				tell(true)
				with = ""
			}
			if name != "" && (name != with || c.cfg.Now().Sub(told) >= tellAgain) {
				with, told = name, c.cfg.Now()
				tell(false)
			}
		}
	}
}
