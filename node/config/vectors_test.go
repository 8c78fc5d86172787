package config

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/blake2b"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

// vectorSeed is the account that all vectors belong to: 16 bytes, zeros after.
var vectorSeed = account.Seed{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}

// vectorTime is the clock of the vectors.
const vectorTime = 1748736000000 // ms

func vectorOptions() Options {
	return Options{
		Account: account.New(vectorSeed),
		Now:     func() time.Time { return time.UnixMilli(vectorTime) },
	}
}

func vectorObject(t testing.TB, kind Kind) *Object {
	t.Helper()
	o, err := New(kind, vectorOptions())
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// testID is the Session ID of the identity with that label.
func testID(t testing.TB, label string) account.ID {
	t.Helper()
	pair := testPair(label)
	id, err := account.IDFromEd25519(pair.Ed25519())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testPair(label string) *keys.Pair {
	return keys.FromSeed(blake2b.Sum256([]byte("test-seed:" + label)))
}

// vectorPush is what the reference pushed.
type vectorPush struct {
	Seqno        int64
	NeedsPush    bool           `json:"needs_push_before"`
	Obsolete     []string       `json:"obsolete_hashes_sorted"`
	Wire         vectortest.Hex `json:"wire_hex"`
	Encrypted    vectortest.Hex `json:"encrypted_hex"`
	Unpadded     vectortest.Hex `json:"unpadded_hex"`
	Plaintext    vectortest.Hex `json:"plaintext_hex"`
	PlaintextB64 []byte         `json:"plaintext_b64"`
	Hash         vectortest.Hex `json:"plaintext_hash_hex"`
	Compressed   bool
	Padded       int `json:"padded_size"`
}

// layers takes a stored message apart as a reader does.
func layers(t testing.TB, o *Object, wire []byte) (sealed, padded, plaintext []byte) {
	t.Helper()
	sealed = wire
	if f := facts[o.kind]; f.wrapped != 0 {
		sealed = unwrap(o.options.Account, f.wrapped, wire)
	}
	padded, _, err := o.decrypt(sealed)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	if plaintext, err = inflate(padded); err != nil {
		t.Fatalf("inflating: %v", err)
	}
	return sealed, padded, plaintext
}

// checkPush pushes and compares every layer with the reference's.
func checkPush(t *testing.T, o *Object, want vectorPush) []byte {
	t.Helper()
	if o.NeedsPush() != want.NeedsPush {
		t.Errorf("needs push: %v, want %v", o.NeedsPush(), want.NeedsPush)
	}
	got, err := o.Push()
	if err != nil {
		t.Fatal(err)
	}
	if got.Seqno != want.Seqno || !slices.Equal(got.Obsolete, want.Obsolete) {
		t.Errorf("seqno %d, obsolete %q; want %d, %q", got.Seqno, got.Obsolete, want.Seqno, want.Obsolete)
	}
	if want.Plaintext == nil {
		want.Plaintext = want.PlaintextB64
	}
	_, _, plaintext := layers(t, o, got.Parts[0])
	if !bytes.Equal(plaintext, want.Plaintext) {
		t.Fatalf("plaintext\n%q, want\n%q", plaintext, want.Plaintext)
	}
	if o.message.hash != [hashSize]byte(want.Hash) {
		t.Errorf("hash %x, want %x", o.message.hash, want.Hash)
	}
	if want.Wire == nil {
		want.Wire = want.Encrypted // of a group
	}

	// The reference's own message opens to the same.
	sealed, padded, plaintext := layers(t, o, want.Wire)
	if !bytes.Equal(sealed, want.Encrypted) || len(padded) != want.Padded || !bytes.Equal(plaintext, want.Plaintext) {
		t.Errorf("the reference's message opens to %d bytes of %d: %q", len(plaintext), len(padded), plaintext)
	}
	// What is deterministic is the same byte for byte: everything, unless
	// compression comes in, which depends on the encoder.
	unpadded := []byte(want.Plaintext)
	if want.Compressed {
		unpadded = want.Unpadded
	} else if !bytes.Equal(got.Parts[0], want.Wire) {
		t.Errorf("stored bytes differ:\n%x, want\n%x", got.Parts[0], want.Wire)
	}
	if again := pad(unpadded); !bytes.Equal(again, padded) {
		t.Errorf("padding to %d bytes, want %d", len(again), len(padded))
	}
	again, err := seal(padded, o.keys[0], facts[o.kind].domain)
	if err != nil || !bytes.Equal(again, want.Encrypted) {
		t.Errorf("encryption of the same plaintext differs, %v", err)
	}
	if facts[o.kind].wrapped != 0 {
		wrapped, err := wrap(o.options.Account, facts[o.kind].wrapped, want.Seqno, want.Encrypted)
		if err != nil || !bytes.Equal(wrapped, want.Wire) {
			t.Errorf("wrapping of the same bytes differs, %v", err)
		}
	}
	return got.Parts[0]
}

// encryptPlain makes a stored message of a plaintext, valid or not.
func encryptPlain(t testing.TB, o *Object, plaintext []byte) []byte {
	t.Helper()
	sealed, err := seal(pad(plaintext), o.keys[0], facts[o.kind].domain)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

type profileState struct {
	Name     *string
	URL      string         `json:"pic_url"`
	Key      vectortest.Hex `json:"pic_key_hex"`
	Priority int64          `json:"nts_priority"`
	Timer    *int64         `json:"nts_expiry_seconds"`
	Requests *bool          `json:"blinded_msgreqs"`
}

func checkProfile(t *testing.T, p Profile, want profileState) {
	t.Helper()
	picture := Picture{URL: want.URL}
	copy(picture.Key[:], want.Key)
	name, timer, requests := "", int64(0), NotChosen
	if want.Name != nil {
		name = *want.Name
	}
	if want.Timer != nil {
		timer = *want.Timer
	}
	if want.Requests != nil {
		requests = No
		if *want.Requests {
			requests = Yes
		}
	}
	if p.Name() != name || p.Picture() != picture || p.Priority() != want.Priority || p.Timer() != timer || p.CommunityRequests() != requests {
		t.Errorf("profile %q, %q, priority %d, timer %d, requests %d; want %+v", p.Name(), p.Picture().URL, p.Priority(), p.Timer(), p.CommunityRequests(), want)
	}
}

func setProfile(t *testing.T, p Profile, values map[string]any) {
	t.Helper()
	var err error
	for key, v := range values {
		switch key {
		case "name":
			err = p.SetName(v.(string))
		case "pic_url":
			picture := Picture{URL: v.(string)}
			k, _ := hex.DecodeString(values["pic_key_hex"].(string))
			copy(picture.Key[:], k)
			err = p.SetPicture(picture)
		case "pic_key_hex":
		case "nts_priority":
			err = p.SetPriority(int64(v.(float64)))
		case "nts_expiry_seconds":
			err = p.SetTimer(int64(v.(float64)))
		case "blinded_msgreqs":
			choice := NotChosen
			if b, ok := v.(bool); ok {
				choice = map[bool]Choice{false: No, true: Yes}[b]
			}
			err = p.SetCommunityRequests(choice)
		default:
			t.Fatalf("setting %q not understood", key)
		}
		if err != nil {
			t.Fatalf("setting %s: %v", key, err)
		}
	}
}

type vectorDump struct {
	Bytes vectortest.Hex `json:"dump_hex"`
}

func checkDump(t *testing.T, o *Object, want *vectorDump) {
	t.Helper()
	if want == nil {
		return
	}
	if got := o.Dump(); !bytes.Equal(got, want.Bytes) {
		t.Errorf("dump\n%q, want\n%q", got, want.Bytes)
	}
	if o.NeedsDump() {
		t.Error("needs a dump right after one")
	}
}

func TestUserProfileVectors(t *testing.T) {
	type item struct {
		What       string
		Wire       vectortest.Hex `json:"wire_hex"`
		Plaintext  vectortest.Hex `json:"plaintext_hex"`
		Accepted   bool
		Again      string `json:"reserialized_ascii"`
		Acceptance struct {
			Result []string
			Error  string
		} `json:"accepted_hashes"`
		State     profileState
		NeedsPush bool `json:"needs_push"`
	}
	type restore struct {
		vectorDump
		NeedsPush bool `json:"needs_push_after_load"`
		State     profileState
		Push      vectorPush
	}
	var file struct {
		Cases []struct {
			Name  string
			Steps []struct {
				Op         string
				Set        map[string]any
				Bytes      int
				Input      vectortest.Hex `json:"input_hex"`
				Stored     vectortest.Hex `json:"stored_hex"`
				URLBytes   int            `json:"url_bytes"`
				StoredURL  int            `json:"stored_url_size"`
				Outcome    *struct{ Error string }
				Push       *vectorPush
				State      *profileState
				Dump       *vectorDump
				DirtyDump  *vectorDump `json:"dump_while_dirty"`
				Hash       string
				Seqno      int64
				CurrentNow []string `json:"current_hashes"`
			}
			Items        []item
			Incoming     string         `json:"incoming_plaintext_ascii"`
			InputName    vectortest.Hex `json:"input_name_hex"`
			State        *profileState
			Push         *vectorPush
			Clean, Dirty restore
			Waiting      restore
		}
	}
	vectortest.Load(t, "config-user-profile.json", &file)
	seen := 0
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			p := Profile{vectorObject(t, UserProfile)}
			switch c.Name {
			case "life-cycle":
				for i, s := range c.Steps {
					if s.Set != nil {
						setProfile(t, p, s.Set)
					}
					checkDump(t, p.Object, s.DirtyDump)
					switch {
					case s.Push != nil:
						checkPush(t, p.Object, *s.Push)
						// Some steps of the vector confirm without saying so.
						if s.Op == "set+push+confirm" {
							p.Confirm(s.Push.Seqno, s.Hash)
						} else if s.Push.Seqno > 0 && i+1 < len(c.Steps) && c.Steps[i+1].Set != nil {
							p.Confirm(s.Push.Seqno, fmt.Sprintf("fakehash%d", s.Push.Seqno))
						}
					case s.Op == "confirm_pushed":
						p.Confirm(s.Seqno, s.Hash)
						if p.NeedsPush() || !slices.Equal(p.CurrentHashes(), []string{s.Hash}) {
							t.Errorf("after confirming: %v, %q", p, p.CurrentHashes())
						}
					case s.Op == "push":
						a, _ := p.Push()
						b, _ := p.Push()
						if !bytes.Equal(a.Parts[0], b.Parts[0]) {
							t.Error("two pushes differ")
						}
					}
					if s.State != nil {
						checkProfile(t, p, *s.State)
					}
					checkDump(t, p.Object, s.Dump)
				}
			case "setting-the-same-value-does-not-dirty":
				setProfile(t, p, map[string]any{"name": "a", "nts_priority": 3.0})
				push, _ := p.Push()
				p.Confirm(push.Seqno, "h")
				setProfile(t, p, map[string]any{"name": "a", "nts_priority": 3.0, "nts_expiry_seconds": 0.0, "blinded_msgreqs": nil})
				if p.NeedsPush() {
					t.Error("storing the same values needs a push")
				}
			case "limits":
				for _, s := range c.Steps {
					switch s.Op {
					case "set_name":
						err := p.SetName(strings.Repeat("x", s.Bytes))
						if (s.Outcome != nil) != errors.Is(err, ErrValue) {
							t.Errorf("name of %d bytes: %v", s.Bytes, err)
						}
					case "set_name_truncated":
						p.SetName(CutName(string(s.Input)))
						if p.Name() != string(s.Stored) {
							t.Errorf("cut to %q, want %q", p.Name(), s.Stored)
						}
					case "set_profile_pic":
						picture := Picture{URL: strings.Repeat("u", s.URLBytes), Key: Key([]byte("secret78901234567890123456789012"))}
						switch {
						case s.StoredURL > 0: // refused by us and by the reference's C interface, but read
							if err := p.SetPicture(picture); !errors.Is(err, ErrValue) {
								t.Errorf("address of %d bytes: %v", s.URLBytes, err)
							}
							p.Set(BytesValue(picture.URL), profileURL)
							p.Set(BytesValue(string(picture.Key[:])), profileKey)
							if got := len(p.Picture().URL); got != s.StoredURL {
								t.Errorf("address of %d bytes, want %d", got, s.StoredURL)
							}
						case s.State != nil: // our keys always have 32 bytes; such a pair is read as none
							p.Set(BytesValue("short"), profileKey)
							checkProfile(t, p, *s.State)
						default:
							if err := p.SetPicture(picture); err != nil {
								t.Error(err)
							}
						}
					default:
						t.Fatalf("step %q not understood", s.Op)
					}
					if s.Push != nil {
						checkPush(t, p.Object, *s.Push)
					}
				}
			case "unicode-name":
				p.SetName(string(c.InputName))
				p.SetPriority(-1)
				checkPush(t, p.Object, *c.Push)
				checkProfile(t, p, *c.State)
			case "incoming-variants":
				for _, it := range c.Items {
					t.Run(it.What, func(t *testing.T) {
						p := Profile{vectorObject(t, UserProfile)}
						got := p.Merge([]Message{{"h", it.Wire}})
						if strings.HasPrefix(it.What, "multipart marker") {
							// The version that made the vectors knew no parts. It is
							// the first of two, so it is kept until the other comes.
							if !slices.Equal(got.Accepted, []string{"h"}) || !slices.Equal(p.ActiveHashes(), got.Accepted) || got.Changed {
								t.Errorf("accepted %q, active %q, %v", got.Accepted, p.ActiveHashes(), got.Err())
							}
						} else if !slices.Equal(got.Accepted, it.Acceptance.Result) || (got.Err() != nil) != (it.Acceptance.Error != "") {
							t.Errorf("accepted %q, %v; want %+v", got.Accepted, got.Err(), it.Acceptance)
						}
						checkProfile(t, p, it.State)
						if p.NeedsPush() != it.NeedsPush {
							t.Errorf("needs push: %v", p.NeedsPush())
						}
					})
				}
			case "parser-accept-reject":
				for _, it := range c.Items {
					t.Run(it.What, func(t *testing.T) {
						o := vectorObject(t, UserProfile)
						got := o.Merge([]Message{{"h", encryptPlain(t, o, it.Plaintext)}})
						if (len(got.Accepted) == 1) != it.Accepted {
							t.Fatalf("accepted %q, %v; want %v", got.Accepted, got.Err(), it.Accepted)
						}
						if !it.Accepted {
							if err := got.Err(); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrLimit) {
								t.Errorf("refused with %v", err)
							}
							return
						}
						if again := o.message.append(nil, nil); string(again) != it.Again {
							t.Errorf("written again as %q, want %q", again, it.Again)
						}
					})
				}
			case "unknown-keys-survive-local-change":
				p.Merge([]Message{{"h10", encryptPlain(t, p.Object, []byte(c.Incoming))}})
				p.SetName("new")
				checkPush(t, p.Object, *c.Push)
			case "dump-restore":
				for name, r := range map[string]restore{"clean": c.Clean, "dirty": c.Dirty, "waiting": c.Waiting} {
					t.Run(name, func(t *testing.T) {
						o, err := Load(UserProfile, vectorOptions(), r.Bytes)
						if err != nil {
							t.Fatal(err)
						}
						if o.NeedsPush() != r.NeedsPush {
							t.Errorf("needs push: %v", o.NeedsPush())
						}
						if name != "dirty" { // which takes another seqno
							checkDump(t, o, &r.vectorDump)
						}
						checkProfile(t, Profile{o}, r.State)
						checkPush(t, o, r.Push)
					})
				}
			default:
				t.Fatalf("case not understood")
			}
			seen++
		})
	}
	if seen != 8 {
		t.Errorf("%d cases, want 8", seen)
	}
}

