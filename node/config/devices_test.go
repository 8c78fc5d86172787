package config

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// swarm is a namespace that keeps what devices store.
type swarm map[string][]byte

func (s swarm) store(data []byte) string {
	sum := sha256.Sum256(data)
	hash := fmt.Sprintf("%x", sum[:8])
	s[hash] = data
	return hash
}

// device is one of several that share a config.
type device struct {
	*Object
	swarm  swarm
	flight *Push // handed out, not stored yet
}

func newDevices(t testing.TB, n int, s swarm) []*device {
	t.Helper()
	var all []*device
	for range n {
		all = append(all, &device{Object: vectorObject(t, UserProfile), swarm: s})
	}
	return all
}

// quiet makes the devices write merges so that no change is lost.
func quiet(devices []*device) {
	for _, d := range devices {
		d.options.QuietMerges = true
	}
}

// fetch merges messages of the swarm, in an order that the dice choose; all of
// them or some.
func (d *device) fetch(t testing.TB, dice func(int) int, all bool) {
	t.Helper()
	hashes := slices.Sorted(maps.Keys(d.swarm))
	var in []Message
	for len(hashes) > 0 {
		i := dice(len(hashes))
		if all || dice(3) > 0 {
			in = append(in, Message{hashes[i], d.swarm[hashes[i]]})
		}
		hashes = slices.Delete(hashes, i, i+1)
	}
	if err := d.Merge(in).Err(); err != nil {
		t.Fatalf("what a device stored is refused: %v", err)
	}
}

// push takes off, and land stores and deletes, so that something can happen on
// other devices, and on this one, in between.
func (d *device) push(t testing.TB) {
	t.Helper()
	p, err := d.Push()
	if err != nil {
		t.Fatal(err)
	}
	d.flight = &p
}

func (d *device) land() {
	var hashes []string
	for _, part := range d.flight.Parts {
		hashes = append(hashes, d.swarm.store(part))
	}
	for _, hash := range d.flight.Obsolete {
		delete(d.swarm, hash)
	}
	d.Confirm(d.flight.Seqno, hashes...)
	d.flight = nil
}

func (d *device) restart(t testing.TB) {
	t.Helper()
	options := vectorOptions()
	options.QuietMerges = d.options.QuietMerges
	o, err := Load(UserProfile, options, d.Dump())
	if err != nil {
		t.Fatalf("own dump: %v", err)
	}
	d.Object, d.flight = o, nil
}

// scribble makes a change among few keys of all types, so that conflicts are
// frequent: the same key is a number here, a set or a dictionary there.
func (d *device) scribble(dice func(int) int) {
	key := string(rune('a' + dice(3)))
	inner := string(rune('p' + dice(3)))
	n := IntValue(int64(dice(4)))
	d.change(func(t *tree) {
		switch dice(8) {
		case 0:
			t.set(n, key)
		case 1, 2:
			t.set(n, key, inner)
		case 3:
			t.set(BytesValue(inner), key, inner, "deep")
		case 4:
			t.include(n, key)
		case 5:
			t.exclude(n, key)
		case 6:
			t.erase(key, inner)
		case 7:
			t.erase(key)
		}
	})
}

// play runs a schedule that the dice choose, and lets the devices come to rest.
func play(t testing.TB, dice func(int) int, n, steps int) {
	t.Helper()
	s := swarm{}
	devices := newDevices(t, n, s)
	quiet(devices[:dice(n+1)]) // all, none, or some of them
	for range steps {
		d := devices[dice(n)]
		switch dice(8) {
		case 0, 1, 2:
			d.scribble(dice)
		case 3:
			d.fetch(t, dice, false)
		case 4:
			d.fetch(t, dice, true)
		case 5, 6:
			if d.flight != nil {
				d.land()
			} else if d.NeedsPush() {
				d.push(t)
			}
		case 7:
			d.restart(t)
		}
	}
	settle(t, dice, devices)
}

