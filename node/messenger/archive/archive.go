// Package archive is the messenger's database: contacts, conversations, what has
// been seen already, and the nodes and guards to start from next time.
//
// It is one bbolt file, and a folder of files beside it (files.go). Every value is sealed with XChaCha20-Poly1305, and every
// key that would name somebody is an HMAC, both under keys derived from the
// account's seed: without the seed the file tells how many entries there are and
// about how long they are, not who wrote to whom, when, or what. A value is bound
// to its place, so that entries cannot be swapped either.
//
// A method that writes returns when the change is on the disk; what it returns
// may then be shown. An Archive is safe for concurrent use.
package archive

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/crypto/chacha20poly1305"

	"hearth/node/account"
	"hearth/node/wire"
)

// Errors of this package, for errors.Is.
var (
	ErrOtherAccount = errors.New("the database belongs to another account")
	ErrInUse        = errors.New("the database is in use by another process")
	ErrDamaged      = errors.New("an entry of the database is damaged")
	ErrNameTaken    = errors.New("another contact has this name")
	ErrNoMessage    = errors.New("there is no such message")
	ErrTimeTaken    = errors.New("another own message has this time")
	ErrFull         = errors.New("the outbox is full")
)

// Buckets. Their names are the same in every file and tell nothing.
var (
	bucketMeta     = []byte("meta")     // fixed names
	bucketContacts = []byte("contacts") // tag of the ID
	bucketMessages = []byte("messages") // tag of the ID, running number
	bucketIdents   = []byte("idents")   // tag of conversation, sender and time; of an own time
	bucketSeen     = []byte("seen")     // tag of the server hash
	bucketLast     = []byte("last")     // tag of node and namespace
	bucketOutbox   = []byte("outbox")   // running number
	bucketTimers   = []byte("timers")   // as in messages, for those that disappear
	bucketOrphans  = []byte("orphans")  // as in idents, of messages that are not there yet
	bucketPictures = []byte("pictures") // tag of the ID
	bucketGroups   = []byte("groups")   // tag of the group, see group.go
)

const (
	derivation = "hearth messenger database 1"
	tagSize    = 16 // bytes of an HMAC that are kept: enough against chance
	lockWait   = time.Second
)

// Archive is an open database. See the package comment.
type Archive struct {
	account *account.Account
	own     account.ID

	db   *bbolt.DB
	rand io.Reader
	now  func() time.Time
	aead cipher.AEAD
	tags [32]byte // HMAC key

	shelf shelf

	looks atomic.Uint64 // into the database, see pages.go

	mu       sync.Mutex // held while writing and while the caches are read
	configs  hosted
	device   deviceSelf
	contacts map[account.ID]*Contact
	timers   map[string]int64 // of bucketTimers: when a message disappears, ms
	seen     int              // entries of bucketSeen
	orphans  int              // entries of bucketOrphans
	waiting  int              // entries of bucketOutbox
}

// Open opens or makes the file of an account, which must stay open as long. rand
// draws nonces; now is the network's time, by which old entries go.
//
// The errors are [ErrOtherAccount], [ErrInUse], and those of the file system.
func Open(file string, own *account.Account, rand io.Reader, now func() time.Time) (*Archive, error) {
	secret := own.Keys().Seed()
	defer clear(secret[:])
	derived, err := hkdf.Key(sha256.New, secret[:], nil, derivation, 64)
	if err != nil {
		return nil, fmt.Errorf("deriving the database key: %w", err)
	}
	defer clear(derived)
	aead, err := chacha20poly1305.NewX(derived[:32])
	if err != nil {
		return nil, fmt.Errorf("deriving the database key: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("folder of the database: %w", err)
	}
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w", file, ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	a := &Archive{account: own, own: own.ID(), db: db, rand: rand, now: now, aead: aead, tags: [32]byte(derived[32:]),
		shelf:    shelf{dir: filesFolder(file), space: MaxFileBytes, files: make(map[string]kept), holds: make(map[string]int)},
		contacts: make(map[account.ID]*Contact), timers: make(map[string]int64)}
	if err := a.load(); err != nil {
		db.Close()
		return nil, err
	}
	return a, nil
}

