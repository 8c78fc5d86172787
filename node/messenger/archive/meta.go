package archive

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/config"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

var (
	metaNodes      = []byte("nodes")
	metaProfile    = []byte("profile")
	metaUnreadable = []byte("unreadable")
	metaStamp      = []byte("stamp")
	metaSettings   = []byte("settings")
	metaPicture    = []byte("picture")
)

// nodeSize is the size of one node in the saved list: two keys, IPv4 address,
// port, swarm, height.
const nodeSize = 32 + 32 + 4 + 2 + 8 + 8

// SaveNodes keeps the pool of service nodes and the guards.
func (a *Archive) SaveNodes(s path.Saved) error {
	b := binary.BigEndian.AppendUint64(nil, s.Height)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Fetched.UnixMilli()))
	b = append(b, byte(len(s.Guards)))
	for _, g := range s.Guards {
		b = append(b, g[:]...)
	}
	for _, n := range s.Nodes {
		ip := n.Address.Addr().As4()
		b = append(b, n.Ed25519[:]...)
		b = append(b, n.X25519[:]...)
		b = append(b, ip[:]...)
		b = binary.BigEndian.AppendUint16(b, n.Address.Port())
		b = binary.BigEndian.AppendUint64(b, uint64(n.Swarm))
		b = binary.BigEndian.AppendUint64(b, n.RequestedUnlockHeight)
	}
	return a.putMeta(metaNodes, b)
}

// Nodes returns what SaveNodes kept, or nothing.
func (a *Archive) Nodes() (path.Saved, error) {
	b, err := a.meta(metaNodes)
	if err != nil || b == nil {
		return path.Saved{}, err
	}
	bad := fmt.Errorf("node list: %w", ErrDamaged)
	if len(b) < 17 {
		return path.Saved{}, bad
	}
	s := path.Saved{
		Height:  binary.BigEndian.Uint64(b),
		Fetched: time.UnixMilli(int64(binary.BigEndian.Uint64(b[8:]))),
	}
	guards := int(b[16])
	b = b[17:]
	if len(b) < 32*guards || (len(b)-32*guards)%nodeSize != 0 {
		return path.Saved{}, bad
	}
	for ; guards > 0; guards-- {
		s.Guards = append(s.Guards, [32]byte(b))
		b = b[32:]
	}
	for ; len(b) > 0; b = b[nodeSize:] {
		s.Nodes = append(s.Nodes, swarm.Node{
			Ed25519:               [32]byte(b),
			X25519:                [32]byte(b[32:]),
			Address:               netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[64:])), binary.BigEndian.Uint16(b[68:])),
			Swarm:                 swarm.ID(binary.BigEndian.Uint64(b[70:])),
			RequestedUnlockHeight: binary.BigEndian.Uint64(b[78:]),
		})
	}
	return s, nil
}

// Profile is what the owner is called and looks like in messages, on all devices.
type Profile struct {
	Name  string
	Since int64 // of the latest change, in seconds

	PictureURL string // where the picture is, "" = there is none
	PictureKey string // 64 hexadecimal digits that open it
	PictureAt  int64  // when this device last uploaded it, in seconds; 0 = another one did
}

// ownUpload is the picture that this device has uploaded.
type ownUpload struct {
	URL string
	At  int64 // seconds
}

// Profile returns the profile, or nothing.
func (a *Archive) Profile() (p Profile, err error) {
	b, err := a.meta(metaProfile)
	if err != nil {
		return p, err
	}
	var upload ownUpload
	if b != nil {
		if err := json.Unmarshal(b, &upload); err != nil {
			return Profile{}, fmt.Errorf("profile: %w", ErrDamaged)
		}
	}
	a.ViewConfigs(func(c *Configs) { p = profileOf(c) })
	if upload.URL == p.PictureURL {
		p.PictureAt = upload.At
	}
	return p, nil
}

func profileOf(c *Configs) Profile {
	p := Profile{Name: Tidy(c.Profile.Name(), config.MaxName), Since: c.Profile.Updated()}
	p.PictureURL, p.PictureKey = pictureOf(c.Profile.Picture())
	return p
}

// SetProfile keeps the name and returns the profile with the time since which it is
// so.
func (a *Archive) SetProfile(name string) (Profile, error) {
	err := a.UpdateConfigs(func(c *Configs) error {
		if before := profileOf(c); before.Name == name && before.Since != 0 {
			return nil
		}
		if err := c.Profile.SetName(name); err != nil {
			return err
		}
		return c.Profile.SetUpdated(a.later(c.Profile.Updated()))
	})
	if err != nil {
		return Profile{}, err
	}
	return a.Profile()
}

