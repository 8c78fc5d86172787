package archive

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

const previewRunes = 200

// Kind says what a line of a conversation is.
type Kind uint8

// The kinds. All but the first are information: nobody wrote them.
const (
	KindText       Kind = iota
	KindTimer           // somebody set the timer, which is Message.Timer
	KindScreenshot      // somebody photographed the conversation
	KindMediaSaved      // somebody kept an attachment
	KindCall            // somebody called
	KindAccepted        // the other side accepted the owner's request

	// Of groups.
	KindGroupName      // somebody named the group Text
	KindGroupPicture   // somebody chose another picture
	KindGroupAdded     // somebody added Members
	KindGroupRemoved   // somebody removed Members
	KindGroupPromoted  // somebody made admins of Members
	KindGroupJoined    // somebody accepted the invitation
	KindGroupLeft      // somebody left
	KindGroupKicked    // the owner was removed
	KindGroupDestroyed // an admin ended the group
)

// State is how far an own message is.
type State uint8

// The states of an own message, in their order; one of somebody else has
// StateNone.
const (
	StateNone    State = iota
	StateWaiting       // in the outbox
	StateStored        // confirmed by members of the recipient's swarm
	StateSeen          // read by the recipient
	StateFailed        // never arrives
)

// TimerType says when the clock of a disappearing message starts.
type TimerType uint8

// The types have the numbers of Content.expirationType.
const (
	TimerOff       TimerType = 0
	TimerAfterRead TimerType = 1
	TimerAfterSend TimerType = 2
)

// Timer makes messages disappear.
type Timer struct {
	Type    TimerType `json:",omitempty"`
	Seconds uint32    `json:",omitempty"`
}

// Message is one line of a conversation.
type Message struct {
	With      account.ID // the other side, or the group
	From      account.ID `json:",omitzero"` // who wrote it, in a group; zero for the owner
	Number    uint64     `json:"-"`         // in the conversation, from 1, in order of arrival
	Outgoing  bool
	Kind      Kind `json:",omitempty"`
	Text      string
	Timestamp int64 // sent time, ms, as the sender says: with the sender the name of the message
	Received  int64 `json:",omitempty"` // ms, of somebody else's message
	Hash      string
	CopyHash  string `json:",omitempty"` // of an own message in the own swarm
	Read      bool

	State   State  `json:",omitempty"`
	Stored  int    `json:",omitempty"` // members of the recipient's swarm that confirmed
	Swarm   int    `json:",omitempty"` // of so many
	Failure string `json:",omitempty"`

	Quote       *Quote       `json:",omitempty"`
	Reactions   []Reaction   `json:",omitempty"`
	Preview     *Preview     `json:",omitempty"`
	Attachments []Attachment `json:",omitempty"`
	Invitation  *Invitation  `json:",omitempty"`
	Members     []account.ID `json:",omitempty"` // whom a line of a group is about

	Timer   Timer `json:",omitzero"`
	Expires int64 `json:",omitempty"` // when it disappears, ms; 0 = its clock does not run
	Deleted bool  `json:",omitempty"` // unsent: only the fields above Kind and the hashes are left
	ByAdmin bool  `json:",omitempty"` // an admin of the group deleted it, not its writer
}

// Shown is the time to show and to sort by. Nobody's message is later than its
// arrival, so that a sender with a wrong clock, or a lying one, cannot put
// theirs below everything that is yet to come.
func (m Message) Shown() int64 {
	if m.Received > 0 {
		return min(m.Timestamp, m.Received)
	}
	return m.Timestamp
}

// Ref names a message for the owner of the database.
type Ref struct {
	With   account.ID
	Number uint64
}

// Ref names the message.
func (m Message) Ref() Ref { return Ref{m.With, m.Number} }

// Quote names the message that another one answers.
type Quote struct {
	Outgoing  bool       // it is of the owner, otherwise of the other side
	Other     bool       `json:",omitempty"` // it is of neither and cannot be found
	From      account.ID `json:",omitzero"`  // whose it is, in a group; zero for the owner
	Timestamp int64
}

// Reaction is one emoji that one side put on a message.
type Reaction struct {
	Emoji string
	Mine  bool       `json:",omitempty"`
	By    account.ID `json:",omitzero"` // who it is of, in a group; zero for the owner
	At    int64      // sent time of the latest word on it, ms
	Gone  bool       `json:",omitempty"` // taken away
}

// Preview is what the sender says a link leads to.
type Preview struct{ URL, Title string }

// Attachment is a file on a file server, as the sender describes it.
type Attachment struct {
	Name    string `json:",omitempty"`
	Type    string `json:",omitempty"`
	Caption string `json:",omitempty"`
	Size    uint32 `json:",omitempty"` // bytes, before padding
	Voice   bool   `json:",omitempty"`
	Width   uint32 `json:",omitempty"`
	Height  uint32 `json:",omitempty"`
	ID      uint64 `json:",omitempty"`
	URL     string `json:",omitempty"`
	Key     []byte `json:",omitempty"`
	Digest  []byte `json:",omitempty"`
}

// Invitation is one to a community.
type Invitation struct{ URL, Name string }

// weight is what a message counts for in bounds, in bytes.
func (m Message) weight() int {
	n := len(m.Text)
	if m.Preview != nil {
		n += len(m.Preview.URL) + len(m.Preview.Title)
	}
	if m.Invitation != nil {
		n += len(m.Invitation.URL) + len(m.Invitation.Name)
	}
	for _, a := range m.Attachments {
		n += len(a.Name) + len(a.Type) + len(a.Caption) + len(a.URL) + len(a.Key) + len(a.Digest)
	}
	return n
}