type vectorContact struct {
	ID         account.ID     `json:"session_id"`
	Name       vectortest.Hex `json:"name_hex"`
	Nickname   vectortest.Hex `json:"nickname_hex"`
	URL        string         `json:"pic_url"`
	Key        vectortest.Hex `json:"pic_key_hex"`
	Approved   bool
	ApprovedMe bool `json:"approved_me"`
	Blocked    bool
	Priority   int64
	Notify     int64 `json:"notifications"`
	Mute       int64 `json:"mute_until"`
	Mode       int64 `json:"exp_mode"`
	Seconds    int64 `json:"exp_seconds"`
	Created    int64
}

func (v vectorContact) contact() Contact {
	c := Contact{
		ID: v.ID, Name: string(v.Name), Nickname: string(v.Nickname),
		Picture: Picture{URL: v.URL}, Approved: v.Approved, ApprovedMe: v.ApprovedMe, Blocked: v.Blocked,
		Priority: v.Priority, Notifications: Notifications(v.Notify), MutedUntil: v.Mute,
		Expiry: Expiry(v.Mode), Timer: v.Seconds, Created: v.Created,
	}
	copy(c.Picture.Key[:], v.Key)
	return c
}

func checkContacts(t *testing.T, c Contacts, want []vectorContact) {
	t.Helper()
	var list []Contact
	for _, v := range want {
		list = append(list, v.contact())
	}
	if got := slices.Collect(c.All()); !slices.Equal(got, list) {
		t.Errorf("contacts %+v, want %+v", got, list)
	}
}

