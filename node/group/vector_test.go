package group

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
	"hearth/node/rpc"
)

type identity struct {
	Seed vectortest.Hex `json:"seed_hex"`
	ID   account.ID     `json:"session_id"`
}

func (i identity) pair() *keys.Pair { return keys.FromSeed([32]byte(i.Seed)) }

type keyState struct {
	Keys       []vectortest.Hex `json:"keys_newest_first_hex"`
	Generation int64            `json:"current_generation"`
	Size       int
	Admin      bool
	NeedsRekey bool `json:"needs_rekey"`
	Pending    bool
}

func (s *keyState) check(t *testing.T, k *Keys) {
	t.Helper()
	if s == nil {
		t.Fatal("the vectors say nothing about the keys")
	}
	all := k.All()
	same := len(all) == len(s.Keys) && len(all) == s.Size
	for i := range min(len(all), len(s.Keys)) {
		same = same && bytes.Equal(all[i][:], s.Keys[i])
	}
	if !same {
		t.Errorf("keys %x, want %x", all, s.Keys)
	}
	if k.Generation() != s.Generation || k.Admin() != s.Admin || k.NeedsRekey() != s.NeedsRekey || (k.Pending() != nil) != s.Pending {
		t.Errorf("generation %d, admin %v, needs rekey %v, pending %v; want %+v", k.Generation(), k.Admin(), k.NeedsRekey(), k.Pending() != nil, s)
	}
}

type keyMessageVector struct {
	Message vectortest.Hex `json:"message_hex"`
	B64     []byte         `json:"message_b64"`
	G       int64
}

func (m *keyMessageVector) bytes() []byte {
	if len(m.B64) > 0 {
		return m.B64
	}
	return m.Message
}

type outcome struct {
	Result any
	Error  string
}

type keyEvent struct {
	Op      string
	Device  string
	Hash    string
	At      int64             `json:"timestamp_ms"`
	Message *keyMessageVector `json:"key_message"`
	Outcome outcome
	Keys    *keyState
	After   *keyState         `json:"keys_after"`
	Active  []string          `json:"active_hashes"`
	IDs     []account.ID      `json:"ids"`
	A, B    *keyMessageVector `json:",omitempty"`
	AKeys   *keyState         `json:"A_keys"`
	BKeys   *keyState         `json:"B_keys"`
	Member3 *keyState         `json:"member3_keys"`
	Active3 []string          `json:"member3_active_hashes"`
	Dump    struct {
		Bytes vectortest.Hex `json:"dump_hex"`
	}
}

type subaccount struct {
	User     identity
	Auth     vectortest.Hex `json:"auth_data_hex"`
	Token    vectortest.Hex `json:"token_hex"`
	ReadOnly vectortest.Hex `json:"read_only_auth_data_hex"`
	Sign     struct {
		Message       string
		Subaccount    string         `json:"subaccount_b64"`
		SubaccountSig string         `json:"subaccount_sig_b64"`
		Signature     string         `json:"signature_b64"`
		SignatureHex  vectortest.Hex `json:"signature_hex"`
	}
	Verify map[string]bool
}

type keyVectors struct {
	Group      identity
	Identities map[string]identity
	Derived    map[string]vectortest.Hex `json:"derived_from_group_seed"`
	Malformed  []struct {
		What    string
		Message keyMessageText `json:"message_hex"`
		Outcome outcome
	} `json:"malformed_key_messages"`
	Events      []keyEvent
	Subaccounts []subaccount
}

type keyMessageText = vectortest.Hex

func loadKeyVectors(t testing.TB) *keyVectors {
	t.Helper()
	v := new(keyVectors)
	vectortest.Load(t, "group-keys.json", v)
	return v
}