func settle(t testing.TB, dice func(int) int, devices []*device) {
	t.Helper()
	for range 12 {
		quiet := true
		for _, d := range devices {
			if d.flight != nil {
				d.land()
				quiet = false
			}
			before := d.message.id
			d.fetch(t, dice, true)
			if d.NeedsPush() {
				d.push(t)
				d.land()
				quiet = false
			}
			quiet = quiet && d.message.id == before
		}
		if !quiet {
			continue
		}
		first := devices[0]
		for i, d := range devices {
			if d.message.id != first.message.id || !bytes.Equal(d.finish(nil), first.finish(nil)) {
				t.Fatalf("device %d ends with\n%q, device 0 with\n%q", i, d.finish(nil), first.finish(nil))
			}
			for _, hash := range d.CurrentHashes() {
				if d.swarm[hash] == nil {
					t.Fatalf("device %d: the swarm has lost the current message %s", i, hash)
				}
			}
		}
		return
	}
	t.Fatal("the devices do not come to rest")
}

func TestAnyScheduleEndsInOneState(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 7))
		n := 2 + rng.IntN(4)
		t.Run(fmt.Sprintf("seed %d, %d devices", seed, n), func(t *testing.T) {
			play(t, rng.IntN, n, 60)
		})
	}
}

func FuzzSchedules(f *testing.F) {
	for seed := range uint64(6) {
		b := make([]byte, 200)
		rand.NewChaCha8([32]byte{byte(seed)}).Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 600 {
			b = b[:600]
		}
		steps := len(b) / 4
		dice := func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}
		play(t, dice, 2+dice(4), steps)
	})
}

// conflict gives n devices one state and lets each change it in its own way,
// without seeing the others. The messages come back in order of the devices.
func conflict(t testing.TB, n int, change func(o *Object, device int)) (base Message, all []Message) {
	t.Helper()
	s := swarm{}
	devices := newDevices(t, n+1, s)
	origin := devices[n]
	for i := range 8 {
		origin.Set(IntValue(0), "own", fmt.Sprint(i))
	}
	for i := range 4 {
		origin.Set(IntValue(0), "c", fmt.Sprint(i), "n")
		origin.Set(IntValue(1), "c", fmt.Sprint(i), "keep")
	}
	origin.change(func(t *tree) { t.include(IntValue(100), "set"); t.include(IntValue(101), "set") })
	origin.push(t)
	origin.land()
	for hash, data := range s {
		base = Message{hash, data}
	}
	for i, d := range devices[:n] {
		d.Merge([]Message{base})
		change(d.Object, i)
		p, err := d.Push()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, Message{fmt.Sprintf("m%d", i), p.Parts[0]})
	}
	return base, all
}

func TestOneMergeOfAllDoesNotDependOnTheOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for round := range 30 {
		base, all := conflict(t, 2+rng.IntN(8), func(o *Object, number int) {
			for range 1 + rng.IntN(4) {
				(&device{Object: o}).scribble(rng.IntN)
			}
			o.Set(IntValue(int64(number)), "always")
		})
		all = append(all, base)
		var first []byte
		for range 6 {
			rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			o := vectorObject(t, UserProfile)
			o.Merge(all)
			plaintext := o.finish(nil)
			if first == nil {
				first = plaintext
			}
			if !bytes.Equal(plaintext, first) {
				t.Fatalf("round %d: %q and %q", round, plaintext, first)
			}
		}
	}
}

