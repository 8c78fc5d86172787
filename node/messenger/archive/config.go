package archive

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/wire"
)

// The configs (package config) that all devices of the account share are kept here
// as well: the owner's profile, contacts, read state, groups and devices have their
// truth there. What a [Contact] shares with them is filled from them and goes into
// them in the transaction that changes it (contact fields in configshare.go), so
// that whatever moment a power cut picks, the two agree.

var bucketConfigs = []byte("configs") // kind

// Configs are the configs of the account.
type Configs struct {
	Profile       config.Profile
	Contacts      config.Contacts
	Conversations config.Conversations
	Groups        config.Groups
	Devices       config.Devices
}

// ConfigKinds are the configs that an archive keeps, in the order in which they
// are to be polled.
var ConfigKinds = append(slices.Clone(config.AccountKinds), config.DeviceList)

// Object is the config of a kind, nil for one that is not of an account.
func (c *Configs) Object(kind config.Kind) *config.Object {
	switch kind {
	case config.UserProfile:
		return c.Profile.Object
	case config.ContactList:
		return c.Contacts.Object
	case config.ConvoVolatile:
		return c.Conversations.Object
	case config.UserGroups:
		return c.Groups.Object
	case config.DeviceList:
		return c.Devices.Object
	}
	return nil
}

func (c *Configs) set(kind config.Kind, o *config.Object) {
	switch kind {
	case config.UserProfile:
		c.Profile.Object = o
	case config.ContactList:
		c.Contacts.Object = o
	case config.ConvoVolatile:
		c.Conversations.Object = o
	case config.UserGroups:
		c.Groups.Object = o
	case config.DeviceList:
		c.Devices.Object = o
	}
}

// hosted is what an archive has besides the configs themselves.
type hosted struct {
	Configs
	written map[config.Kind]*config.Dict // each config's data as it was last written
	pushes  chan struct{}
	damaged []config.Kind
}

// ViewConfigs lets f look at the configs. It must not keep their views, nor call
// the archive.
func (a *Archive) ViewConfigs(f func(*Configs)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.configs.Configs)
}

// UpdateConfigs lets f change the configs, of which either all is on the disk
// afterwards or, when f or the disk fails, nothing has changed. It must not keep
// the views, nor call the archive. What belongs together with other entries of the
// database is changed through configs of the transaction that does it.
func (a *Archive) UpdateConfigs(f func(*Configs) error) error {
	_, err := a.change(func(_ *bbolt.Tx, w *change) error { return f(w.configs()) })
	return err
}

// configs are the configs, to be changed by this transaction. What is changed is
// written at its end, and taken back when it fails.
func (w *change) configs() *Configs { return &w.a.configs.Configs }

// Pushes receives after a change that the swarm has to get.
func (a *Archive) Pushes() <-chan struct{} { return a.configs.pushes }

// DamagedConfigs are those that could not be read when the archive was opened.
// They began empty, and come back with what the swarm has.
func (a *Archive) DamagedConfigs() []config.Kind { return a.configs.damaged }

func (a *Archive) configOptions() config.Options {
	return config.Options{Account: a.account, QuietMerges: true, Now: a.now}
}

func configKey(kind config.Kind) []byte { return []byte{byte(kind)} }

// loadConfigs reads the configs. One that is damaged begins empty, and everything
// is then fetched from the beginning.
func (a *Archive) loadConfigs(tx *bbolt.Tx) error {
	a.configs.written = make(map[config.Kind]*config.Dict)
	a.configs.pushes = make(chan struct{}, 1)
	for _, kind := range ConfigKinds {
		o, err := a.readConfig(tx, kind)
		if err != nil {
			return err
		}
		if o == nil {
			a.configs.damaged = append(a.configs.damaged, kind)
			if o, err = config.New(kind, a.configOptions()); err != nil {
				return err
			}
			if err := tx.Bucket(bucketConfigs).Delete(configKey(kind)); err != nil {
				return err
			}
		}
		a.configs.set(kind, o)
		a.configs.written[kind] = o.Data()
	}
	if len(a.configs.damaged) > 0 {
		if err := tx.DeleteBucket(bucketLast); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketLast); err != nil {
			return err
		}
	}
	_, err := a.dumpConfigs(tx, nil)
	return err
}

// readConfig reads one config, and gives nil for one that is damaged. The error is
// not about what was read.
func (a *Archive) readConfig(tx *bbolt.Tx, kind config.Kind) (*config.Object, error) {
	sealed := tx.Bucket(bucketConfigs).Get(configKey(kind))
	if sealed == nil {
		return config.New(kind, a.configOptions())
	}
	dump, err := a.open(bucketConfigs, configKey(kind), sealed)
	if err != nil {
		return nil, nil
	}
	o, err := config.Load(kind, a.configOptions(), wire.Unpad(dump))
	if err != nil {
		return nil, nil
	}
	return o, nil
}