func TestContactVectors(t *testing.T) {
	type step struct {
		Op       string
		Contact  *vectorContact
		Given    []vectorContact `json:"contacts_given"`
		All      []vectorContact
		Push     *vectorPush
		Input    vectortest.Hex `json:"input_hex"`
		Stored   vectortest.Hex `json:"stored_name_hex"`
		Outcome  struct{ Error string }
		Returned bool
	}
	var file struct {
		Cases []struct {
			Name   string
			Steps  []step
			Push   *vectorPush
			IDs    []account.ID `json:"session_ids"`
			Count  int
			Number int `json:"contacts"`
			Items  []struct {
				What      string
				Plaintext vectortest.Hex `json:"plaintext_hex"`
				All       []vectorContact
				Merge     *struct{ Error string }
			}
			Seqno     int64
			Parts     []vectorPart
			Hash      vectortest.Hex `json:"plaintext_hash_hex"`
			WholeHash vectortest.Hex `json:"recombined_hash_hex"`
			Events    []struct {
				Op     string
				Result *multipartResult
				Parts  int
				Seqno  int64
				Gone   []string `json:"obsolete_hashes_sorted"`
			}
		}
	}
	vectortest.Load(t, "config-contacts.json", &file)
	seen := 0
	alice := testID(t, "alice")
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			contacts := Contacts{vectorObject(t, ContactList)}
			switch c.Name {
			case "life-cycle":
				for i, s := range c.Steps {
					given := s.Given
					if s.Contact != nil {
						given = append(given, *s.Contact)
					}
					if given == nil {
						given = s.All
					}
					kept := map[account.ID]bool{}
					for _, v := range given {
						kept[v.ID] = true
						if err := contacts.Put(v.contact()); err != nil {
							t.Fatal(err)
						}
					}
					for have := range contacts.All() {
						if !kept[have.ID] {
							first, _ := contacts.Remove(have.ID)
							second, err := contacts.Remove(have.ID)
							if !first || second || err != nil {
								t.Errorf("erasing twice: %v, %v, %v", first, second, err)
							}
						}
					}
					checkPush(t, contacts.Object, *s.Push)
					contacts.Confirm(s.Push.Seqno, fmt.Sprintf("h%d", i+1))
					checkContacts(t, contacts, s.All)
				}
			case "names-at-the-limit":
				for i, s := range c.Steps {
					switch i {
					case 0:
						contacts.Put(Contact{ID: alice, Name: string(s.Input)})
					case 1:
						contacts.Put(Contact{ID: alice, Name: CutName(string(c.Steps[0].Input))})
					case 2:
						if err := contacts.SetNickname(alice, strings.Repeat("n", 101)); !errors.Is(err, ErrValue) {
							t.Errorf("nickname of 101 bytes: %v", err)
						}
					case 3:
						if err := contacts.SetNickname(alice, strings.Repeat("n", 100)); err != nil {
							t.Error(err)
						}
						checkPush(t, contacts.Object, *s.Push)
					case 4:
						if err := contacts.Put(Contact{ID: account.ID{0x03}}); !errors.Is(err, ErrValue) {
							t.Errorf("id that is no Session ID: %v", err)
						}
					case 5:
						id, err := account.ParseSessionID(strings.ToUpper(alice.String()))
						if err != nil || id != alice {
							t.Errorf("upper-case id: %v, %v", id, err)
						}
					}
					if s.Stored != nil {
						if got, _ := contacts.Find(alice); got.Name != string(s.Stored) {
							t.Errorf("%s: %q, want %q", s.Op, got.Name, s.Stored)
						}
					}
				}
			case "load-odd-values":
				for _, it := range c.Items {
					t.Run(it.What, func(t *testing.T) {
						contacts := Contacts{vectorObject(t, ContactList)}
						got := contacts.Merge([]Message{{"h", encryptPlain(t, contacts.Object, it.Plaintext)}})
						if (it.Merge != nil) != (got.Err() != nil) {
							t.Errorf("merge: %v", got.Err())
						}
						checkContacts(t, contacts, it.All)
					})
				}
			case "many-contacts":
				for i, id := range c.IDs {
					if id != testID(t, fmt.Sprintf("c%d", i)) {
						t.Fatalf("id %d differs", i)
					}
					contacts.Put(Contact{ID: id, Name: fmt.Sprintf("Contact %d", i), Approved: i%2 == 0, Created: 1748000000 + int64(i)})
				}
				checkPush(t, contacts.Object, *c.Push)
				if contacts.Len() != c.Count {
					t.Errorf("%d contacts", contacts.Len())
				}
			case "too-large-without-multipart":
				fill(t, contacts, c.Number)
				if push, err := contacts.Push(); err != nil || len(push.Parts) < 2 {
					t.Errorf("large config in %d parts, %v", len(push.Parts), err)
				}
			case "multipart":
				for i, e := range c.Events {
					switch i {
					case 0, 1:
						checkMultipart(t, contacts, e.Result, Message{"p1", c.Parts[1].Wire})
					case 2, 3:
						checkMultipart(t, contacts, e.Result, Message{"p0", c.Parts[0].Wire})
						if got := contacts.message; got.hash != [hashSize]byte(c.Hash) || got.seqno != c.Seqno {
							t.Errorf("seqno %d, hash %x", got.seqno, got.hash)
						}
					case 4:
						fresh := Contacts{vectorObject(t, ContactList)}
						fill(t, fresh, 2200)
						push, err := fresh.Push()
						if err != nil || fresh.message.hash != [hashSize]byte(c.Hash) {
							t.Errorf("our own hash %x, %v; want %x", fresh.message.hash, err, c.Hash)
						}
						checkParts(t, fresh.Object, push.Parts)
						contacts.SetNickname(testID(t, "L0"), "changed")
						push, err = contacts.Push()
						if err != nil || push.Seqno != e.Seqno || len(push.Parts) != e.Parts || !slices.Equal(push.Obsolete, e.Gone) {
							t.Errorf("push of seqno %d, %d parts, obsolete %q, %v", push.Seqno, len(push.Parts), push.Obsolete, err)
						}
					case 5:
						contacts = Contacts{vectorObject(t, ContactList)}
						broken := bytes.Clone(c.Parts[1].Wire)
						broken[7] ^= 1
						got := contacts.Merge([]Message{{"p0", c.Parts[0].Wire}, {"p1", broken}})
						if !slices.Equal(got.Accepted, e.Result.Accepted) || !errors.Is(got.Err(), ErrDecrypt) {
							t.Errorf("accepted %q, %v", got.Accepted, got.Err())
						}
						e.Result.check(t, contacts)
					}
				}
				for i, p := range c.Parts {
					p.check(t, contacts.Object, i, len(c.Parts), c.WholeHash)
				}
			default:
				t.Fatal("case not understood")
			}
			seen++
		})
	}
	if seen != 6 {
		t.Errorf("%d cases, want 6", seen)
	}
}

