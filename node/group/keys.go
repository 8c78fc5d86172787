package group

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/wire"
)

const (
	keySize    = 32
	sealedSize = keySize + chacha20poly1305.Overhead // an encrypted group key

	// keyMultiple is what the number of member copies in a rekey is filled up to, so
	// that it does not tell how many members there are.
	keyMultiple = 75

	// keyLife is how much older (ms) than the newest key the successor of a key may
	// become before the key is dropped: 60 days.
	keyLife = 60 * 24 * 60 * 60 * 1000

	// MaxMembers is how many members one rekey can serve: more copies of the key do
	// not fit into a stored message.
	MaxMembers = 1500

	// What a hostile admin or swarm can make a device keep. An honest group has some
	// dozen keys in 60 days and as many messages as keys and invitations.
	maxKeys        = 4096
	maxHashes      = 8192
	maxTimestamp   = 1<<53 - 1
	maxHashLength  = 256
	supplementSize = wire.MaxData - 200 // for the entries of one supplement
)

// Keys is the list of a group's encryption keys as one device knows it.
//
// Key messages of the swarm's namespace [KeyList] go in through [Keys.Load], in any
// order and any number of times. Admins make new ones with [Keys.Rekey] and
// [Keys.Supplement]. A key an admin made is pending until it is fetched back: it
// seals already, and yields to what others stored meanwhile. It is not safe for
// concurrent use, and prints as the group's ID.
type Keys struct {
	id      account.ID
	x25519  [32]byte // the group's, from id
	own     *keys.Pair
	admin   *keys.Pair // nil for members
	list    []groupKey // ascending
	pending *pendingKey
	active  map[int64]map[string]struct{} // swarm hashes by generation
	hashes  int                           // all of active

	changed bool // since the last Dump
}

type groupKey struct {
	generation, at int64 // at: when the swarm stored it, ms
	key            config.Key
}

type pendingKey struct {
	generation int64
	key        config.Key
	message    []byte
}

func compareKeys(a, b groupKey) int {
	return cmp.Or(cmp.Compare(a.generation, b.generation), cmp.Compare(a.at, b.at), bytes.Compare(a.key[:], b.key[:]))
}

// NewKeys begins the list of a group whose key messages this account will fetch.
// The error is [ErrMalformed] for an ID that is no group's.
func NewKeys(own *keys.Pair, group account.ID) (*Keys, error) {
	x, err := encryptionKey(group)
	if err != nil {
		return nil, fmt.Errorf("group %s: %w", group, err)
	}
	return &Keys{id: group, x25519: x, own: own, active: map[int64]map[string]struct{}{}}, nil
}

// LoadSeed makes an admin of the device. The error is [ErrSeed] when the pair is
// not the group's.
func (k *Keys) LoadSeed(group *keys.Pair) error {
	if ID(group) != k.id {
		return ErrSeed
	}
	k.admin = group
	return nil
}

// Admin reports whether the group's seed is at hand.
func (k *Keys) Admin() bool { return k.admin != nil }

// Current is the key that seals messages and configurations, or [ErrNoKey].
func (k *Keys) Current() (config.Key, error) {
	switch {
	case k.pending != nil:
		return k.pending.key, nil
	case len(k.list) > 0:
		return k.list[len(k.list)-1].key, nil
	}
	return config.Key{}, ErrNoKey
}

// All lists the keys that may open something: a pending one, then newest first.
func (k *Keys) All() []config.Key {
	all := make([]config.Key, 0, len(k.list)+1)
	if k.pending != nil {
		all = append(all, k.pending.key)
	}
	for _, g := range slices.Backward(k.list) {
		all = append(all, g.key)
	}
	return all
}

// Generation is that of the newest key that was fetched, 0 before the first.
func (k *Keys) Generation() int64 {
	if len(k.list) == 0 {
		return 0
	}
	return k.list[len(k.list)-1].generation
}

// Pending is the rekey that must be stored in [KeyList] and then fetched back, or
// nil.
func (k *Keys) Pending() []byte {
	if k.pending == nil {
		return nil
	}
	return k.pending.message
}

// NeedsRekey reports that two admins made a key at once, so that an admin, which
// this device is, must make the next one.
func (k *Keys) NeedsRekey() bool {
	n := len(k.list)
	return k.admin != nil && n >= 2 && k.list[n-1].generation == k.list[n-2].generation
}

