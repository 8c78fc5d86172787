package config

import (
	"encoding/hex"
	"fmt"
	"iter"

	"hearth/node/account"
)

// The keys of contacts who are known by a blinded id alone, by the letters of
// libsession-util's contacts.cpp of 2026:
//
//	b -> base URL -> { #: server's public key, R -> { 64 hexadecimal digits -> contact } }
const (
	blindedDict   = "b"
	blindedLegacy = "y"
)

// BlindedContact is somebody from a community server who has not revealed their
// Session ID, and with whom messages were exchanged through that server.
type BlindedContact struct {
	Server    string   // base URL in canonical form
	ServerKey [32]byte // the server's X25519 public key
	ID        account.ID
	Name      string
	Picture   Picture
	Priority  int64 // 0 as it comes, higher further up, -1 hidden
	Created   int64 // unix seconds
	Updated   int64 // unix seconds; when their profile changed, 0 = unknown
}

// Blinded visits the contacts with blinded ids, by server and id.
func (c Contacts) Blinded() iter.Seq[BlindedContact] {
	data := c.Data()
	return func(yield func(BlindedContact) bool) {
		for room, d := range data.rooms(blindedDict) {
			key, err := hex.DecodeString(room.Name)
			if err != nil || len(key) != account.IDSize-1 {
				continue
			}
			id := account.ID{account.PrefixBlinded25}
			if d.flag(blindedLegacy) {
				id[0] = account.PrefixBlinded15
			}
			copy(id[1:], key)
			if !yield(BlindedContact{
				Server:    room.Server,
				ServerKey: room.Key,
				ID:        id,
				Name:      d.text(contactName),
				Picture:   d.picture(contactURL, contactKey),
				Priority:  d.int(contactPriority),
				Created:   d.unixTime(contactCreated),
				Updated:   d.unixTime(contactUpdated),
			}) {
				return
			}
		}
	}
}

// PutBlinded stores a contact with a blinded id. Errors: [ErrValue] for another
// id, for an invalid server and for an address above [MaxPictureURL] bytes.
func (c Contacts) PutBlinded(b BlindedContact) error {
	path, err := b.path()
	if err != nil {
		return fmt.Errorf("storing a blinded contact: %w", err)
	}
	if err := checkLength("picture address", b.Picture.URL, MaxPictureURL); err != nil {
		return err
	}
	return c.change(func(t *tree) {
		t.at(blindedDict, path[1]).always(serverKey, string(b.ServerKey[:]))
		f := t.at(path...)
		f.always(contactName, cut(b.Name))
		f.picture(contactURL, contactKey, b.Picture)
		f.int(contactPriority, b.Priority)
		f.flag(blindedLegacy, b.ID.Prefix() == account.PrefixBlinded15)
		f.positive(contactCreated, b.Created)
		f.positive(contactUpdated, b.Updated)
	})
}

// RemoveBlinded erases the contact with that server and id and reports whether
// there was one.
func (c Contacts) RemoveBlinded(b BlindedContact) (was bool, err error) {
	path, err := b.path()
	if err != nil {
		return false, fmt.Errorf("erasing a blinded contact: %w", err)
	}
	err = c.change(func(t *tree) {
		if was = t.erase(path...); was {
			t.sweepServer(blindedDict, path[1])
		}
	})
	return was, err
}

func (b BlindedContact) path() ([]string, error) {
	server, err := CanonicalServer(b.Server)
	if err != nil {
		return nil, err
	}
	if p := b.ID.Prefix(); p != account.PrefixBlinded15 && p != account.PrefixBlinded25 {
		return nil, fmt.Errorf("id with prefix %02x: %w", p, ErrValue)
	}
	return []string{blindedDict, server, serverRooms, hex.EncodeToString(b.ID[1:])}, nil
}
