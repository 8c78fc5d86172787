package config

import (
	"fmt"
	"iter"
	"slices"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/keys"
)

// The devices of an account are ours alone: no Session client knows this config.
// It lies in a namespace of its own so that no client is disturbed by it. The
// number is what the letters "Hd" are as one: Session counts its namespaces up
// from 0 and lately down from 0, and uses 9999 for what never leaves a device, so
// that one in the middle of nowhere stays free; not being divisible by 10, it asks
// for the account's signature to write as well as to read (storage server,
// namespace.h). Clients poll only the namespaces they know, and a client that
// deletes everything of the account deletes this, too. It goes without the protobuf
// wrapper, which would need a number of Session's SharedConfigMessage.Kind.
const (
	deviceNamespace = 'H'<<8 | 'd'
	deviceDomain    = "HearthDevices"

	// A record is one byte string, the signature in front, so that a merge never
	// mixes two.
	deviceDict  = "d"
	deviceFirst = "f"
	deviceKind  = "k"
	deviceLast  = "l"
	deviceName  = "n"

	deviceText = "hearth device 1" // in front of what is signed

	signatureSize = 64
	maxRecord     = 512
	maxRecords    = 4 * MaxDevices // that are looked at: a signature costs time
)

// MaxDevices is how many devices [Devices.All] gives at most.
const MaxDevices = 64

// Devices is the view of a [DeviceList]: the devices of the account that say so
// themselves. Whoever has the account's seed can take another device's record
// away, but cannot make or change one.
type Devices struct{ *Object }

// Device is what a device says about itself.
type Device struct {
	ID    [32]byte // Ed25519 public key, whose other half only the device has
	Name  string   // chosen by the owner; at most [MaxName] bytes, a stranger's text
	Kind  string   // what sort of device it is; likewise
	First int64    // day on which it came to the account, counted from 1970-01-01 UTC
	Last  int64    // day on which it was last at work
}

// All visits the devices in ascending order of their keys. Records without the
// device's own signature are passed over.
func (d Devices) All() iter.Seq[Device] {
	entries := d.Get(deviceDict).Dict()
	owner := d.options.Account.ID()
	return func(yield func(Device) bool) {
		n, looked := 0, 0
		for key, v := range entries.All() {
			if looked++; looked > maxRecords {
				return
			}
			device, ok := readDevice(owner, key, v)
			if !ok {
				continue
			}
			if n++; n > MaxDevices || !yield(device) {
				return
			}
		}
	}
}

// Find returns one device.
func (d Devices) Find(id [32]byte) (Device, bool) {
	return readDevice(d.options.Account.ID(), string(id[:]), d.Get(deviceDict, string(id[:])))
}

// Put stores the record of the device that has the key pair, which signs it; ID is
// that of the key. Errors: [ErrValue] for a name or kind above [MaxName] bytes.
func (d Devices) Put(key *keys.Pair, device Device) error {
	for what, s := range map[string]string{"device name": device.Name, "kind of device": device.Kind} {
		if err := checkLength(what, s, MaxName); err != nil {
			return err
		}
	}
	content, err := bt.Marshal(bt.Dict{deviceFirst: device.First, deviceKind: device.Kind, deviceLast: device.Last, deviceName: device.Name})
	if err != nil {
		return fmt.Errorf("record of a device: %w", err)
	}
	device.ID = key.Ed25519()
	record := append(key.Sign(deviceSigned(d.options.Account.ID(), device.ID, content)), content...)
	return d.change(func(t *tree) { t.set(BytesValue(string(record)), deviceDict, string(device.ID[:])) })
}

// Remove erases a record and reports whether there was one. The device is no less a
// device of the account, and may write another.
func (d Devices) Remove(id [32]byte) (bool, error) { return d.remove(deviceDict, string(id[:])) }

// deviceSigned binds a record to the device and to the account.
func deviceSigned(owner account.ID, id [32]byte, content []byte) []byte {
	return slices.Concat([]byte(deviceText), owner[:], id[:], content)
}

func readDevice(owner account.ID, key string, v Value) (Device, bool) {
	record, ok := v.Bytes()
	if !ok || len(key) != 32 || len(record) <= signatureSize || len(record) > maxRecord {
		return Device{}, false
	}
	d := Device{ID: [32]byte([]byte(key))}
	signature, content := []byte(record[:signatureSize]), []byte(record[signatureSize:])
	if !keys.Verify(d.ID, deviceSigned(owner, d.ID, content), signature) {
		return Device{}, false
	}
	value, err := bt.Unmarshal(content)
	fields, ok := value.(bt.Dict)
	if err != nil || !ok {
		return Device{}, false
	}
	name, _ := fields[deviceName].([]byte)
	kind, _ := fields[deviceKind].([]byte)
	d.Name, d.Kind = string(name), string(kind)
	d.First, _ = fields[deviceFirst].(int64)
	d.Last, _ = fields[deviceLast].(int64)
	return d, len(d.Name) <= MaxName && len(d.Kind) <= MaxName
}