// Devices change something and push at once. What each of them changed is there
// in the end, however they go on: with two devices always, with more when merges
// are quiet. When they are not, it holds if everybody merges what was pushed
// before pushing again; otherwise a change that was made at the same time as a
// merge result can be lost. See reclaim.
func TestNoChangeIsLostWhenDevicesPushAtOnce(t *testing.T) {
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 3))
		n := 2
		if seed%3 == 0 {
			n = 3 + rng.IntN(2) // with five, some fall out of the window
		}
		t.Run(fmt.Sprintf("seed %d, %d devices", seed, n), func(t *testing.T) {
			s := swarm{}
			devices := newDevices(t, n, s)
			for i := range n {
				devices[0].Set(IntValue(0), "own", fmt.Sprint(i))
				devices[0].Set(IntValue(1), "gone", fmt.Sprint(i))
				devices[0].change(func(t *tree) { t.include(IntValue(int64(100+i)), "set") })
			}
			devices[0].Set(IntValue(1), "gone", "stays")
			devices[0].push(t)
			devices[0].land()
			for _, d := range devices {
				d.fetch(t, rng.IntN, true)
			}
			for i, d := range devices {
				d.Set(IntValue(int64(i+1)), "own", fmt.Sprint(i))
				d.Set(IntValue(int64(i+1)), "new", fmt.Sprint(i))
				d.Erase("gone", fmt.Sprint(i))
				d.change(func(t *tree) {
					t.include(IntValue(int64(i)), "set")
					t.exclude(IntValue(int64(100+i)), "set")
				})
				d.push(t)
			}
			if seed%2 == 0 {
				quiet(devices)
			}
			if n > 2 && seed%2 == 1 {
				for _, d := range devices {
					d.land()
				}
				for _, d := range devices {
					d.fetch(t, rng.IntN, true)
				}
			} else {
				for range 4 * n {
					switch d := devices[rng.IntN(n)]; {
					case d.flight != nil:
						d.land()
					case d.NeedsPush():
						d.push(t)
					default:
						d.fetch(t, rng.IntN, false)
					}
				}
			}
			settle(t, rng.IntN, devices)
			data := devices[0].Data()
			has := func(n int) bool {
				return slices.ContainsFunc(data.Get("set").elems, func(v Value) bool { return v.num == int64(n) })
			}
			for i := range n {
				if got, _ := data.Get("own", fmt.Sprint(i)).Int(); got != int64(i+1) {
					t.Errorf("what device %d changed is lost", i)
				}
				if got, _ := data.Get("new", fmt.Sprint(i)).Int(); got != int64(i+1) {
					t.Errorf("what device %d wrote is lost", i)
				}
				if data.Get("gone", fmt.Sprint(i)).Exists() {
					t.Errorf("what device %d erased is back", i)
				}
				if !has(i) || has(100+i) {
					t.Errorf("what device %d did to the set is lost", i)
				}
			}
		})
	}
}

// A device that was off while others went on keeps what its owner changed.
func TestUnsentChangesSurviveALongAbsence(t *testing.T) {
	s := swarm{}
	devices := newDevices(t, 2, s)
	a, b := devices[0], devices[1]
	dice := func(int) int { return 0 }
	Profile{a.Object}.SetName("start")
	a.push(t)
	a.land()
	b.fetch(t, dice, true)
	Profile{b.Object}.SetPriority(7)
	for i := range 8 {
		Profile{a.Object}.SetName(fmt.Sprint("name ", i))
		a.push(t)
		a.land()
	}
	Profile{b.Object}.SetTimer(60)
	Profile{b.Object}.SetName("outdated")
	settle(t, dice, devices)
	if p := (Profile{a.Object}); p.Name() != "name 7" || p.Timer() != 60 || p.Priority() != 7 {
		t.Errorf("name %q, timer %d, priority %d", p.Name(), p.Timer(), p.Priority())
	}

	// An account's settings are not replaced by those of a device that is new.
	fresh := &device{Object: vectorObject(t, UserProfile), swarm: s}
	Profile{fresh.Object}.SetName("new device")
	fresh.fetch(t, dice, true)
	if p := (Profile{fresh.Object}); p.Name() != "name 7" || p.NeedsPush() {
		t.Errorf("a new device has %q, %v", p.Name(), p)
	}
}