// summary is the beginning of a message, for lists.
func (m Message) summary() string {
	if m.Text == "" && len(m.Attachments) > 0 {
		return "[attachment]"
	}
	return preview(m.Text)
}

// Messages returns the newest messages of a conversation, the oldest of them
// first: at most limit, and no more than maxBytes of content. With before, only
// those whose number is smaller, which is how one goes back page by page; 0 is
// from the end. "Newest" is by arrival, so that a message that comes late is seen;
// the order is by the time that is shown.
func (a *Archive) Messages(with account.ID, before uint64, limit, maxBytes int) ([]Message, error) {
	defer a.looked()
	var list []Message
	size := 0
	err := a.db.View(func(tx *bbolt.Tx) error {
		prefix := a.tag("conversation", with[:])
		c := tx.Bucket(bucketMessages).Cursor()
		k, v := seekLast(c, prefix)
		if before > 0 {
			k, v = seekBefore(c, a.messageKey(Ref{with, before}))
		}
		for ; k != nil && bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = c.Prev() {
			m, err := a.message(k, v)
			if err != nil {
				return err
			}
			if size += m.weight(); size > maxBytes && len(list) > 0 {
				break
			}
			list = append(list, m)
		}
		return nil
	})
	slices.Reverse(list)
	slices.SortStableFunc(list, func(x, y Message) int { return cmp.Compare(x.Shown(), y.Shown()) })
	return list, err
}

// Message returns one message. The error is [ErrNoMessage] or [ErrDamaged].
func (a *Archive) Message(r Ref) (m Message, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		m, _, err = a.lookUp(tx, r)
		return err
	})
	return m, err
}

// Find returns a message by its side and its sent time. The errors are those of
// Message.
func (a *Archive) Find(with account.ID, outgoing bool, timestamp int64) (m Message, err error) {
	return a.FindFrom(with, account.ID{}, outgoing, timestamp)
}

// FindFrom is Find for a group, where from wrote it; zero for the owner.
func (a *Archive) FindFrom(with, from account.ID, outgoing bool, timestamp int64) (m Message, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		number, ok := a.numberAt(tx, a.identOf(with, from, outgoing, timestamp))
		if !ok {
			return ErrNoMessage
		}
		m, _, err = a.lookUp(tx, Ref{with, number})
		return err
	})
	return m, err
}

// lookUp reads a message and gives its key.
func (a *Archive) lookUp(tx *bbolt.Tx, r Ref) (Message, []byte, error) {
	key := a.messageKey(r)
	v := tx.Bucket(bucketMessages).Get(key)
	if v == nil || r.Number == 0 {
		return Message{}, nil, ErrNoMessage
	}
	m, err := a.message(key, v)
	return m, key, err
}

// message opens one entry. Its number is in the key.
func (a *Archive) message(k, v []byte) (Message, error) {
	var m Message
	if err := a.decode(bucketMessages, k, v, &m); err != nil {
		return m, err
	}
	if len(k) != tagSize+8 {
		return m, ErrDamaged
	}
	m.Number = binary.BigEndian.Uint64(k[tagSize:])
	return m, nil
}

func (a *Archive) messageKey(r Ref) []byte {
	return binary.BigEndian.AppendUint64(a.tag("conversation", r.With[:]), r.Number)
}

// ident is the key under which a message is found by conversation, sender and
// sent time, which is also how copies under another hash are recognised.
func (a *Archive) ident(with account.ID, outgoing bool, timestamp int64) []byte {
	return a.identOf(with, account.ID{}, outgoing, timestamp)
}

// identOf is ident where somebody else than the two sides can have written: in a
// group.
func (a *Archive) identOf(with, from account.ID, outgoing bool, timestamp int64) []byte {
	side := []byte{0}
	if outgoing {
		side[0] = 1
	} else if from != (account.ID{}) {
		side = from[:]
	}
	return a.tag("ident", with[:], side, binary.BigEndian.AppendUint64(nil, uint64(timestamp)))
}

// ownIdent finds an own message by its time alone, because an unsend request
// from another own device does not name the conversation.
func (a *Archive) ownIdent(timestamp int64) []byte {
	return a.tag("own", binary.BigEndian.AppendUint64(nil, uint64(timestamp)))
}

func (a *Archive) numberOf(tx *bbolt.Tx, with account.ID, outgoing bool, timestamp int64) (uint64, bool) {
	return a.numberAt(tx, a.ident(with, outgoing, timestamp))
}

// numberAt is the number of the message that is found under a key.
func (a *Archive) numberAt(tx *bbolt.Tx, key []byte) (uint64, bool) {
	v, err := a.open(bucketIdents, key, tx.Bucket(bucketIdents).Get(key))
	if err != nil || len(v) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

// ownAt finds the conversation of an own message.
func (a *Archive) ownAt(tx *bbolt.Tx, timestamp int64) (account.ID, bool) {
	key := a.ownIdent(timestamp)
	v, err := a.open(bucketIdents, key, tx.Bucket(bucketIdents).Get(key))
	if err != nil || len(v) != len(account.ID{}) {
		return account.ID{}, false
	}
	return account.ID(v), true
}

// seekLast moves to the last key that can begin with prefix.
func seekLast(c *bbolt.Cursor, prefix []byte) (k, v []byte) {
	return seekBefore(c, append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...))
}

// seekBefore moves to the last key below one.
func seekBefore(c *bbolt.Cursor, key []byte) (k, v []byte) {
	if k, _ := c.Seek(key); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// preview is the beginning of a text, for lists.
func preview(text string) string {
	if utf8.RuneCountInString(text) <= previewRunes {
		return text
	}
	n := 0
	for i := range text {
		if n == previewRunes {
			return text[:i]
		}
		n++
	}
	return text
}
