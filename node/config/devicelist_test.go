package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/keys"
)

func deviceList(t testing.TB, seed byte) Devices {
	t.Helper()
	o, err := New(DeviceList, Options{Account: account.New(account.Seed{seed}), QuietMerges: true, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	return Devices{o}
}

func TestADeviceSpeaksForItselfAlone(t *testing.T) {
	d := deviceList(t, 1)
	first, second := keys.FromSeed([32]byte{1}), keys.FromSeed([32]byte{2})
	want := Device{ID: first.Ed25519(), Name: "kitchen", Kind: "appliance", First: 20_000, Last: 20_001}
	if err := d.Put(first, Device{Name: "kitchen", Kind: "appliance", First: 20_000, Last: 20_001}); err != nil {
		t.Fatal(err)
	}
	if got, ok := d.Find(first.Ed25519()); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := d.Find(second.Ed25519()); ok {
		t.Error("a device that said nothing")
	}
	// What is written for another device, or for another account, does not count.
	record, _ := d.Get(deviceDict, string(want.ID[:])).Bytes()
	for name, put := range map[string]func() error{
		"under another device's key": func() error {
			id := second.Ed25519()
			return d.Set(BytesValue(record), deviceDict, string(id[:]))
		},
		"with another name": func() error {
			return d.Set(BytesValue(strings.Replace(record, "kitchen", "Kitchen", 1)), deviceDict, string(want.ID[:]))
		},
		"without a signature": func() error { return d.Set(BytesValue(record[64:]), deviceDict, string(want.ID[:])) },
		"under no key":        func() error { return d.Set(BytesValue(record), deviceDict, "short") },
		"as a number":         func() error { return d.Set(IntValue(1), deviceDict, string(want.ID[:])) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		for device := range d.All() {
			if device != want {
				t.Errorf("%s: %+v", name, device)
			}
		}
		if err := d.Put(first, want); err != nil {
			t.Fatal(err)
		}
	}
	other := deviceList(t, 2)
	if err := other.Set(BytesValue(record), deviceDict, string(want.ID[:])); err != nil {
		t.Fatal(err)
	}
	if list := slices.Collect(other.All()); len(list) != 0 {
		t.Errorf("in another account: %+v", list)
	}
	if err := d.Put(first, Device{Name: strings.Repeat("a", MaxName+1)}); !errors.Is(err, ErrValue) {
		t.Errorf("a long name: %v", err)
	}
	if was, err := d.Remove(want.ID); !was || err != nil {
		t.Errorf("removed %v, %v", was, err)
	}
	if n := len(slices.Collect(d.All())); n != 0 {
		t.Errorf("%d devices are left", n)
	}
}

func TestDevicesGoThroughTheSwarmWithoutAWrapper(t *testing.T) {
	a, b := deviceList(t, 1), deviceList(t, 1)
	for i := range byte(3) {
		if err := a.Put(keys.FromSeed([32]byte{i}), Device{Name: string('a' + i)}); err != nil {
			t.Fatal(err)
		}
	}
	push, err := a.Push()
	if err != nil || push.Namespace != 18_532 || len(push.Parts) != 1 {
		t.Fatalf("namespace %d, %d parts, %v", push.Namespace, len(push.Parts), err)
	}
	if m := b.Merge([]Message{{Hash: "1", Data: push.Parts[0]}}); m.Err() != nil || len(slices.Collect(b.All())) != 3 {
		t.Errorf("%+v; devices %v", m, slices.Collect(b.All()))
	}
	for i := range byte(MaxDevices + 10) {
		if err := a.Put(keys.FromSeed([32]byte{i, 1}), Device{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(slices.Collect(a.All())); n != MaxDevices {
		t.Errorf("%d devices are given", n)
	}
}

func FuzzDeviceRecord(f *testing.F) {
	d := deviceList(f, 1)
	key := keys.FromSeed([32]byte{1})
	id := key.Ed25519()
	if err := d.Put(key, Device{Name: "kitchen"}); err != nil {
		f.Fatal(err)
	}
	record, _ := d.Get(deviceDict, string(id[:])).Bytes()
	f.Add([]byte(record))
	owner := account.New(account.Seed{1}).ID()
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, ok := readDevice(owner, string(id[:]), BytesValue(string(b))); ok && string(b) != record {
			t.Errorf("a record that the device did not sign: %+v", got)
		}
		// What is signed may still be anything.
		signed := append(key.Sign(deviceSigned(owner, id, b)), b...)
		if got, ok := readDevice(owner, string(id[:]), BytesValue(string(signed))); ok && (len(got.Name) > MaxName || len(got.Kind) > MaxName) {
			t.Errorf("%d bytes are a name", len(got.Name))
		}
	})
}