// fill stores the contacts of the vectors about large configs.
func fill(t testing.TB, c Contacts, n int) {
	t.Helper()
	for i := range n {
		err := c.Put(Contact{ID: testID(t, fmt.Sprintf("L%d", i)), Nickname: fmt.Sprintf("My friend %d", i), Approved: true})
		if err != nil {
			t.Fatal(err)
		}
	}
}

type vectorPart struct {
	Wire      []byte `json:"wire_b64"`
	PlainSize int    `json:"plain_size"`
	Chunk     int    `json:"chunk_size"`
}

// check cuts the reference's whole again and wants the same part.
func (p vectorPart) check(t *testing.T, o *Object, index, count int, whole []byte) {
	t.Helper()
	padded, _, err := o.decrypt(p.Wire)
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsePart(padded)
	if err != nil || got.index != index || got.count != count || !bytes.Equal(got.whole[:], whole) || len(got.chunk) != p.Chunk || len(padded) != p.PlainSize {
		t.Errorf("part %d of %d with %d bytes, %v", got.index, got.count, len(got.chunk), err)
	}
	again, err := seal(padded, o.keys[0], facts[o.kind].domain)
	if err != nil || !bytes.Equal(again, p.Wire) {
		t.Errorf("sealing part %d again differs, %v", index, err)
	}
}