// ActiveHashes are the swarm's hashes of the messages that hold the keys in use,
// in ascending order. Their expiry must be extended.
func (k *Keys) ActiveHashes() []string {
	all := make([]string, 0, k.hashes)
	for _, set := range k.active {
		all = slices.AppendSeq(all, maps.Keys(set))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// String names the group.
func (k *Keys) String() string { return "group.Keys(" + k.id.String() + ")" }

// GoString is [Keys.String], so that %#v does not print secrets.
func (k *Keys) GoString() string { return k.String() }

// Format writes [Keys.String] for every verb.
func (k *Keys) Format(f fmt.State, _ rune) { io.WriteString(f, k.String()) }

// MarshalJSON writes the group's ID alone.
func (k *Keys) MarshalJSON() ([]byte, error) { return []byte(`"` + k.id.String() + `"`), nil }

// Rekey makes the next key for these members, all of whom count, admins too. It
// becomes pending and the message is what [Keys.Pending] returns from now on. Two
// admins who know the same members and keys make the same message. Members with an
// invalid key are left out.
//
// Errors: [ErrNotAdmin]; [ErrTooLarge] above [MaxMembers]; [ErrMalformed] when no
// generation is left, because an admin used the last number.
func (k *Keys) Rekey(members []account.ID) ([]byte, error) {
	if k.admin == nil {
		return nil, ErrNotAdmin
	}
	if len(members) > MaxMembers {
		return nil, fmt.Errorf("a key for %d members: %w", len(members), ErrTooLarge)
	}
	generation := int64(0)
	if len(k.list) > 0 {
		if generation = k.Generation() + 1; generation < 1 {
			return nil, fmt.Errorf("generation %d has no successor: %w", k.Generation(), ErrMalformed)
		}
	}
	members = slices.Compact(slices.SortedFunc(slices.Values(members), compareIDs))

	names := appendHex(nil, members)
	names = strconv.AppendInt(names, generation, 10)
	h1 := hash(56, "SessionGroupKeyGen", names, seedHash(k.admin, "SessionGroupKeySeed"))
	key, nonce := config.Key(h1[:keySize]), h1[keySize:]

	aead, err := chacha20poly1305.NewX(seedHash(k.admin, "SessionGroupKeyAdminKey"))
	if err != nil {
		return nil, fmt.Errorf("rekeying: %w", err)
	}
	copies := k.forMembers(members, nonce, key[:])
	if rest := len(copies) % keyMultiple; rest != 0 {
		junk := k.junk(h1, (keyMultiple-rest)*sealedSize)
		copies = slices.AppendSeq(copies, slices.Chunk(junk, sealedSize))
	}

	b := make([]byte, 0, 256+len(copies)*(sealedSize+3))
	b = append(b, 'd')
	b = bt.AppendBytes(bt.AppendBytes(b, "#"), nonce)
	b = bt.AppendInt(bt.AppendBytes(b, "G"), generation)
	b = bt.AppendBytes(bt.AppendBytes(b, "K"), aead.Seal(nil, nonce, key[:], nil))
	b = appendCopies(bt.AppendBytes(b, "k"), copies)
	b = k.sign(b)

	k.pending = &pendingKey{generation: generation, key: key, message: b}
	k.changed = true
	return b, nil
}

// Supplement gives all keys that were fetched so far to these members, without a
// new one, as one message or as several when one would be too large. The order
// counts: callers sort the members, so that two admins make the same message.
// Errors: [ErrNotAdmin], [ErrNoKey], [ErrTooLarge].
func (k *Keys) Supplement(members []account.ID) ([][]byte, error) {
	if k.admin == nil {
		return nil, ErrNotAdmin
	}
	if len(k.list) == 0 {
		return nil, ErrNoKey
	}
	plain := []byte{'l'}
	for _, g := range k.list {
		plain = append(plain, 'd')
		plain = bt.AppendInt(bt.AppendBytes(plain, "g"), g.generation)
		plain = bt.AppendBytes(bt.AppendBytes(plain, "k"), g.key[:])
		plain = bt.AppendInt(bt.AppendBytes(plain, "t"), g.at)
		plain = append(plain, 'e')
	}
	plain = append(plain, 'e')
	defer clear(plain)

	each := len(plain) + chacha20poly1305.Overhead
	fit := supplementSize / (each + len(strconv.Itoa(each)) + 1)
	if fit == 0 {
		return nil, fmt.Errorf("a supplement of %d keys: %w", len(k.list), ErrTooLarge)
	}
	h2 := seedHash(k.admin, "SessionGroupKeySeed")
	var messages [][]byte
	for some := range slices.Chunk(members, fit) {
		nonce := hash(nonceSize, "SessionGroupKeyGen", appendHex(nil, some), plain, h2)
		b := []byte{'d'}
		b = bt.AppendBytes(bt.AppendBytes(b, "#"), nonce)
		b = appendCopies(bt.AppendBytes(b, "+"), k.forMembers(some, nonce, plain))
		b = bt.AppendInt(bt.AppendBytes(b, "G"), k.Generation())
		messages = append(messages, k.sign(b))
	}
	return messages, nil
}

// forMembers encrypts plain for each member.
func (k *Keys) forMembers(members []account.ID, nonce, plain []byte) [][]byte {
	copies := make([][]byte, 0, len(members)+keyMultiple)
	seed := k.admin.Seed()
	sender := keys.FromSeed(seed)
	clear(seed[:])
	defer sender.Wipe()
	if err := sender.Expand(); err != nil { // half the time, in a large group
		panic("group: " + err.Error()) // every seed gives a key
	}
	for _, m := range members {
		aead, err := multiKey(sender, m.Key(), k.x25519, m.Key(), memberDomain)
		if err != nil {
			continue // as libsession does: one bad key must not lock the others out
		}
		copies = append(copies, aead.Seal(nil, nonce, plain, nil))
	}
	return copies
}

const memberDomain = "SessionGroupKeyMemberKey"

// junk is n bytes that look like copies, the same for every admin.
func (k *Keys) junk(h1 []byte, n int) []byte {
	private := k.admin.Ed25519Private()
	defer clear(private)
	seed := hash(chacha20.KeySize, "SessionGroupJunkMembers", h1, private)
	stream, err := chacha20.NewUnauthenticatedCipher(seed, []byte("LibsodiumDRG"))
	if err != nil {
		panic("group: " + err.Error()) // both sizes are right
	}
	b := make([]byte, n)
	stream.XORKeyStream(b, b)
	return b
}

// sign closes the dictionary b with the group's signature.
func (k *Keys) sign(b []byte) []byte {
	signature := k.admin.Sign(b)
	return append(bt.AppendBytes(append(b, "1:~"...), signature), 'e')
}

func appendCopies(b []byte, copies [][]byte) []byte {
	b = append(b, 'l')
	for _, c := range copies {
		b = bt.AppendBytes(b, c)
	}
	return append(b, 'e')
}

func appendHex(b []byte, ids []account.ID) []byte {
	for _, id := range ids {
		b = append(b, id.String()...)
	}
	return b
}

func compareIDs(a, b account.ID) int { return bytes.Compare(a[:], b[:]) }

// Load reads a key message that the swarm stored under hash at the time at (ms)
// and reports whether it holds keys for this account. What it does not accept
// changes nothing: [ErrMalformed], [ErrSignature], and [ErrNotForUs] for a rekey
// whose admin copy the group's seed does not open.
func (k *Keys) Load(message []byte, hash string, at int64) (bool, error) {
	if at < 0 || at > maxTimestamp || len(hash) > maxHashLength {
		return false, fmt.Errorf("%w: stored at %d", ErrMalformed, at)
	}
	m, err := parseKeyMessage(k.id, message)
	if err != nil {
		return false, fmt.Errorf("key message: %w", err)
	}
	found, err := k.open(&m, at)
	if err != nil {
		return false, fmt.Errorf("key message: %w", err)
	}
	if len(found) == 0 {
		// Another member's copy keeps alive what we may need as well.
		k.remember(m.generation, hash)
		k.removeExpired()
		return false, nil
	}
	if p := k.pending; p != nil && k.admin != nil && (found[0].key == p.key || found[0].generation > p.generation) {
		k.pending = nil
		k.changed = true
	}
	for _, g := range found {
		k.insert(g, hash)
	}
	return true, nil
}

// open finds the keys that the message holds for this account.
func (k *Keys) open(m *keyMessage, at int64) ([]groupKey, error) {
	var plain []byte
	switch {
	case m.supplement && k.admin != nil:
		return nil, nil
	case k.admin != nil:
		aead, err := chacha20poly1305.NewX(seedHash(k.admin, "SessionGroupKeyAdminKey"))
		if err != nil {
			return nil, err
		}
		if plain, err = aead.Open(nil, m.nonce, m.forAdmins, nil); err != nil {
			return nil, fmt.Errorf("the copy for admins: %w", ErrNotForUs)
		}
	default:
		var err error
		plain, err = multiOpen(k.own, k.x25519, memberDomain, m.nonce, m.copies)
		if errors.Is(err, ErrNotForUs) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	if m.supplement {
		return parseSupplement(plain)
	}
	if len(plain) != keySize {
		return nil, fmt.Errorf("%w: key of %d bytes", ErrMalformed, len(plain))
	}
	return []groupKey{{m.generation, at, config.Key(plain)}}, nil
}

func (k *Keys) insert(g groupKey, hash string) {
	// The swarm's time is not looked at here: a key that is stored twice is one key.
	known := func(o groupKey) bool { return o.generation == g.generation && o.key == g.key }
	if slices.ContainsFunc(k.list, known) {
		k.remember(g.generation, hash)
		return
	}
	n := len(k.list)
	if n >= 2 && g.generation < k.list[0].generation && k.list[0].at < k.list[n-1].at-keyLife {
		return
	}
	i, _ := slices.BinarySearchFunc(k.list, g, compareKeys)
	k.list = slices.Insert(k.list, i, g)
	k.changed = true
	k.remember(g.generation, hash)
	k.removeExpired()
}

// remember keeps a swarm hash for the generation.
func (k *Keys) remember(generation int64, hash string) {
	set := k.active[generation]
	if _, known := set[hash]; known || k.hashes >= maxHashes {
		return
	}
	if set == nil {
		set = map[string]struct{}{}
		k.active[generation] = set
	}
	set[hash] = struct{}{}
	k.hashes++
	k.changed = true
}

// removeExpired drops the generations whose successor began more than keyLife
// before the newest key, and the hashes of what is not kept.
func (k *Keys) removeExpired() {
	keep := max(0, len(k.list)-maxKeys)
	for i := range k.list {
		if i > 0 && k.list[i].generation != k.list[i-1].generation {
			if k.list[i].at >= k.list[len(k.list)-1].at-keyLife {
				break
			}
			keep = max(keep, i)
		}
	}
	clear(k.list[:keep])
	k.list = slices.Delete(k.list, 0, keep)

	oldest := int64(math.MaxInt64) // without a key, no message is ours to keep alive
	if len(k.list) > 0 {
		oldest = k.list[0].generation
	}
	for generation, set := range k.active {
		if generation < oldest || len(k.list) == 0 {
			k.hashes -= len(set)
			delete(k.active, generation)
		}
	}
}

// keyMessage is a signed message of the namespace [KeyList]; its slices share
// memory with the input.
type keyMessage struct {
	nonce      []byte
	generation int64
	supplement bool
	forAdmins  []byte // of a rekey
	copies     [][]byte
}

// parseKeyMessage reads a message and checks the group's signature.
func parseKeyMessage(group account.ID, b []byte) (m keyMessage, err error) {
	if len(b) > wire.MaxData {
		return m, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	d, err := bt.ReadDict(b)
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if m.nonce, err = bytesAt(d, "#", nonceSize); err != nil {
		return m, err
	}
	if m.supplement, err = d.Find("+"); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if m.supplement {
		// The shortest plaintext that holds one key has 52 bytes.
		if m.copies, err = listAt(d, "+", 52+chacha20poly1305.Overhead); err != nil {
			return m, err
		}
	}
	if m.generation, err = intAt(d, "G"); err != nil {
		return m, err
	}
	if m.generation < 0 {
		return m, fmt.Errorf("%w: generation %d", ErrMalformed, m.generation)
	}
	if !m.supplement {
		if m.forAdmins, err = bytesAt(d, "K", sealedSize); err != nil {
			return m, err
		}
		if m.copies, err = listAt(d, "k", sealedSize); err != nil {
			return m, err
		}
		if len(m.copies)%keyMultiple != 0 {
			return m, fmt.Errorf("%w: %d copies of the key", ErrMalformed, len(m.copies))
		}
		for i, c := range m.copies {
			if len(c) != sealedSize {
				return m, fmt.Errorf("%w: copy %d has %d bytes", ErrMalformed, i, len(c))
			}
		}
	}
	signature, err := bytesAt(d, "~", 64)
	if err != nil {
		return m, err
	}
	if err := d.Close(); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	const tail = len("1:~64:") + 64 + len("e")
	if len(b) < tail || !bytes.Equal(b[len(b)-65:len(b)-1], signature) || string(b[len(b)-tail:len(b)-65]) != "1:~64:" {
		return m, fmt.Errorf("%w: something follows the signature", ErrMalformed)
	}
	if !keys.Verify(group.Key(), b[:len(b)-tail], signature) {
		return m, ErrSignature
	}
	return m, nil
}

// parseSupplement reads the keys in a supplement.
func parseSupplement(plain []byte) ([]groupKey, error) {
	l, err := bt.ReadList(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var list []groupKey
	for l.More() {
		if len(list) == maxKeys {
			return nil, fmt.Errorf("%w: more than %d keys", ErrMalformed, maxKeys)
		}
		raw, err := l.Raw()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		g, err := parseGroupKey(raw)
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	if err := l.Close(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return list, nil
}

// parseGroupKey reads one key, as supplements and dumps have it.
func parseGroupKey(raw []byte) (g groupKey, err error) {
	d, err := bt.ReadDict(raw)
	if err != nil {
		return g, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if g.generation, err = intAt(d, "g"); err != nil {
		return g, err
	}
	key, err := bytesAt(d, "k", keySize)
	if err != nil {
		return g, err
	}
	if g.at, err = intAt(d, "t"); err != nil {
		return g, err
	}
	if g.generation < 0 || g.at < 0 || g.at > maxTimestamp {
		return g, fmt.Errorf("%w: key of generation %d, time %d", ErrMalformed, g.generation, g.at)
	}
	copy(g.key[:], key)
	return g, nil
}

// NeedsDump reports that something changed since the last [Keys.Dump].
func (k *Keys) NeedsDump() bool { return k.changed }

// Dump is everything that [LoadKeys] needs, as libsession stores it. It holds the
// group's keys in the clear: keep it encrypted.
func (k *Keys) Dump() []byte {
	b := append(bt.AppendBytes([]byte{'d'}, "A"), 'l')
	for _, generation := range slices.Sorted(maps.Keys(k.active)) {
		b = bt.AppendInt(append(b, 'l'), generation)
		for _, h := range slices.Sorted(maps.Keys(k.active[generation])) {
			b = bt.AppendBytes(b, h)
		}
		b = append(b, 'e')
	}
	b = append(bt.AppendBytes(append(b, 'e'), "L"), 'l')
	for _, g := range k.list {
		b = bt.AppendInt(bt.AppendBytes(append(b, 'd'), "g"), g.generation)
		b = bt.AppendBytes(bt.AppendBytes(b, "k"), g.key[:])
		b = append(bt.AppendInt(bt.AppendBytes(b, "t"), g.at), 'e')
	}
	b = append(b, 'e')
	if p := k.pending; p != nil {
		b = bt.AppendBytes(bt.AppendBytes(append(bt.AppendBytes(b, "P"), 'd'), "c"), p.message)
		b = bt.AppendInt(bt.AppendBytes(b, "g"), p.generation)
		b = append(bt.AppendBytes(bt.AppendBytes(b, "k"), p.key[:]), 'e')
	}
	k.changed = false
	return append(b, 'e')
}

// LoadKeys restores what [Keys.Dump] wrote. An admin calls [Keys.LoadSeed] next.
// The error is [ErrMalformed].
func LoadKeys(own *keys.Pair, group account.ID, dump []byte) (*Keys, error) {
	k, err := NewKeys(own, group)
	if err != nil {
		return nil, err
	}
	if err := k.restore(dump); err != nil {
		return nil, fmt.Errorf("restoring the keys of %s: %w", group, err)
	}
	k.changed = false
	return k, nil
}

func (k *Keys) restore(dump []byte) error {
	d, err := bt.ReadDict(dump)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := find(d, "A"); err != nil {
		return err
	}
	raw, err := d.Raw()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := k.restoreActive(raw); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := find(d, "L"); err != nil {
		return err
	}
	if raw, err = d.Raw(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if k.list, err = parseSupplement(raw); err != nil {
		return err
	}
	if !slices.IsSortedFunc(k.list, compareKeys) {
		return fmt.Errorf("%w: keys out of order", ErrMalformed)
	}
	pending, err := d.Find("P")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if pending {
		if raw, err = d.Raw(); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		if k.pending, err = parsePending(raw); err != nil {
			return err
		}
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

func (k *Keys) restoreActive(raw []byte) error {
	l, err := bt.ReadList(raw)
	if err != nil {
		return err
	}
	for l.More() {
		if raw, err = l.Raw(); err != nil {
			return err
		}
		one, err := bt.ReadList(raw)
		if err != nil {
			return err
		}
		generation, err := one.Int()
		if err != nil {
			return err
		}
		for one.More() {
			h, err := one.Bytes()
			if err != nil {
				return err
			}
			k.remember(generation, string(h))
		}
		if err := one.Close(); err != nil {
			return err
		}
	}
	return l.Close()
}

func parsePending(raw []byte) (*pendingKey, error) {
	d, err := bt.ReadDict(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	message, err := bytesAt(d, "c", 0)
	if err != nil {
		return nil, err
	}
	generation, err := intAt(d, "g")
	if err != nil {
		return nil, err
	}
	key, err := bytesAt(d, "k", keySize)
	if err != nil {
		return nil, err
	}
	return &pendingKey{generation, config.Key(key), bytes.Clone(message)}, nil
}