// Close closes the file and forgets the key of its names.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.db.Close()
	clear(a.tags[:])
	clear(a.contacts)
	for _, kind := range ConfigKinds {
		if o := a.configs.Object(kind); o != nil {
			o.Wipe()
		}
	}
	return err
}

// WriteTo writes the database as it is on the disk at one moment, for a copy of
// it. What changes meanwhile is not in the copy.
func (a *Archive) WriteTo(w io.Writer) (n int64, err error) {
	err = a.db.View(func(tx *bbolt.Tx) error {
		n, err = tx.WriteTo(w)
		return err
	})
	return n, err
}

var checkKey, checkValue = []byte("check"), []byte("hearth")

func (a *Archive) load() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketContacts, bucketMessages, bucketIdents, bucketSeen, bucketLast,
			bucketOutbox, bucketTimers, bucketOrphans, bucketFiles, bucketPictures, bucketGroups, bucketConfigs} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if sealed := tx.Bucket(bucketMeta).Get(checkKey); sealed != nil {
			if _, err := a.open(bucketMeta, checkKey, sealed); err != nil {
				return ErrOtherAccount
			}
		} else if err := a.put(tx, bucketMeta, checkKey, checkValue); err != nil {
			return err
		}
		if err := a.loadConfigs(tx); err != nil {
			return err
		}
		if err := a.loadDevice(tx); err != nil {
			return err
		}
		err := tx.Bucket(bucketContacts).ForEach(func(k, v []byte) error {
			var c Contact
			if err := a.decode(bucketContacts, k, v, &c); err != nil {
				return err
			}
			a.fill(&c)
			a.contacts[c.ID] = &c
			return nil
		})
		if err != nil {
			return err
		}
		if err := a.loadTimers(tx); err != nil {
			return err
		}
		if err := a.loadFiles(tx); err != nil {
			return err
		}
		a.orphans = tx.Bucket(bucketOrphans).Stats().KeyN
		a.waiting = tx.Bucket(bucketOutbox).Stats().KeyN
		a.seen, err = a.forgetSeen(tx)
		a.letGo(tx)
		return err
	})
}

// tag turns a name into a key of the database that only this account can
// compute. The kind keeps equal names of different things apart.
func (a *Archive) tag(kind string, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, a.tags[:])
	h.Write([]byte(kind))
	for _, p := range parts {
		h.Write([]byte{byte(len(p) >> 8), byte(len(p))})
		h.Write(p)
	}
	return h.Sum(nil)[:tagSize]
}

func place(bucket, key []byte) []byte {
	return append(append(append([]byte(nil), bucket...), 0), key...)
}

func (a *Archive) put(tx *bbolt.Tx, bucket, key, value []byte) error {
	sealed := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(value)+a.aead.Overhead())
	if _, err := io.ReadFull(a.rand, sealed); err != nil {
		return fmt.Errorf("drawing a nonce: %w", err)
	}
	b := tx.Bucket(bucket)
	if string(bucket) == string(bucketMessages) {
		b.FillPercent = 0.9 // they come in order, so that pages are not halved for nothing
	}
	return b.Put(key, a.aead.Seal(sealed, sealed, value, place(bucket, key)))
}

func (a *Archive) open(bucket, key, sealed []byte) ([]byte, error) {
	return a.openInto(nil, place(bucket, key), sealed)
}

// openInto appends to dst what was sealed for a place.
func (a *Archive) openInto(dst, place, sealed []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return dst, ErrDamaged
	}
	value, err := a.aead.Open(dst, sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:], place)
	if err != nil {
		return dst, ErrDamaged
	}
	return value, nil
}

// encode seals a value as JSON, padded like a message on the wire so that its
// length tells little.
func (a *Archive) encode(tx *bbolt.Tx, bucket, key []byte, value any) error {
	b, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return a.put(tx, bucket, key, wire.Pad(b))
}

func (a *Archive) decode(bucket, key, sealed []byte, value any) error {
	b, err := a.open(bucket, key, sealed)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(wire.Unpad(b), value); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
