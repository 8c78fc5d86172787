package storage

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestIndicesThatDoNotFitAreDamage(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t tables) error
	}{
		{"a hash that leads nowhere", func(t tables) error { return t.hashes.Put([]byte("x"), make([]byte, keySize)) }},
		{"a message without its hash", func(t tables) error { return t.hashes.Delete(packHash(realHash(1))) }},
		{"two hashes that lead to each other's messages", func(t tables) error {
			a, b := packHash(realHash(1)), packHash(realHash(2))
			toA, toB := t.hashes.Get(a), t.hashes.Get(b)
			return errors.Join(t.hashes.Put(a, toB), t.hashes.Put(b, toA))
		}},
		{"a message under another expiry", func(t tables) error {
			k := t.expiries.first(nil)
			return errors.Join(t.expiries.Delete(k), t.expiries.Put(expiryKey(expiryOf(k)+1, k[8:]), nil))
		}},
		{"a message in another box", func(t tables) error {
			k := t.boxes.first(nil)
			return errors.Join(t.boxes.Delete(k), t.boxes.Put(append(boxPrefix(number5(k), 7), k[boxSize:]...), nil))
		}},
		{"an account without its name", func(t tables) error { return t.names.Delete(t.names.first(nil)) }},
		{"an account under another number", func(t tables) error { return t.owners.Put(alice[:], make([]byte, 5)) }},
		{"a name of nobody", func(t tables) error { return t.names.Put([]byte("other"), alice[:]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "messages")
			db, err := Open(path, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			db.mustStore(t, message(bob, 0, "bob's, who has the first number"))
			for i := range 5 {
				m := message(alice, 0, realHash(i))
				m.Expiry = time.Now().Add(time.Hour).UnixMilli() + int64(i)
				db.mustStore(t, m)
			}
			db.consistent(t)
			if err := db.update(c.damage); err != nil {
				t.Fatal(err)
			}
			db.suspect(ErrDamaged)
			db.Close()
			if _, err := Open(path, time.Now); !errors.Is(err, ErrDamaged) {
				t.Errorf("opening it: %v", err)
			}
		})
	}
}

// BenchmarkOpen opens a database of 100,000 messages, as a node does when it starts.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "messages")
	db, err := Open(path, time.Now)
	if err != nil {
		b.Fatal(err)
	}
	for at := 0; at < 100_000; {
		err := db.update(func(tb tables) error {
			for range 1000 {
				at++
				m := message(alice, 0, realHash(at))
				m.Owner[1], m.Owner[2] = byte(at*7919), byte(at>>8)
				m.Data = make([]byte, 1000)
				if err := tb.insert(m, time.Now().Add(time.Hour).UnixMilli()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	db.Close()
	for b.Loop() {
		db, err := Open(path, time.Now)
		if err != nil {
			b.Fatal(err)
		}
		db.Close()
	}
}
