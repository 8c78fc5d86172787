package archive

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// Search returns the newest messages that hold a text, whatever its case, the
// newest first: at most limit of them, and no more than maxBytes of content. With
// a conversation only it is looked through, otherwise those of all contacts, but
// not what strangers wrote. Names of files and titles of links count as text.
//
// There is no index: it would tell how often which word was written. Every message
// is opened, one conversation after the other, which takes some microseconds each;
// the end of ctx ends that, with its error.
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

// searchStep is how many messages are looked at in one transaction, so that a long
// search holds up no writer's pages.
const searchStep = 2_000

func (a *Archive) searchOne(ctx context.Context, with account.ID, text string, limit int) (found []Message, err error) {
	prefix := a.tag("conversation", with[:])
	key := append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...)
	for key != nil && len(found) < limit && err == nil {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		err = a.db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket(bucketMessages).Cursor()
			k, v := seekBefore(c, key)
			for range searchStep {
				if k == nil || !bytes.HasPrefix(k, prefix) || len(found) == limit {
					key = nil
					return nil
				}
				m, err := a.message(k, v)
				if err != nil {
					return err
				}
				if m.holds(text) {
					found = append(found, m)
				}
				key = bytes.Clone(k)
				k, v = c.Prev()
			}
			return nil
		})
	}
	return found, err
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