type multipartResult struct {
	Accepted  []string
	Contacts  int
	NeedsPush bool     `json:"needs_push"`
	Active    []string `json:"active_hashes"`
	Current   []string `json:"current_hashes"`
}

func checkMultipart(t *testing.T, c Contacts, want *multipartResult, m Message) {
	t.Helper()
	got := c.Merge([]Message{m})
	if !slices.Equal(got.Accepted, want.Accepted) || got.Err() != nil {
		t.Errorf("accepted %q, %v", got.Accepted, got.Err())
	}
	want.check(t, c)
}

func (want *multipartResult) check(t *testing.T, c Contacts) {
	t.Helper()
	if c.Len() != want.Contacts || c.NeedsPush() != want.NeedsPush || !slices.Equal(c.ActiveHashes(), want.Active) || !slices.Equal(c.CurrentHashes(), want.Current) {
		t.Errorf("%d contacts, needs push %v, active %q, current %q; want %+v", c.Len(), c.NeedsPush(), c.ActiveHashes(), c.CurrentHashes(), want)
	}
}

// checkParts reads our own parts into another device, in reverse.
func checkParts(t *testing.T, o *Object, pieces [][]byte) {
	t.Helper()
	other := vectorObject(t, o.kind)
	for i, p := range slices.Backward(pieces) {
		if len(p) > MaxMessage {
			t.Errorf("part of %d bytes", len(p))
		}
		if got := other.Merge([]Message{{fmt.Sprint(i), p}}); got.Err() != nil {
			t.Error(got.Err())
		}
	}
	if other.message.id != o.message.id {
		t.Errorf("read back as %v", other)
	}
}

