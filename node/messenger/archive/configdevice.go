package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"hearth/node/config"
	"hearth/node/keys"
)

var metaDevice = []byte("device")

// deviceSelf is what this device is to the others. Its key never leaves it: a
// database that is copied makes one device of two.
type deviceSelf struct {
	Seed  []byte   // of its Ed25519 key
	Name  string   // chosen by the owner, "" = none yet
	First int64    // day on which it came to the account
	Fresh [][]byte `json:",omitempty"` // devices that came later and that the owner has not looked at
}

// maxFresh bounds the devices that are remembered as new.
const maxFresh = config.MaxDevices

// loadDevice reads what this device is, or makes it anew: a device whose entry is
// damaged is another one from now on.
func (a *Archive) loadDevice(tx *bbolt.Tx) error {
	a.device = deviceSelf{}
	if sealed := tx.Bucket(bucketMeta).Get(metaDevice); sealed != nil {
		b, err := a.open(bucketMeta, metaDevice, sealed)
		if err == nil {
			err = json.Unmarshal(b, &a.device)
		}
		if err == nil && len(a.device.Seed) == 32 {
			return nil
		}
	}
	a.device = deviceSelf{Seed: make([]byte, 32)}
	if _, err := io.ReadFull(a.rand, a.device.Seed); err != nil {
		return fmt.Errorf("drawing the key of this device: %w", err)
	}
	return a.putDevice(tx, a.device)
}

func (a *Archive) putDevice(tx *bbolt.Tx, d deviceSelf) error {
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return a.put(tx, bucketMeta, metaDevice, b)
}

func (d deviceSelf) pair() *keys.Pair { return keys.FromSeed([32]byte(d.Seed)) }

// today is the day, counted from 1970.
func (a *Archive) today() int64 { return a.now().Unix() / (24 * 60 * 60) }

// SignIn has this device say that it is at work: its record is made anew when that
// is another than what the devices of the account know, which is once a day. name
// counts until the owner chooses another, with a number behind it when one of the
// account's devices is called so already: two of a kind begin with the same.
func (a *Archive) SignIn(name, kind string) error {
	return a.signIn(kind, func(d *deviceSelf) {
		if d.Name == "" {
			d.Name = a.freeName(name)
		}
	})
}

func (a *Archive) freeName(name string) string {
	taken := make(map[string]bool)
	for d := range a.configs.Devices.All() {
		taken[strings.ToLower(Tidy(d.Name, config.MaxName))] = true
	}
	free := config.CutName(name)
	for n := 2; taken[strings.ToLower(free)]; n++ {
		number := fmt.Sprintf(" %d", n)
		free = Tidy(name, config.MaxName-len(number)) + number
	}
	return free
}

// SignOut takes this device's record out of the devices of the account, and reports
// whether there are others. It is for a device that leaves.
func (a *Archive) SignOut() (others bool, err error) {
	err = a.UpdateConfigs(func(c *Configs) error {
		pair := a.device.pair()
		defer pair.Wipe()
		if _, err := c.Devices.Remove(pair.Ed25519()); err != nil {
			return err
		}
		for range c.Devices.All() {
			others = true
		}
		return nil
	})
	return others, err
}

// RenameDevice is for the owner to call this device something else.
func (a *Archive) RenameDevice(name, kind string) error {
	return a.signIn(kind, func(d *deviceSelf) { d.Name = name })
}

func (a *Archive) signIn(kind string, f func(d *deviceSelf)) error {
	_, err := a.change(func(tx *bbolt.Tx, w *change) error {
		next := a.device
		pair := next.pair()
		defer pair.Wipe()
		devices := w.configs().Devices
		record, found := devices.Find(pair.Ed25519())
		f(&next)
		if next.First == 0 {
			next.First = a.today()
		}
		w.device = &next
		if err := a.putDevice(tx, next); err != nil {
			return err
		}
		// The day only grows: a clock that was wrong once must not move it back.
		now := config.Device{ID: pair.Ed25519(), Name: next.Name, Kind: config.CutName(kind), First: next.First, Last: max(record.Last, a.today())}
		if found && record == now {
			return nil
		}
		return devices.Put(pair, now)
	})
	return err
}

// Devices gives the devices of the account, and which is this one. With look the
// owner has looked at them, and none is new any more.
func (a *Archive) Devices(look bool) (list []config.Device, own [32]byte, fresh map[[32]byte]bool, err error) {
	a.mu.Lock()
	pair := a.device.pair()
	own = pair.Ed25519()
	pair.Wipe()
	list = slices.Collect(a.configs.Devices.All())
	fresh = make(map[[32]byte]bool)
	for _, id := range a.device.Fresh {
		if len(id) == 32 {
			fresh[[32]byte(id)] = true
		}
	}
	next := a.device
	a.mu.Unlock()
	for i := range list {
		list[i].Name, list[i].Kind = Tidy(list[i].Name, config.MaxName), Tidy(list[i].Kind, config.MaxName)
	}
	if !look || len(fresh) == 0 {
		return list, own, fresh, nil
	}
	next.Fresh = nil
	if _, err := a.change(func(tx *bbolt.Tx, w *change) error {
		w.device = &next
		return a.putDevice(tx, next)
	}); err != nil {
		return nil, own, nil, err
	}
	return list, own, fresh, nil
}

// FreshDevices is the number of devices that came to the account and that the owner
// has not looked at.
func (a *Archive) FreshDevices() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.device.Fresh)
}

// newDevices takes note of devices that nobody has seen before. Those that were
// there before this one are no news.
func (w *change) newDevices(tx *bbolt.Tx, was map[[32]byte]bool) error {
	pair := w.a.device.pair()
	own := pair.Ed25519()
	pair.Wipe()
	if !was[own] {
		return nil
	}
	next := w.a.device
	next.Fresh = slices.Clone(next.Fresh)
	for d := range w.configs().Devices.All() {
		if was[d.ID] || d.ID == own {
			continue
		}
		d.Name, d.Kind = Tidy(d.Name, config.MaxName), Tidy(d.Kind, config.MaxName)
		w.result.Configs.Devices = append(w.result.Configs.Devices, d)
		if len(next.Fresh) < maxFresh {
			next.Fresh = append(next.Fresh, d.ID[:])
		}
	}
	if len(w.result.Configs.Devices) == 0 {
		return nil
	}
	w.device = &next
	return w.a.putDevice(tx, next)
}