func (v *keyVectors) keys(t testing.TB, name string, admin bool) *Keys {
	t.Helper()
	who, known := v.Identities[name]
	if !known {
		t.Fatalf("no identity %q", name)
	}
	k, err := NewKeys(who.pair(), ID(v.Group.pair()))
	if err != nil {
		t.Fatal(err)
	}
	if admin {
		if err := k.LoadSeed(v.Group.pair()); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

func (v *keyVectors) ids(names ...string) []account.ID {
	var ids []account.ID
	for _, n := range names {
		ids = append(ids, v.Identities[n].ID)
	}
	return ids
}

// TestTheLifeOfAGroupsKeys replays what libsession's devices did, step by step.
func TestTheLifeOfAGroupsKeys(t *testing.T) {
	v := loadKeyVectors(t)
	device := map[string]*Keys{
		"admin": v.keys(t, "admin", true), "admin2": v.keys(t, "admin2", true),
		"member1": v.keys(t, "member1", false), "member3": v.keys(t, "member3", false), "outsider": v.keys(t, "outsider", false),
	}
	if got := seedHash(v.Group.pair(), "SessionGroupKeySeed"); !bytes.Equal(got, v.Derived["H2_SessionGroupKeySeed_hex"]) {
		t.Errorf("H2 %x", got)
	}
	messages := map[string][]byte{} // by swarm hash
	load := func(t *testing.T, name, hash string, at int64) bool {
		t.Helper()
		found, err := device[name].Load(messages[hash], hash, at)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	var later []byte
	replayed := map[string]int{}
	for i, e := range v.Events {
		t.Run(fmt.Sprintf("%d %s", i, e.Op), func(t *testing.T) {
			replayed[e.Op]++
			switch {
			case e.Op == "rekey (first, generation 0)":
				got, err := device["admin"].Rekey(v.ids("member2", "admin", "member1"))
				if err != nil || !bytes.Equal(got, e.Message.bytes()) {
					t.Fatalf("another message, %v", err)
				}
				messages["khash0"] = got
				e.After.check(t, device["admin"])
			case e.Op == "admin loads its own key message as fetched":
				if !load(t, "admin", e.Hash, e.At) {
					t.Error("no key in it")
				}
				e.Keys.check(t, device["admin"])
			case e.Op == "key_supplement for member3":
				got, err := device["admin"].Supplement(v.ids("member3"))
				if err != nil || len(got) != 1 || !bytes.Equal(got[0], e.Message.bytes()) {
					t.Fatalf("another message, %v", err)
				}
				messages["shash0"] = got[0]
				if !load(t, "member3", "shash0", 1748736005123) {
					t.Error("no key in it")
				}
				e.Member3.check(t, device["member3"])
				if got := device["member3"].ActiveHashes(); !slices.Equal(got, e.Active3) {
					t.Errorf("active %q", got)
				}
			case strings.HasPrefix(e.Op, "key_supplement for three"):
				got, err := device["admin"].Supplement(e.IDs)
				if err != nil || len(got) != 1 || !bytes.Equal(got[0], e.Message.bytes()) {
					t.Fatalf("another message, %v", err)
				}
			case strings.HasPrefix(e.Op, "both admins rekey"):
				// admin has erased member2; admin2 knows the first list alone.
				a, err := device["admin"].Rekey(v.ids("admin", "member1", "member3"))
				if err != nil || !bytes.Equal(a, e.A.bytes()) {
					t.Errorf("A makes another message, %v", err)
				}
				b, err := device["admin2"].Rekey(v.ids("admin", "member1", "member2"))
				if err != nil || !bytes.Equal(b, e.B.bytes()) {
					t.Errorf("B makes another message, %v", err)
				}
				messages["khash1a"], messages["khash1b"] = a, b
				e.AKeys.check(t, device["admin"])
				e.BKeys.check(t, device["admin2"])
			case strings.HasPrefix(e.Op, "A resolves"):
				got, err := device["admin"].Rekey(v.ids("admin", "member1", "member3"))
				if err != nil || !bytes.Equal(got, e.Message.bytes()) {
					t.Fatalf("another message, %v", err)
				}
				messages["khash2"] = got
			case e.Op == "key dump of member1":
				// libsession writes the hashes of a generation in no order; all else is fixed.
				got := device["member1"].Dump()
				want := bytes.Replace(e.Dump.Bytes, []byte("6:shash06:khash0"), []byte("6:khash06:shash0"), 1)
				if !bytes.Equal(got, want) {
					t.Errorf("dump %q, want %q", got, want)
				}
				again, err := LoadKeys(v.Identities["member1"].pair(), ID(v.Group.pair()), e.Dump.Bytes)
				if err != nil || !bytes.Equal(again.Dump(), got) || !slices.Equal(again.All(), device["member1"].All()) {
					t.Errorf("restored otherwise, %v", err)
				}
			case e.Op == "load_key_message":
				name, _, _ := strings.Cut(strings.Fields(e.Device)[0], ":")
				k := device[name]
				switch e.Hash {
				case "khash3", "khash4":
					// The vectors keep only what came of these: the admin makes them.
					if messages[e.Hash] == nil {
						var err error
						if later, err = device["admin"].Rekey(v.ids("admin", "member1", "member3")); err != nil {
							t.Fatal(err)
						}
						messages[e.Hash] = later
					}
				case "bad1":
					bad := bytes.Clone(messages["khash0"])
					bad[bytes.Index(bad, []byte("1:K48:"))+4] = '7'
					if _, err := k.Load(bad, e.Hash, e.At); !errors.Is(err, ErrMalformed) {
						t.Errorf("error %v", err)
					}
					e.Keys.check(t, k)
					return
				case "bad2":
					k = v.keys(t, name, false)
					bad := bytes.Clone(messages["khash0"])
					bad[len(bad)-10] ^= 1
					if _, err := k.Load(bad, e.Hash, e.At); !errors.Is(err, ErrSignature) {
						t.Errorf("error %v", err)
					}
					e.Keys.check(t, k)
					return
				}
				if got := load(t, name, e.Hash, e.At); got != e.Outcome.Result {
					t.Errorf("found %v, want %v", got, e.Outcome.Result)
				}
				e.Keys.check(t, k)
				if got := k.ActiveHashes(); !slices.Equal(got, e.Active) {
					t.Errorf("active %q, want %q", got, e.Active)
				}
			case strings.HasPrefix(e.Op, "admin creates"):
				e.Keys.check(t, device["admin"])
			case strings.Contains(e.Op, "info") || strings.Contains(e.Op, "members") || strings.Contains(e.Op, "marks member2"):
				// What the configs do in between is checked in package config.
			default:
				t.Errorf("operation %q is not understood", e.Op)
			}
		})
	}
	if replayed["load_key_message"] == 0 || replayed["key dump of member1"] == 0 {
		t.Errorf("replayed only %v", slices.Sorted(maps.Keys(replayed)))
	}
}

func TestMalformedKeyMessages(t *testing.T) {
	v := loadKeyVectors(t)
	vectortest.Each(t, "malformed", v.Malformed, func(t *testing.T, c struct {
		What    string
		Message keyMessageText `json:"message_hex"`
		Outcome outcome
	}) {
		k := v.keys(t, "member1", false)
		found, err := k.Load(c.Message, "hash", 1748736000123)
		if c.Outcome.Error != "" {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: error %v", c.What, err)
			}
		} else if err != nil || found != c.Outcome.Result {
			t.Errorf("%s: %v, %v", c.What, found, err)
		}
	})
}

func TestTheSeedMustBeTheGroups(t *testing.T) {
	v := loadKeyVectors(t)
	k := v.keys(t, "member1", false)
	if err := k.LoadSeed(v.Identities["admin"].pair()); !errors.Is(err, ErrSeed) || k.Admin() {
		t.Errorf("another seed: %v", err)
	}
	if err := k.LoadSeed(v.Group.pair()); err != nil || !k.Admin() {
		t.Errorf("the right seed: %v", err)
	}
}

func TestSubaccounts(t *testing.T) {
	v := loadKeyVectors(t)
	group := v.Group.pair()
	vectortest.Each(t, "subaccounts", v.Subaccounts, func(t *testing.T, c subaccount) {
		own := c.User.pair()
		auth, err := NewAuth(group, c.User.ID, MemberAccess)
		if err != nil || !bytes.Equal(auth[:], c.Auth) {
			t.Fatalf("auth data %x, %v", auth[:], err)
		}
		readOnly, err := NewAuth(group, c.User.ID, rpc.Read)
		if err != nil || !bytes.Equal(readOnly[:], c.ReadOnly) {
			t.Errorf("auth data for reading %x, %v", readOnly[:], err)
		}
		if token, err := TokenOf(group, c.User.ID); err != nil || !bytes.Equal(token[:], c.Token) {
			t.Errorf("token %x, %v", token, err)
		}
		s, err := MemberSigner(own, ID(group), auth)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Sign([]byte(c.Sign.Message)); !bytes.Equal(got, c.Sign.SignatureHex) {
			t.Errorf("signature %x, want %x", got, c.Sign.SignatureHex)
		}
		params := map[string]any{}
		s.Authorize(params, []byte(c.Sign.Message))
		want := map[string]any{
			"pubkey": ID(group).String(), "signature": c.Sign.Signature,
			"subaccount": c.Sign.Subaccount, "subaccount_sig": c.Sign.SubaccountSig,
		}
		if !maps.Equal(params, want) {
			t.Errorf("parameters %v, want %v", params, want)
		}
		for name, got := range map[string]error{
			"as_user_rw":          auth.Verify(ID(group), own, rpc.Read|rpc.Write),
			"as_user_rw_del":      auth.Verify(ID(group), own, rpc.Read|rpc.Write|rpc.Delete),
			"read_only_for_write": readOnly.Verify(ID(group), own, rpc.Read|rpc.Write),
			"read_only_for_read":  readOnly.Verify(ID(group), own, rpc.Read),
			"by_another_user":     auth.Verify(ID(group), group, rpc.Read),
		} {
			want, known := c.Verify[name]
			if !known || (got == nil) != want || got != nil && !errors.Is(got, ErrAuth) {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	})
}

type framingVectors struct {
	Key        vectortest.Hex `json:"group_key_hex"`
	RoundTrips []struct {
		Name       string
		Compress   bool
		Padding    int
		Plaintext  vectortest.Hex `json:"plaintext_hex"`
		Ciphertext vectortest.Hex `json:"ciphertext_hex"`
		Nonce      vectortest.Hex `json:"nonce_hex"`
		Dict       vectortest.Hex `json:"bt_dict_hex"`
		To         struct {
			ID account.ID `json:"session_id"`
		} `json:"decrypts_to"`
	} `json:"round_trips"`
	Outcomes []struct {
		What       string
		Ciphertext vectortest.Hex `json:"ciphertext_hex"`
		Outcome    struct{ Result, Error string }
	} `json:"decrypt_outcomes"`
	TooLarge outcome `json:"too_large"`
	OldKeys  *struct {
		New vectortest.Hex `json:"new_key_hex"`
	} `json:"decrypt_tries_old_keys"`
}

func TestGroupMessagesOfLibsession(t *testing.T) {
	var v struct {
		Group      identity
		Identities map[string]identity
		Current    framingVectors `json:"current_format"`
		Historic   framingVectors `json:"historic_format"`
	}
	vectortest.Load(t, "group-messages.json", &v)
	sender, id := v.Identities["member1"].pair(), ID(v.Group.pair())
	for _, f := range []struct {
		name    string
		framing Framing
		framingVectors
	}{{"current", Current, v.Current}, {"historic", Historic, v.Historic}} {
		t.Run(f.name, func(t *testing.T) {
			if len(f.RoundTrips) == 0 || len(f.Outcomes) == 0 {
				t.Fatal("no cases")
			}
			key := config.Key(f.Key)
			all := []config.Key{key}
			for _, c := range f.RoundTrips {
				t.Run(c.Name, func(t *testing.T) {
					author, plain, err := Open(id, all, c.Ciphertext, f.framing)
					if err != nil || !bytes.Equal(plain, c.Plaintext) || author != c.To.ID {
						t.Errorf("read %x by %s, %v", plain, author, err)
					}
					if _, _, err := Open(id, all, c.Ciphertext, 1-f.framing); !errors.Is(err, ErrSignature) {
						t.Errorf("in the other framing: %v", err)
					}
					got, err := Seal(bytes.NewReader(c.Nonce), id, key, sender, c.Plaintext, Style{f.framing, !c.Compress, c.Padding == 0})
					if err != nil {
						t.Fatal(err)
					}
					compressed := bytes.Contains(c.Dict, []byte("1:z"))
					if !compressed && !bytes.Equal(got, c.Ciphertext) {
						t.Errorf("%x, want %x", got, c.Ciphertext)
					}
					// Compressed bytes depend on the encoder; the padded size does not here.
					if compressed && (len(got) != len(c.Ciphertext) || c.Padding == 0) {
						t.Errorf("%d bytes, want %d", len(got), len(c.Ciphertext))
					}
					if author, plain, err := Open(id, all, got, f.framing); err != nil || !bytes.Equal(plain, c.Plaintext) || author != c.To.ID {
						t.Errorf("read again %x by %s, %v", plain, author, err)
					}
				})
			}
			for _, c := range f.Outcomes {
				t.Run(c.What, func(t *testing.T) {
					keys := all
					if c.What == "device without the key" {
						keys = nil
					}
					author, plain, err := Open(id, keys, c.Ciphertext, f.framing)
					if c.Outcome.Error == "" {
						if got := fmt.Sprintf("accepted, %s, %s", author, plain); err != nil || got != c.Outcome.Result {
							t.Errorf("%s, %v; want %s", got, err, c.Outcome.Result)
						}
						return
					}
					want := map[string]error{
						"unable to decrypt ciphertext with any current group keys": ErrNotForUs,
						"message signature failed validation":                      ErrSignature,
						`uncompressed message data ("d") cannot be empty`:          ErrMalformed,
						"decrypted data is not a bencoded dict":                    ErrMalformed,
					}[c.Outcome.Error]
					if want == nil || !errors.Is(err, want) {
						t.Errorf("error %v, want %q", err, c.Outcome.Error)
					}
				})
			}
			if f.TooLarge.Error == "" {
				t.Error("no case of a message that is too large")
			}
			if _, err := Seal(bytes.NewReader(make([]byte, 24)), id, key, sender, make([]byte, MaxPlaintext+1), Style{}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("a message that is too large: %v", err)
			}
			if f.OldKeys != nil {
				newer := []config.Key{config.Key(f.OldKeys.New), key}
				if author, _, err := Open(id, newer, f.RoundTrips[0].Ciphertext, f.framing); err != nil || author != sessionID(sender) {
					t.Errorf("with the previous key: %s, %v", author, err)
				}
			} else if f.framing == Historic {
				t.Error("no case of an older key")
			}
		})
	}
}

func TestMultiEncryptOfLibsession(t *testing.T) {
	var v struct {
		Sender      identity
		Recipients  []identity
		Outsider    identity
		WithEd25519 vectortest.Hex `json:"with_sender_ed25519_pubkey"`
		Items       []struct {
			Name       string
			Domain     string
			Nonce      vectortest.Hex   `json:"nonce_hex"`
			Messages   []vectortest.Hex `json:"messages_hex"`
			Recipients []account.ID
			Encoded    vectortest.Hex             `json:"encoded_hex"`
			To         map[string]*vectortest.Hex `json:"decrypts_to_hex"`
		}
		Rejects []struct {
			What    string
			Encoded vectortest.Hex `json:"encoded_hex"`
			Domain  string
		}
	}
	vectortest.Load(t, "multi-encrypt.json", &v)
	if len(v.Items) == 0 || len(v.Rejects) == 0 {
		t.Fatal("no cases")
	}
	sender := v.Sender.pair()
	group := ID(sender)
	x, err := encryptionKey(group)
	if err != nil || x != sender.X25519() {
		t.Fatalf("the group's encryption key is %x, %v", x, err)
	}
	people := append(slices.Clone(v.Recipients), v.Outsider)
	for _, c := range v.Items {
		t.Run(c.Name, func(t *testing.T) {
			var to [][32]byte
			for _, r := range c.Recipients {
				to = append(to, r.Key())
			}
			var messages [][]byte
			for _, m := range c.Messages {
				messages = append(messages, m)
			}
			got, err := MultiEncrypt(sender, c.Domain, [nonceSize]byte(c.Nonce), to, messages...)
			if err != nil || !bytes.Equal(got, c.Encoded) {
				t.Errorf("encrypted %x, %v", got, err)
			}
			for _, p := range people {
				want := c.To[p.ID.String()]
				plain, err := MultiDecrypt(p.pair(), x, c.Domain, c.Encoded)
				if want == nil && !errors.Is(err, ErrNotForUs) || want != nil && (err != nil || !bytes.Equal(plain, *want)) {
					t.Errorf("%s reads %x, %v", p.ID, plain, err)
				}
				if want == nil || c.Domain != kickedDomain {
					continue
				}
				if g, err := OpenKicked(p.pair(), group, c.Encoded); err != nil || g != 7 {
					t.Errorf("notice of generation %d, %v", g, err)
				}
				if notice, err := Kicked(bytes.NewReader(c.Nonce), sender, c.Recipients, 7); err != nil || !bytes.Equal(notice, c.Encoded) {
					t.Errorf("notice %x, %v", notice, err)
				}
			}
		})
	}
	// The group is known by its Ed25519 key: the vectors' case of that.
	if plain, err := MultiDecrypt(v.Recipients[0].pair(), x, v.Items[0].Domain, v.Items[0].Encoded); err != nil || !bytes.Equal(plain, v.WithEd25519) {
		t.Errorf("by the Ed25519 key: %x, %v", plain, err)
	}
	for _, c := range v.Rejects {
		t.Run(c.What, func(t *testing.T) {
			if plain, err := MultiDecrypt(v.Recipients[0].pair(), x, c.Domain, c.Encoded); !errors.Is(err, ErrNotForUs) && !errors.Is(err, ErrMalformed) {
				t.Errorf("read %x, %v", plain, err)
			}
		})
	}
}