func TestPushWhileOthersPush(t *testing.T) {
	s := swarm{}
	devices := newDevices(t, 2, s)
	a, b := devices[0], devices[1]
	dice := func(int) int { return 0 }

	Profile{a.Object}.SetName("a")
	a.push(t)
	Profile{a.Object}.SetTimer(5) // while the push is on its way
	first := a.flight.Seqno
	a.land()
	if !a.NeedsPush() || len(a.ObsoleteHashes()) != 1 || a.Seqno() != first+1 {
		t.Errorf("a change during a push: %v, obsolete %q", a, a.ObsoleteHashes())
	}
	a.push(t)
	a.land()
	if len(s) != 1 || a.NeedsPush() {
		t.Errorf("%d messages in the swarm, %v", len(s), a)
	}

	// Both merge the same conflict and write the same bytes: one message.
	b.fetch(t, dice, true)
	Profile{a.Object}.SetName("from a")
	Profile{b.Object}.SetPriority(3)
	a.push(t)
	b.push(t)
	a.land()
	b.land()
	a.fetch(t, dice, true)
	b.fetch(t, dice, true)
	a.push(t)
	b.push(t)
	if !bytes.Equal(a.flight.Parts[0], b.flight.Parts[0]) {
		t.Error("two devices wrote one state in two ways")
	}
	a.land()

	// b has not landed, but sees its own state in the swarm: nothing to push.
	b.flight = nil
	b.fetch(t, dice, true)
	if b.NeedsPush() || !slices.Equal(b.CurrentHashes(), a.CurrentHashes()) || len(s) != 1 {
		t.Errorf("%v has %q, %v has %q, %d in the swarm", b, b.CurrentHashes(), a, a.CurrentHashes(), len(s))
	}
	// And does not ask to delete it.
	Profile{b.Object}.SetName("after")
	if got := b.ObsoleteHashes(); !slices.Equal(got, a.CurrentHashes()) {
		t.Errorf("obsolete %q", got)
	}
}

func TestDataStaysAsItWas(t *testing.T) {
	o := vectorObject(t, ContactList)
	c := Contacts{o}
	for i := range 20 {
		c.Put(Contact{ID: testID(t, fmt.Sprint(i)), Name: "before"})
	}
	seen := 0
	for contact := range c.All() {
		seen++
		contact.Name = "after"
		c.Put(contact)
		c.Put(Contact{ID: testID(t, fmt.Sprint("more", seen))})
		if seen%2 == 0 {
			c.Remove(contact.ID)
		}
	}
	if seen != 20 || c.Len() != 30 {
		t.Errorf("visited %d contacts while changing them, %d are left", seen, c.Len())
	}
}

func TestPartsAreForgotten(t *testing.T) {
	now := time.UnixMilli(vectorTime)
	options := vectorOptions()
	options.Now = func() time.Time { return now }
	sender := Contacts{vectorObject(t, ContactList)}
	fill(t, sender, 2200)
	push, err := sender.Push()
	if err != nil {
		t.Fatal(err)
	}
	open := func() *Object {
		o, err := New(ContactList, options)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := open()
	o.Merge([]Message{{"p0", push.Parts[0]}})
	if o, err = Load(ContactList, options, o.Dump()); err != nil || !slices.Equal(o.ActiveHashes(), []string{"p0"}) {
		t.Fatalf("loaded %v, %q", err, o.ActiveHashes())
	}
	now = now.Add(partsLife - time.Second)
	o.Merge(nil)
	if len(o.ActiveHashes()) != 1 {
		t.Error("forgotten too early")
	}
	now = now.Add(time.Second)
	o.Merge(nil)
	if len(o.ActiveHashes()) != 0 || !o.NeedsDump() {
		t.Error("not forgotten")
	}

	// Across a restart, the last part makes the config complete.
	o = open()
	o.Merge([]Message{{"p0", push.Parts[0]}})
	o, _ = Load(ContactList, options, o.Dump())
	o.Merge([]Message{{"p1", push.Parts[1]}})
	if (Contacts{o}).Len() != 2200 || !slices.Equal(o.CurrentHashes(), []string{"p0", "p1"}) {
		t.Errorf("%d contacts, current %q", Contacts{o}.Len(), o.CurrentHashes())
	}
	// Copies that come late, and after another restart, are recognised.
	o, _ = Load(ContactList, options, o.Dump())
	got := o.Merge([]Message{{"p0", push.Parts[0]}})
	if len(got.Accepted) != 1 || len(o.parts.incomplete) != 0 || got.Changed {
		t.Errorf("a late part: %+v, %d wait", got, len(o.parts.incomplete))
	}
}
