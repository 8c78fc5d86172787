package archive

import (
	"bytes"

	"go.etcd.io/bbolt"

	"hearth/node/account"
)

// MaxPicture is the largest picture of a contact that is kept, in bytes: it is a
// small one.
const MaxPicture = 64 << 10

// Picture returns the picture of a contact that KeepPicture kept, or nil when it was
// another one than they have now, or none.
func (a *Archive) Picture(id account.ID) (picture []byte, err error) {
	c, ok := a.Contact(id)
	if !ok || c.PictureURL == "" {
		return nil, nil
	}
	err = a.db.View(func(tx *bbolt.Tx) error {
		key := a.tag("picture", id[:])
		sealed := tx.Bucket(bucketPictures).Get(key)
		if sealed == nil {
			return nil
		}
		value, err := a.open(bucketPictures, key, sealed)
		if err != nil {
			return err
		}
		picture, _ = bytes.CutPrefix(value, a.pictureTag(c))
		if len(picture) == len(value) {
			picture = nil
		}
		return nil
	})
	return picture, err
}

// KeepPicture keeps the picture that a contact has at an address, in place of the
// one before. It does nothing when they have another by now.
func (a *Archive) KeepPicture(of Contact, picture []byte) error {
	if len(picture) > MaxPicture {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.contacts[of.ID]
	if c == nil || c.PictureURL != of.PictureURL || c.PictureKey != of.PictureKey {
		return nil
	}
	return a.db.Update(func(tx *bbolt.Tx) error {
		return a.put(tx, bucketPictures, a.tag("picture", of.ID[:]), append(a.pictureTag(of), picture...))
	})
}

// pictureTag says which picture it is.
func (a *Archive) pictureTag(c Contact) []byte {
	return a.tag("picture of", []byte(c.PictureURL), []byte(c.PictureKey))
}