// SetPicture keeps the owner's picture: where it is, the key that opens it, and the
// upload, at most some hundred kilobytes. Without an address there is none any more.
func (a *Archive) SetPicture(url, key string, upload []byte) (Profile, error) {
	_, err := a.change(func(tx *bbolt.Tx, w *change) error {
		c := w.configs()
		if err := c.Profile.SetPicture(pictureFrom(url, key)); err != nil {
			return err
		}
		if err := c.Profile.SetUpdated(a.later(c.Profile.Updated())); err != nil {
			return err
		}
		if url == "" {
			return tx.Bucket(bucketMeta).Delete(metaPicture)
		}
		if err := a.putUpload(tx, url); err != nil {
			return err
		}
		return a.put(tx, bucketMeta, metaPicture, upload)
	})
	if err != nil {
		return Profile{}, err
	}
	return a.Profile()
}

// later is the time of a change of the profile, in seconds. Others take a newer one
// only, so that two changes in one second must not have the same.
func (a *Archive) later(before int64) int64 { return max(a.now().Unix(), before+1) }

// PictureUploaded takes note that the picture was uploaded once more.
func (a *Archive) PictureUploaded() (Profile, error) {
	p, err := a.Profile()
	if err != nil {
		return p, err
	}
	a.mu.Lock()
	err = a.db.Update(func(tx *bbolt.Tx) error { return a.putUpload(tx, p.PictureURL) })
	a.mu.Unlock()
	if err != nil {
		return p, err
	}
	return a.Profile()
}

func (a *Archive) putUpload(tx *bbolt.Tx, url string) error {
	b, err := json.Marshal(ownUpload{url, a.now().Unix()})
	if err != nil {
		return err
	}
	return a.put(tx, bucketMeta, metaProfile, b)
}

// OwnPicture is the upload that SetPicture kept, nil for none.
func (a *Archive) OwnPicture() ([]byte, error) { return a.meta(metaPicture) }

// Settings is what the owner wants. What is not set is off.
type Settings struct {
	ReadReceipts bool // tell and be told what was read
	Typing       bool // tell and be told who is writing
	LockMinutes  int  `json:",omitempty"` // without use until the account locks, 0 = never
}

// Settings returns what SetSettings kept, or nothing.
func (a *Archive) Settings() (s Settings, err error) {
	b, err := a.meta(metaSettings)
	if err != nil || b == nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Settings{}, fmt.Errorf("settings: %w", ErrDamaged)
	}
	return s, nil
}

// SetSettings keeps the settings.
func (a *Archive) SetSettings(s Settings) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return a.putMeta(metaSettings, b)
}

// Unreadable is the number of messages so far that could not be read.
func (a *Archive) Unreadable() (n uint32) {
	_ = a.db.View(func(tx *bbolt.Tx) error { n = a.unreadable(tx); return nil })
	return n
}

func (a *Archive) unreadable(tx *bbolt.Tx) uint32 {
	b, err := a.open(bucketMeta, metaUnreadable, tx.Bucket(bucketMeta).Get(metaUnreadable))
	if err != nil || len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// LastSent is the latest sent time of an own message, in ms, or 0. The next one
// must be later: sender and time are the name of a message.
func (a *Archive) LastSent() (ms int64) {
	_ = a.db.View(func(tx *bbolt.Tx) error { ms = a.lastSent(tx); return nil })
	return ms
}

func (a *Archive) lastSent(tx *bbolt.Tx) int64 {
	b, err := a.open(bucketMeta, metaStamp, tx.Bucket(bucketMeta).Get(metaStamp))
	if err != nil || len(b) != 8 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b))
}

func (a *Archive) meta(key []byte) ([]byte, error) {
	var value []byte
	err := a.db.View(func(tx *bbolt.Tx) (err error) {
		if sealed := tx.Bucket(bucketMeta).Get(key); sealed != nil {
			value, err = a.open(bucketMeta, key, sealed)
		}
		return err
	})
	return value, err
}

func (a *Archive) putMeta(key, value []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.db.Update(func(tx *bbolt.Tx) error { return a.put(tx, bucketMeta, key, value) })
}
