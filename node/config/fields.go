package config

import (
	"fmt"
	"unicode/utf8"

	"hearth/node/account"
)

// Limits of texts in bytes, libsession-util's. Readers take longer ones.
const (
	MaxName        = 100 // names and nicknames of people and groups
	MaxDescription = 2000
	MaxPictureURL  = 223
	MaxServerURL   = 267
	MaxRoom        = 64
)

// CutName shortens a name to [MaxName] bytes, at the end of a character.
func CutName(name string) string {
	if len(name) <= MaxName {
		return name
	}
	end := MaxName
	for end > 0 && !utf8.RuneStart(name[end]) {
		end--
	}
	return name[:end]
}

func checkLength(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d: %w", what, len(s), limit, ErrValue)
	}
	return nil
}

// Picture is where a profile picture lies and the key that opens it. It is
// there when URL is not empty.
type Picture struct {
	URL string
	Key Key
}

// Notifications says when a conversation makes itself heard.
type Notifications int64

// The settings of [Notifications].
const (
	NotifyDefault  Notifications = iota
	NotifyAll                    // every message
	NotifyOff                    // none
	NotifyMentions               // only where one is named; groups alone
)

// Expiry says when a message begins to disappear.
type Expiry int64

// The kinds of [Expiry].
const (
	ExpiryNone Expiry = iota
	ExpiryAfterSend
	ExpiryAfterRead
)

// The reading side of the value rules: what is missing or of the wrong type is
// zero.

func (d *Dict) int(key string) int64 {
	n, _ := d.Get(key).Int()
	return n
}

func (d *Dict) flag(key string) bool { return d.int(key) != 0 }

func (d *Dict) positive(key string) int64 { return max(d.int(key), 0) }

func (d *Dict) text(key string) string {
	s, _ := d.Get(key).Bytes()
	return s
}

func (d *Dict) key32(key string) (Key, bool) {
	s := d.text(key)
	if len(s) != len(Key{}) {
		return Key{}, false
	}
	return Key([]byte(s)), true
}

func (d *Dict) picture(url, key string) Picture {
	k, ok := d.key32(key)
	if !ok || d.text(url) == "" {
		return Picture{}
	}
	return Picture{d.text(url), k}
}

// unixTime reads unix seconds. Some clients have written milliseconds and
// microseconds, which are recognised by their size, as libsession-util does.
func (d *Dict) unixTime(key string) int64 {
	n := d.positive(key)
	switch {
	case n > 100_000_000_000_000:
		return n / 1_000_000
	case n > 100_000_000_000:
		return n / 1_000
	}
	return n
}

// fields writes the values of one dictionary of a tree by the value rules: what
// is zero has no key.
type fields struct {
	t    *tree
	path []string
}

func (t *tree) at(path ...string) fields { return fields{t, path} }

// in is a dictionary inside of this one.
func (f fields) in(path ...string) fields { return fields{f.t, f.to(path...)} }

func (f fields) to(key ...string) []string {
	return append(f.path[:len(f.path):len(f.path)], key...)
}

func (f fields) erase(key string) { f.t.erase(f.to(key)...) }

func (f fields) always(key, s string) { f.t.set(BytesValue(s), f.to(key)...) }

func (f fields) alwaysInt(key string, n int64) { f.t.set(IntValue(n), f.to(key)...) }

func (f fields) text(key, s string) {
	if s == "" {
		f.erase(key)
		return
	}
	f.always(key, s)
}

func (f fields) int(key string, n int64) {
	if n == 0 {
		f.erase(key)
		return
	}
	f.alwaysInt(key, n)
}

func (f fields) positive(key string, n int64) { f.int(key, max(n, 0)) }

func (f fields) flag(key string, b bool) {
	if b {
		f.int(key, 1)
	} else {
		f.erase(key)
	}
}

func (f fields) picture(url, key string, p Picture) {
	if p.URL == "" {
		f.erase(url)
		f.erase(key)
		return
	}
	f.always(url, p.URL)
	f.always(key, string(p.Key[:]))
}

// members makes the set at key hold exactly those elements.
func (f fields) members(key string, want []Value) {
	path := f.to(key)
	for _, v := range without(f.t.root.Get(path...).elems, want) {
		f.t.exclude(v, path...)
	}
	for _, v := range want {
		f.t.include(v, path...)
	}
}

// idOf reads a key of the tree that is an id with that prefix.
func idOf(key string, prefix byte) (account.ID, bool) {
	if len(key) != account.IDSize || key[0] != prefix {
		return account.ID{}, false
	}
	return account.ID([]byte(key)), true
}

func checkID(id account.ID, prefix byte) error {
	if id.Prefix() != prefix {
		return fmt.Errorf("id with prefix %02x where %02x belongs: %w", id.Prefix(), prefix, ErrValue)
	}
	return nil
}
