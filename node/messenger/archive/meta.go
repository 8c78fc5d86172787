package archive

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"go.etcd.io/bbolt"

	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

var (
	metaNodes      = []byte("nodes")
	metaProfile    = []byte("profile")
	metaUnreadable = []byte("unreadable")
	metaStamp      = []byte("stamp")
	metaSettings   = []byte("settings")
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

// Profile is what the owner calls itself in messages.
type Profile struct {
	Name  string
	Since int64 // seconds
}

// Profile returns what SetProfile kept, or nothing.
func (a *Archive) Profile() (p Profile, err error) {
	b, err := a.meta(metaProfile)
	if err != nil || b == nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return Profile{}, fmt.Errorf("profile: %w", ErrDamaged)
	}
	return p, nil
}

// SetProfile keeps the name and returns it with the time since which it is so.
func (a *Archive) SetProfile(name string) (Profile, error) {
	p, err := a.Profile()
	if err != nil || p.Name == name {
		return p, err
	}
	p = Profile{Name: name, Since: a.now().Unix()}
	b, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	return p, a.putMeta(metaProfile, b)
}

// Settings is what the owner wants. What is not set is off.
type Settings struct {
	ReadReceipts bool // tell and be told what was read
	Typing       bool // tell and be told who is writing
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