// dumpConfigs writes what has changed, and says what that was. What was changed by
// others is in foreign.
func (a *Archive) dumpConfigs(tx *bbolt.Tx, foreign map[config.Kind]bool) (dumped map[config.Kind]bool, err error) {
	dumped = make(map[config.Kind]bool)
	for _, kind := range ConfigKinds {
		o := a.configs.Object(kind)
		if o == nil || !o.NeedsDump() {
			continue
		}
		dumped[kind] = true
		if !foreign[kind] {
			noteEdits(o, a.configs.written[kind], o.Data())
		}
		if err := a.put(tx, bucketConfigs, configKey(kind), wire.Pad(o.Dump())); err != nil {
			return dumped, err
		}
	}
	return dumped, nil
}

// settleConfigs is for after a transaction: it was committed, or nothing of it
// counts.
func (a *Archive) settleConfigs(committed bool, dumped map[config.Kind]bool) {
	push := false
	for _, kind := range ConfigKinds {
		o := a.configs.Object(kind)
		switch {
		case o == nil:
		case committed && dumped[kind]:
			a.configs.written[kind] = o.Data()
			push = push || o.NeedsPush()
		case !committed && (dumped[kind] || o.NeedsDump()):
			_ = a.db.View(func(tx *bbolt.Tx) error {
				if before, err := a.readConfig(tx, kind); err == nil && before != nil {
					o.Wipe()
					a.configs.set(kind, before)
					a.configs.written[kind] = before.Data()
				}
				return nil
			})
		}
	}
	if push {
		select {
		case a.configs.pushes <- struct{}{}:
		default:
		}
	}
}

// extraObsolete is where a config's dump keeps the hashes that [config.Object.Push]
// has handed out and nobody has deleted yet.
const extraObsolete = "hearth obsolete"

// maxObsolete bounds them: what is left over expires by itself.
const maxObsolete = 200

// ConfigPush is what has to be brought to the swarm for one config.
type ConfigPush struct {
	Kind config.Kind
	config.Push
}

