package archive

import (
	"bytes"
	"cmp"
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/wire"
)

// Search returns the newest messages that hold a text, whatever its case, the
// newest first: at most limit of them, and no more than maxBytes of content. With
// a conversation only it is looked through, otherwise those of all contacts, but
// not what strangers wrote. Names of files and titles of links count as text.
//
// There is no index: it would tell how often which word was written. Every message
// is opened, one conversation after the other, which takes about two microseconds each
// and a processor; the end of ctx ends that, with its error.
func (a *Archive) Search(ctx context.Context, with account.ID, text string, limit, maxBytes int) ([]Message, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	if text == "" || limit <= 0 {
		return nil, nil
	}
	conversations := []account.ID{with}
	if with == (account.ID{}) {
		conversations = nil
		for _, c := range a.Contacts() {
			if c.Approved {
				conversations = append(conversations, c.ID)
			}
		}
	}
	var found []Message
	for _, id := range conversations {
		more, err := a.searchOne(ctx, id, text, limit)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
		slices.SortStableFunc(found, func(x, y Message) int { return cmp.Compare(y.Shown(), x.Shown()) })
		found = found[:min(len(found), limit)]
	}
	size := 0
	for i, m := range found {
		if size += m.weight(); size > maxBytes && i > 0 {
			return found[:i], nil
		}
	}
	return found, nil
}

// A search looks at so many messages in one transaction, at first a few, because what
// is looked for is often new, and then more, but not so many that it holds up a
// writer's pages.
const firstStep, searchStep = 64, 2_048

// hit is one message of a step: where it lies in the database, and what was found.
type hit struct {
	key, value []byte // only good within the transaction
	message    Message
	found      bool
	err        error
}

func (a *Archive) searchOne(ctx context.Context, with account.ID, text string, limit int) (found []Message, err error) {
	prefix := a.tag("conversation", with[:])
	key := append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...)
	look := newSieve(text)
	step := make([]hit, 0, searchStep)
	for most := firstStep; key != nil && len(found) < limit && err == nil; most = min(2*most, searchStep) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err = a.db.View(func(tx *bbolt.Tx) error {
			defer a.letGo(tx)
			c := tx.Bucket(bucketMessages).Cursor()
			step = step[:0]
			k, v := seekBefore(c, key)
			for ; len(step) < most && k != nil && bytes.HasPrefix(k, prefix); k, v = c.Prev() {
				step = append(step, hit{key: k, value: v})
			}
			if key = nil; len(step) == most {
				key = bytes.Clone(step[len(step)-1].key)
			}
			a.sift(step, look)
			for _, h := range step {
				if h.err != nil {
					return h.err
				}
				if h.found && len(found) < limit {
					found = append(found, h.message)
				}
			}
			return nil
		})
	}
	return found, err
}

// sift opens the messages of a step, on all processors.
func (a *Archive) sift(step []hit, look sieve) {
	const least = 100 // messages for which it is worth to begin another goroutine
	workers := max(1, min(runtime.GOMAXPROCS(0), maxSifters, len(step)/least))
	var wait sync.WaitGroup
	for part := range slices.Chunk(step, max(1, (len(step)+workers-1)/workers)) {
		wait.Go(func() {
			var opened, place []byte
			for i := range part {
				h := &part[i]
				place = append(append(append(place[:0], bucketMessages...), 0), h.key...)
				opened, h.err = a.openInto(opened[:0], place, h.value)
				if h.err != nil || !look.mayHold(wire.Unpad(opened)) {
					continue
				}
				if h.message, h.err = a.message(h.key, h.value); h.err == nil {
					h.found = h.message.holds(look.text)
				}
			}
		})
	}
	wait.Wait()
}

// maxSifters bounds the processors that one search keeps busy.
const maxSifters = 4

// sieve keeps messages from being decoded that cannot hold a text.
type sieve struct {
	text string // in small letters
	core []byte // the longest part of it that stands in JSON as it is
}

func newSieve(text string) sieve {
	s := sieve{text: text}
	for part := range strings.FieldsFuncSeq(text, escapes) {
		if len(part) > len(s.core) {
			s.core = []byte(part)
		}
	}
	return s
}

// escapes tells whether encoding/json may write a character in another way.
func escapes(r rune) bool {
	switch r {
	case '"', '\\', '<', '>', '&', utf8.RuneError, '\u2028', '\u2029':
		return true
	}
	return unicode.IsControl(r)
}

// mayHold tells whether an entry can be a message that holds the text: no letter of
// the text is missing in it. It writes over the entry.
func (s sieve) mayHold(entry []byte) bool {
	for i, c := range entry {
		if c >= utf8.RuneSelf {
			return bytes.Contains(bytes.ToLower(entry), s.core)
		}
		if 'A' <= c && c <= 'Z' {
			entry[i] = c + 'a' - 'A'
		}
	}
	return bytes.Contains(entry, s.core)
}

// holds tells whether a message has a text, in small letters, in it.
func (m Message) holds(text string) bool {
	has := func(in string) bool { return strings.Contains(strings.ToLower(in), text) }
	if m.Deleted || m.Kind != KindText {
		return false
	}
	if has(m.Text) || m.Preview != nil && (has(m.Preview.Title) || has(m.Preview.URL)) {
		return true
	}
	return slices.ContainsFunc(m.Attachments, func(f Attachment) bool { return has(f.Name) || has(f.Caption) })
}