// ids of the vectors about conversations and groups, by their names there.
type vectorIDs map[string]string

func (v vectorIDs) id(t testing.TB, name string) account.ID {
	t.Helper()
	id, err := account.ParseID(v[name])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return id
}

type vectorConvo struct {
	Type   string
	ID     *account.ID
	Server string `json:"base_url"`
	Room   string
	Pubkey vectortest.Hex `json:"pubkey_hex"`
	Read   int64          `json:"last_read"`
	Unread bool
}

func (v vectorConvo) convo(t testing.TB) Conversation {
	kinds := map[string]ConvoKind{"1to1": OneToOne, "group": GroupConvo, "community": CommunityConvo, "legacy_group": LegacyConvo}
	kind, ok := kinds[v.Type]
	if !ok {
		t.Fatalf("type %q", v.Type)
	}
	c := Conversation{Kind: kind, Read: v.Read, Unread: v.Unread}
	if v.ID != nil {
		c.ID = *v.ID
	}
	if kind == CommunityConvo {
		c.Room = Room{Server: v.Server, Name: v.Room, Key: [32]byte(v.Pubkey)}
	}
	return c
}

func checkConvos(t *testing.T, c Conversations, want []vectorConvo) {
	t.Helper()
	var list []Conversation
	for _, v := range want {
		list = append(list, v.convo(t))
	}
	if got := slices.Collect(c.All()); !slices.Equal(got, list) {
		t.Errorf("conversations %+v, want %+v", got, list)
	}
}

func TestConvoVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Name  string
			Steps []struct {
				Op   string
				IDs  vectorIDs
				Now  int64 `json:"clock_now_ms"`
				Push *vectorPush
				All  []vectorConvo
			}
		}
	}
	vectortest.Load(t, "config-convo-info.json", &file)
	put := func(t *testing.T, c Conversations, convos ...Conversation) {
		t.Helper()
		for _, convo := range convos {
			if err := c.Put(convo); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := 0
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			now := int64(vectorTime)
			options := vectorOptions()
			options.Now = func() time.Time { return time.UnixMilli(now) }
			o, err := New(ConvoVolatile, options)
			if err != nil {
				t.Fatal(err)
			}
			convos := Conversations{o}
			for i, s := range c.Steps {
				switch {
				case c.Name == "all-kinds" && i == 0:
					for _, v := range s.All {
						convo := v.convo(t)
						if convo.Kind == CommunityConvo { // as somebody may type it
							convo.Room.Server = strings.ToUpper(convo.Room.Server)
							convo.Room.Name = strings.ToUpper(convo.Room.Name)
							if !strings.Contains(convo.Room.Server, ":5678") {
								convo.Room.Server += ":443"
							}
						}
						put(t, convos, convo)
					}
				case c.Name == "all-kinds" && i == 1:
					var want []Conversation
					for _, v := range s.All {
						want = append(want, v.convo(t))
					}
					put(t, convos, want...)
					for have := range convos.All() {
						if !slices.Contains(want, have) {
							if was, err := convos.Remove(have); !was || err != nil {
								t.Errorf("erasing %+v: %v, %v", have, was, err)
							}
						}
					}
				case c.Name == "pruning" && i == 0:
					day := int64(24 * time.Hour / time.Millisecond)
					put(t, convos,
						Conversation{ID: s.IDs.id(t, "d29"), Read: now - 29*day},
						Conversation{ID: s.IDs.id(t, "d31"), Read: now - 31*day},
						Conversation{ID: s.IDs.id(t, "d31u"), Read: now - 31*day, Unread: true},
						Conversation{ID: s.IDs.id(t, "d0"), Read: now},
						Conversation{ID: s.IDs.id(t, "zero")})
				case c.Name == "pruning" && i == 2:
					for _, v := range s.All {
						put(t, convos, v.convo(t))
					}
				case c.Name == "pruning" && i == 3:
					now = s.Now
				}
				if s.Push != nil {
					checkPush(t, o, *s.Push)
					o.Confirm(s.Push.Seqno, fmt.Sprintf("h%d", s.Push.Seqno))
				}
				checkConvos(t, convos, s.All)
			}
			seen++
		})
	}
	if seen != 2 {
		t.Errorf("%d cases, want 2", seen)
	}
}

type vectorGroup struct {
	Type     string
	Name     string
	Priority int64
	Joined   int64 `json:"joined_at"`
	Notify   int64 `json:"notifications"`
	Mute     int64 `json:"mute_until"`
	Invited  bool

	ID      account.ID
	Secret  vectortest.Hex `json:"secretkey_hex"`
	Auth    vectortest.Hex `json:"auth_data_hex"`
	Removed int64          `json:"removed_status"`

	Server string `json:"base_url"`
	Room   string
	Norm   string         `json:"room_norm"`
	Pubkey vectortest.Hex `json:"pubkey_hex"`

	Public  vectortest.Hex `json:"enc_pubkey_hex"`
	LSecret vectortest.Hex `json:"enc_seckey_hex"`
	Timer   int64          `json:"disappearing_seconds"`
	Members map[account.ID]bool
}

func (v vectorGroup) membership() Membership {
	return Membership{v.Priority, v.Joined, Notifications(v.Notify), v.Mute, v.Invited}
}

func (v vectorGroup) group() Group {
	g := Group{Membership: v.membership(), ID: v.ID, Name: v.Name, Removed: Departure(v.Removed)}
	if len(v.Secret) > 0 {
		g.Admin, g.Seed = true, Key(v.Secret[:32])
	}
	if len(v.Auth) > 0 {
		g.Auth = v.Auth
	}
	return g
}

func (v vectorGroup) community() Community {
	return Community{v.membership(), Room{v.Server, v.Room, [32]byte(v.Pubkey)}}
}

func (v vectorGroup) legacy() LegacyGroup {
	g := LegacyGroup{Membership: v.membership(), ID: v.ID, Name: v.Name, Timer: v.Timer, Members: v.Members}
	copy(g.PublicKey[:], v.Public)
	copy(g.SecretKey[:], v.LSecret)
	return g
}