// PushConfigs gives what the swarm has to get of all configs, and remembers that it
// was handed out. Until [Archive.ConfirmConfig] it gives the same again, unless
// something changes. Errors: those of [config.Object.Push] and of the disk.
func (a *Archive) PushConfigs() (list []ConfigPush, err error) {
	a.mu.Lock()
	wanted := false
	for _, kind := range ConfigKinds {
		wanted = wanted || a.configs.Object(kind).NeedsPush()
	}
	a.mu.Unlock()
	if !wanted {
		return nil, nil
	}
	_, err = a.change(func(_ *bbolt.Tx, w *change) error {
		var errs []error
		for _, kind := range ConfigKinds {
			o := w.configs().Object(kind)
			if !o.NeedsPush() {
				continue
			}
			p, err := o.Push()
			if err != nil {
				errs = append(errs, err) // the others can go
				continue
			}
			w.foreign[kind] = true // what it has forgotten is nobody's change
			if len(p.Obsolete) > 0 {
				setObsolete(o, append(obsoleteOf(o), p.Obsolete...))
			}
			p.Obsolete = obsoleteOf(o)
			list = append(list, ConfigPush{kind, p})
		}
		if len(list) == 0 {
			return errors.Join(errs...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("pushing configs: %w", err)
	}
	return list, nil
}

// RepeatConfigs gives the parts of configs that the swarm should have under one of
// the hashes and has lost.
func (a *Archive) RepeatConfigs(lost map[string]bool) (list []ConfigPush, err error) {
	_, err = a.change(func(_ *bbolt.Tx, w *change) error {
		for _, kind := range ConfigKinds {
			o := w.configs().Object(kind)
			if o.NeedsPush() || !slices.ContainsFunc(o.CurrentHashes(), func(h string) bool { return lost[h] }) {
				continue
			}
			p, err := o.Push()
			if err != nil {
				return err
			}
			p.Obsolete = nil
			list = append(list, ConfigPush{kind, p})
		}
		return nil
	})
	return list, err
}

// ConfirmConfig says that the swarm has what was pushed, under those hashes, and
// has deleted others.
func (a *Archive) ConfirmConfig(kind config.Kind, seqno int64, hashes, deleted []string) error {
	return a.UpdateConfigs(func(c *Configs) error {
		o := c.Object(kind)
		if o.Confirm(seqno, hashes...); !o.NeedsPush() {
			stepEdits(o, 0)
		}
		if left := slices.DeleteFunc(obsoleteOf(o), func(h string) bool { return slices.Contains(deleted, h) }); len(deleted) > 0 {
			setObsolete(o, left)
		}
		return nil
	})
}

// ActiveConfigs are the hashes of the messages that have to live on in the swarm.
func (a *Archive) ActiveConfigs() (active, current []string) {
	a.ViewConfigs(func(c *Configs) {
		for _, kind := range ConfigKinds {
			active = append(active, c.Object(kind).ActiveHashes()...)
			current = append(current, c.Object(kind).CurrentHashes()...)
		}
	})
	return active, current
}

// obsoleteOf is what is to be deleted and is not in use again.
func obsoleteOf(o *config.Object) (hashes []string) {
	list, _ := o.Extra()[extraObsolete].([]any)
	active := o.ActiveHashes()
	for _, v := range list {
		if h, ok := v.([]byte); ok {
			hashes = append(hashes, string(h))
		}
	}
	slices.Sort(hashes)
	return slices.DeleteFunc(slices.Compact(hashes), func(h string) bool { return slices.Contains(active, h) })
}

func setObsolete(o *config.Object, hashes []string) {
	list := []any{}
	for _, h := range hashes[max(0, len(hashes)-maxObsolete):] {
		list = append(list, []byte(h))
	}
	setExtra(o, extraObsolete, list)
}

// ConfigsPolled is for after a round of polling that has merged what there was: what
// was changed here and confirmed before that need not be remembered. again says that
// one more round is wanted for that.
func (a *Archive) ConfigsPolled() (again bool, err error) {
	a.mu.Lock()
	pending := slices.ContainsFunc(ConfigKinds, func(kind config.Kind) bool { return settling(a.configs.Object(kind)) })
	a.mu.Unlock()
	if !pending {
		return false, nil
	}
	err = a.UpdateConfigs(func(c *Configs) error {
		for _, kind := range ConfigKinds {
			o, from := c.Object(kind), int64(1)
			if !o.NeedsPush() {
				from = 0 // another device may have stored it for this one
			}
			stepEdits(o, from)
			again = again || settling(c.Object(kind))
		}
		return nil
	})
	return again, err
}

// ConfigFetch is what one member of the swarm gave of one config.
type ConfigFetch struct {
	Kind     config.Kind
	Place    Place
	Last     string // the hash after which to go on, "" = as before
	Messages []config.Message
	Sent     int64 // ms, when the latest of the messages was stored
}

// ConfigNews is what other devices have changed.
type ConfigNews struct {
	Kinds    []config.Kind   // those that are not as they were
	Contacts []account.ID    // people who are not as they were; some may be gone
	Devices  []config.Device // devices that nobody has seen before
	Refused  []error         // why messages were not understood
}

// MergeConfigs takes in what the swarm has of the configs, and does here what other
// devices did: contacts come, change and go, conversations are read. What was
// changed here and is not confirmed stays, however long ago that was.
func (a *Archive) MergeConfigs(fetched []ConfigFetch) (Result, error) {
	if !slices.ContainsFunc(fetched, func(f ConfigFetch) bool {
		return len(f.Messages) > 0 || f.Last != "" && f.Last != a.Last(f.Place)
	}) {
		return Result{}, nil
	}
	return a.change(func(tx *bbolt.Tx, w *change) error {
		for _, f := range fetched {
			if f.Last != "" {
				if err := a.putLast(tx, f.Place, f.Last); err != nil {
					return err
				}
			}
			if len(f.Messages) == 0 {
				continue
			}
			if err := w.mergeConfig(tx, f); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *change) mergeConfig(tx *bbolt.Tx, f ConfigFetch) error {
	o := w.configs().Object(f.Kind)
	if o == nil {
		return fmt.Errorf("merging %v: %w", f.Kind, config.ErrValue)
	}
	before := o.Seqno()
	was := w.a.sharedBefore(f.Kind)
	merged := o.Merge(f.Messages)
	for _, r := range merged.Refused {
		w.result.Configs.Refused = append(w.result.Configs.Refused, fmt.Errorf("%v: %w", f.Kind, r.Err))
	}
	if !merged.Changed {
		return nil
	}
	w.foreign[f.Kind] = true
	if err := redoEdits(o, before); err != nil {
		return err
	}
	if !slices.Contains(w.result.Configs.Kinds, f.Kind) {
		w.result.Configs.Kinds = append(w.result.Configs.Kinds, f.Kind)
	}
	return w.adoptShared(tx, f.Kind, was, min(f.Sent, w.a.now().UnixMilli()))
}