func TestUserGroupVectors(t *testing.T) {
	type outcome struct {
		Result any
		Error  string
	}
	var file struct {
		IDs   vectorIDs
		Cases []struct {
			Name  string
			Steps []struct {
				Op   string
				Push vectorPush
				All  []vectorGroup
			}
			URLs []struct {
				URL     string
				Outcome outcome
			} `json:"url_parsing"`
			Pubkeys []struct {
				Encoded string
				Outcome outcome
			} `json:"pubkey_encodings"`
		}
	}
	vectortest.Load(t, "config-user-groups.json", &file)
	seen := 0
	for _, c := range file.Cases {
		t.Run(c.Name, func(t *testing.T) {
			o := vectorObject(t, UserGroups)
			groups := Groups{o}
			for i, s := range c.Steps {
				kept := map[string]bool{}
				for _, v := range s.All {
					var err error
					switch v.Type {
					case "group":
						g := v.group()
						switch {
						case strings.HasPrefix(s.Op, "secret key whose") && v.Name == "Admin group":
							// A seed of another group: it is left out.
							g.Admin, g.Seed = true, Key{1}
						case s.Op == "mark_kicked" && v.Removed == int64(Kicked):
							g, _ = groups.Find(v.ID)
							g.MarkKicked()
						case strings.HasPrefix(s.Op, "mark_invited") && i > 0:
							g, _ = groups.Find(v.ID)
							g.MarkInvited()
						case strings.HasPrefix(s.Op, "mark_destroyed") && v.Removed == int64(Destroyed):
							g, _ = groups.Find(v.ID)
							g.MarkDestroyed()
							g.MarkKicked()
							g.MarkInvited()
						}
						kept[string(g.ID[:])] = true
						err = groups.Put(g)
					case "community":
						kept[v.Server+v.Norm] = true
						err = groups.PutCommunity(v.community())
					case "legacy":
						err = groups.PutLegacy(v.legacy())
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				for g := range groups.Groups() {
					if !kept[string(g.ID[:])] {
						groups.Remove(g.ID)
					}
				}
				for c := range groups.Communities() {
					if !kept[c.Server+c.norm()] {
						groups.RemoveCommunity(c.Room)
					}
				}
				checkPush(t, o, s.Push)
				// The vector does not confirm before its last step.
				hash := fmt.Sprintf("h%d", s.Push.Seqno)
				if i+1 < len(c.Steps) && slices.Contains(c.Steps[i+1].Push.Obsolete, hash) {
					o.Confirm(s.Push.Seqno, hash)
				}

				var gs []Group
				var cs []Community
				var ls []LegacyGroup
				for _, v := range s.All {
					switch v.Type {
					case "group":
						gs = append(gs, v.group())
					case "community":
						cs = append(cs, v.community())
					case "legacy":
						ls = append(ls, v.legacy())
					}
				}
				got := slices.Collect(groups.Groups())
				if !slices.EqualFunc(got, gs, func(a, b Group) bool {
					return a.ID == b.ID && a.Membership == b.Membership && a.Name == b.Name && a.Admin == b.Admin &&
						a.Seed == b.Seed && bytes.Equal(a.Auth, b.Auth) && a.Removed == b.Removed
				}) {
					t.Errorf("groups %+v, want %+v", got, gs)
				}
				if got := slices.Collect(groups.Communities()); !slices.Equal(got, cs) {
					t.Errorf("communities %+v, want %+v", got, cs)
				}
				legacy := slices.Collect(groups.Legacy())
				if !slices.EqualFunc(legacy, ls, func(a, b LegacyGroup) bool {
					return a.ID == b.ID && a.Membership == b.Membership && a.Name == b.Name && a.PublicKey == b.PublicKey &&
						a.SecretKey == b.SecretKey && a.Timer == b.Timer && maps.Equal(a.Members, b.Members)
				}) {
					t.Errorf("legacy groups %+v, want %+v", legacy, ls)
				}
			}
			for _, u := range c.URLs {
				room, err := ParseRoom(u.URL)
				if (err != nil) != (u.Outcome.Error != "") || err != nil && !errors.Is(err, ErrValue) {
					t.Errorf("%s: %v; want %q", u.URL, err, u.Outcome.Error)
				}
				if want, ok := u.Outcome.Result.(map[string]any); ok {
					if room.Server != want["base_url"] || room.Name != want["room"] || room.norm() != want["room_norm"] {
						t.Errorf("%s: %+v, want %v", u.URL, room, want)
					}
				}
			}
			for _, p := range c.Pubkeys {
				key, err := ParseServerKey(p.Encoded)
				if want, ok := p.Outcome.Result.(string); ok && (err != nil || hex.EncodeToString(key[:]) != want) {
					t.Errorf("%s: %x, %v", p.Encoded, key, err)
				} else if !ok && !errors.Is(err, ErrValue) {
					t.Errorf("%s: %v", p.Encoded, err)
				}
			}
			if c.Name == "communities" && (len(c.URLs) != 12 || len(c.Pubkeys) != 5) {
				t.Errorf("%d addresses, %d keys", len(c.URLs), len(c.Pubkeys))
			}
			seen++
		})
	}
	if seen != 3 {
		t.Errorf("%d cases, want 3", seen)
	}
}
