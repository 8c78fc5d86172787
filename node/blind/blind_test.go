package blind

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

type user struct {
	Seed      vectortest.Hex `json:"seed_hex"`
	SessionID account.ID     `json:"session_id"`
}

func (u user) pair() *keys.Pair { return keys.FromSeed([32]byte(u.Seed)) }

type signed struct {
	Blind15 vectortest.Hex `json:"blind15_hex"`
	Blind25 vectortest.Hex `json:"blind25_hex"`
}

type blinding struct {
	User    user
	Server  vectortest.Hex `json:"server_pubkey_hex"`
	Blind15 struct {
		Factor vectortest.Hex `json:"factor_k_hex"`
		Public vectortest.Hex `json:"blinded_pubkey_hex"`
		Secret vectortest.Hex `json:"blinded_seckey_hex"`
		IDs    [2]account.ID  `json:"ids_from_session_id"`
		ID     account.ID     `json:"id_from_ed_hex"`
	}
	Blind25 struct {
		Factor vectortest.Hex `json:"factor_before_sign_fix_hex"`
		Public vectortest.Hex `json:"blinded_pubkey_hex"`
		Secret vectortest.Hex `json:"blinded_seckey_hex"`
		ByID   account.ID     `json:"id_from_session_id"`
		ByKey  account.ID     `json:"id_from_ed_hex"`
	}
	Hello   signed `json:"sign_hello"`
	Version struct {
		Public    vectortest.Hex `json:"pubkey_hex"`
		Timestamp int64
		Desktop   vectortest.Hex `json:"desktop_signature_hex"`
		Request   vectortest.Hex `json:"request_signature_hex"`
	} `json:"version_check"`
	Matches struct {
		Is15    bool `json:"15"`
		Is25    bool `json:"25"`
		Another bool `json:"25_other_server"`
	}
}

type blindedMessage struct {
	Kind       any
	Sender     user
	Recipient  user
	Server     vectortest.Hex `json:"server_pubkey_hex"`
	From       account.ID     `json:"sender_blinded_id_hex"`
	To         account.ID     `json:"recipient_blinded_id_hex"`
	Plaintext  string
	Ciphertext vectortest.Hex `json:"ciphertext_hex"`
	Received   [2]string      `json:"recipient_decrypts"`
	Sent       [2]string      `json:"sender_decrypts_own"`
}

type xSignature struct {
	User      user
	Ed25519   vectortest.Hex `json:"ed25519_pubkey_from_x25519_hex"`
	Signature vectortest.Hex `json:"signature_hex"`
}

type hashed struct {
	Size    int
	Message string
	Key     string
	Hash    vectortest.Hex `json:"hash_hex"`
}

type vectors struct {
	Blinding []blinding
	Messages []blindedMessage `json:"blinded_dm"`
	X        []xSignature     `json:"xed25519"`
	Hash     []hashed
	Random   struct {
		Seed  vectortest.Hex `json:"seed_hex"`
		First vectortest.Hex `json:"first_96_bytes_hex"`
	} `json:"deterministic_random"`
	ONS struct {
		Name       string
		NameHash   []byte         `json:"name_hash_b64"`
		Nonce      vectortest.Hex `json:"nonce_hex"`
		Ciphertext vectortest.Hex `json:"ciphertext_hex"`
		ID         account.ID     `json:"decrypts_to"`
	}
}

func TestVectorsOfLibsession(t *testing.T) {
	var v vectors
	vectortest.Load(t, "blinding.json", &v)

	vectortest.Each(t, "blinding", v.Blinding, func(t *testing.T, c blinding) {
		server, pair := [32]byte(c.Server), c.User.pair()
		k15, k25 := New15(pair, server), New25(pair, server)
		if got := factor15(server).Bytes(); !bytes.Equal(got, c.Blind15.Factor) {
			t.Errorf("factor %x, want %x", got, c.Blind15.Factor)
		}
		if got := factor25(pair.X25519(), server).Bytes(); !bytes.Equal(got, c.Blind25.Factor) {
			t.Errorf("factor %x, want %x", got, c.Blind25.Factor)
		}
		if !bytes.Equal(k15.public[:], c.Blind15.Public) || !bytes.Equal(k15.secret.Bytes(), c.Blind15.Secret) || k15.ID() != c.Blind15.ID {
			t.Errorf("the legacy key is %s", k15)
		}
		if !bytes.Equal(k25.public[:], c.Blind25.Public) || !bytes.Equal(k25.secret.Bytes(), c.Blind25.Secret) || k25.ID() != c.Blind25.ByKey {
			t.Errorf("the key is %s", k25)
		}
		ids, err := IDs15(c.User.SessionID, server)
		if err != nil || !slices.Contains(c.Blind15.IDs[:], ids[0]) || !slices.Contains(c.Blind15.IDs[:], ids[1]) || ids[0] == ids[1] {
			t.Errorf("legacy IDs %s, %v", ids, err)
		}
		if id, err := ID25(c.User.SessionID, server); err != nil || id != c.Blind25.ByID {
			t.Errorf("ID %s, %v", id, err)
		}
		for _, s := range []struct {
			k    *Key
			want []byte
		}{{k15, c.Hello.Blind15}, {k25, c.Hello.Blind25}} {
			if got := s.k.Sign([]byte("hello")); !bytes.Equal(got, s.want) || !keys.Verify(s.k.Public(), []byte("hello"), got) {
				t.Errorf("%s signs %x, want %x", s.k, got, s.want)
			}
		}
		version := VersionCheck(pair)
		public := version.Ed25519()
		at := strconv.FormatInt(c.Version.Timestamp, 10)
		if got := version.Sign([]byte(at + "GET/session_version?platform=desktop")); !bytes.Equal(public[:], c.Version.Public) || !bytes.Equal(got, c.Version.Desktop) {
			t.Errorf("version check by %x: %x", public, got)
		}
		if got := version.Sign([]byte(at + "GET" + "/path" + "body")); !bytes.Equal(got, c.Version.Request) {
			t.Errorf("version check with a body: %x, want %x", got, c.Version.Request)
		}
		another := server
		another[0] ^= 1
		if Matches(k15.ID(), c.User.SessionID, server) != c.Matches.Is15 || Matches(k25.ID(), c.User.SessionID, server) != c.Matches.Is25 ||
			Matches(k25.ID(), c.User.SessionID, another) != c.Matches.Another {
			t.Error("the IDs match otherwise")
		}
	})

	vectortest.Each(t, "messages between blinded IDs", v.Messages, func(t *testing.T, c blindedMessage) {
		server, make := [32]byte(c.Server), New15
		if fmt.Sprint(c.Kind) == "25" {
			make = New25
		}
		from, to := make(c.Sender.pair(), server), make(c.Recipient.pair(), server)
		if from.ID() != c.From || to.ID() != c.To {
			t.Fatalf("IDs %s and %s", from, to)
		}
		for _, r := range []struct {
			k    *Key
			want [2]string
		}{{to, c.Received}, {from, c.Sent}} {
			author, plain, err := r.k.Decrypt(server, c.From, c.To, c.Ciphertext)
			if err != nil || string(plain) != r.want[0] || author.String() != r.want[1] {
				t.Errorf("%s reads %q by %s, %v", r.k, plain, author, err)
			}
		}
		nonce := c.Ciphertext[len(c.Ciphertext)-24:]
		if got, err := from.Encrypt(bytes.NewReader(nonce), c.To, []byte(c.Plaintext)); err != nil || !bytes.Equal(got, c.Ciphertext) {
			t.Errorf("encrypted %x, %v", got, err)
		}
		bad := bytes.Clone(c.Ciphertext)
		bad[20] ^= 1
		if _, _, err := to.Decrypt(server, c.From, c.To, bad); !errors.Is(err, ErrNotForUs) {
			t.Errorf("tampered: %v", err)
		}
	})

	vectortest.Each(t, "xed25519", v.X, func(t *testing.T, c xSignature) {
		x := c.User.pair().X25519()
		if got, err := Ed25519(x); err != nil || !bytes.Equal(got[:], c.Ed25519) {
			t.Errorf("converted %x, %v", got, err)
		}
		own, err := SignX(rand.Reader, c.User.pair(), []byte("text"))
		if err != nil || !VerifyX(x, []byte("text"), own) || VerifyX(x, []byte("test"), own) {
			t.Errorf("own signature: %v", err)
		}
		// The vectors do not say what was signed; only the right text verifies.
		if !VerifyX(x, []byte("hello"), c.Signature) || VerifyX(x, []byte("hellp"), c.Signature) {
			t.Error("libsession's signature does not verify")
		}
	})

	vectortest.Each(t, "hash", v.Hash, func(t *testing.T, c hashed) {
		if got := hash(c.Size, c.Key, []byte(c.Message)); !bytes.Equal(got, c.Hash) {
			t.Errorf("%x, want %x", got, c.Hash)
		}
	})

	t.Run("deterministic random bytes", func(t *testing.T) {
		stream, err := chacha20.NewUnauthenticatedCipher(v.Random.Seed, []byte("LibsodiumDRG"))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 96)
		stream.XORKeyStream(got, got)
		if !bytes.Equal(got, v.Random.First) {
			t.Errorf("%x", got)
		}
	})

	t.Run("name record", func(t *testing.T) {
		if got := account.ONSNameHash(v.ONS.Name); !bytes.Equal(got[:], v.ONS.NameHash) {
			t.Errorf("hash %x", got)
		}
		if id, err := account.OpenONS(v.ONS.Name, v.ONS.Ciphertext, v.ONS.Nonce); err != nil || id != v.ONS.ID {
			t.Errorf("%s, %v", id, err)
		}
	})
}

func TestBadInputIsRefused(t *testing.T) {
	pair := keys.FromSeed([32]byte{1})
	good := account.ID{account.PrefixAccount}
	x := pair.X25519()
	copy(good[1:], x[:])
	server := [32]byte{7}

	t.Run("an ID that is no account's", func(t *testing.T) {
		if _, err := ID25(account.ID{account.PrefixGroup, 9}, server); !errors.Is(err, account.ErrNotSessionID) {
			t.Error(err)
		}
	})
	for name, key := range map[string][32]byte{"zero": {}, "one": {1}, "minus one": minusOne(), "a point of the twist": {2}} {
		t.Run("an ID whose key is "+name, func(t *testing.T) {
			id := account.ID{account.PrefixAccount}
			copy(id[1:], key[:])
			if _, err := IDs15(id, server); !errors.Is(err, ErrNoPoint) {
				t.Error(err)
			}
		})
	}
	for name, factor := range map[string][32]byte{"zero": {}, "above the order": {31: 0xff}} {
		t.Run("a factor that is "+name, func(t *testing.T) {
			if _, err := Delegate(pair, factor); !errors.Is(err, ErrFactor) {
				t.Error(err)
			}
			if _, err := Public(good, factor); !errors.Is(err, ErrFactor) {
				t.Error(err)
			}
		})
	}
	k := New25(pair, server)
	if _, err := k.Encrypt(rand.Reader, New15(pair, server).ID(), []byte("x")); !errors.Is(err, ErrNoPoint) {
		t.Errorf("to an ID of the other kind: %v", err)
	}
	t.Run("a sender who claims another's ID", func(t *testing.T) {
		// Mallory shares a key with Bob, and puts Alice's key inside.
		alice, bob, mallory := keys.FromSeed([32]byte{3}), New25(keys.FromSeed([32]byte{4}), server), New25(pair, server)
		mallory.pair = alice
		c, err := mallory.Encrypt(rand.Reader, bob.ID(), []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := bob.Decrypt(server, mallory.ID(), bob.ID(), c); !errors.Is(err, ErrSender) {
			t.Error(err)
		}
	})
}

func minusOne() [32]byte {
	m := [32]byte{0: 0xec, 31: 0x7f}
	for i := 1; i < 31; i++ {
		m[i] = 0xff
	}
	return m
}

func TestAKeyDoesNotPrintItsSecrets(t *testing.T) {
	k := New25(keys.FromSeed([32]byte{1}), [32]byte{2})
	asJSON, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	secret := fmt.Sprintf("%x", k.secret.Bytes())[:8]
	salt := fmt.Sprintf("%x", k.salt)[:8]
	for _, out := range []string{fmt.Sprintf("%v %+v %#v %x %s", k, k, k, k, k), string(asJSON)} {
		if strings.Contains(out, secret) || strings.Contains(out, salt) {
			t.Errorf("%q shows a secret", out)
		}
	}
	k.Wipe()
	if k.salt != [32]byte{} || !bytes.Equal(k.secret.Bytes(), make([]byte, 32)) {
		t.Error("a secret survived")
	}
}

func FuzzDecrypt(f *testing.F) {
	server := [32]byte{7}
	alice, bob := New25(keys.FromSeed([32]byte{1}), server), New25(keys.FromSeed([32]byte{2}), server)
	c, err := alice.Encrypt(rand.Reader, bob.ID(), []byte("hi"))
	if err != nil {
		f.Fatal(err)
	}
	id := alice.ID()
	f.Add(id[:], c)
	f.Add(make([]byte, 33), c[:Overhead])
	f.Fuzz(func(t *testing.T, from, message []byte) {
		if len(from) != account.IDSize {
			return
		}
		author, _, err := bob.Decrypt(server, account.ID(from), bob.ID(), message)
		switch {
		case err == nil && !Matches(account.ID(from), author, server):
			t.Error("read a message of somebody else")
		case err != nil && !errors.Is(err, ErrNotForUs) && !errors.Is(err, ErrSender):
			t.Errorf("error %v is none of the documented ones", err)
		}
	})
}

func FuzzID(f *testing.F) {
	id := keys.FromSeed([32]byte{1}).X25519()
	f.Add(id[:])
	f.Fuzz(func(t *testing.T, key []byte) {
		if len(key) != 32 {
			return
		}
		id := account.ID{account.PrefixAccount}
		copy(id[1:], key)
		if blinded, err := ID25(id, [32]byte{1}); err == nil && !Matches(blinded, id, [32]byte{1}) {
			t.Errorf("%s has an ID that is not its own", id)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	k := New25(keys.FromSeed([32]byte{1}), [32]byte{2})
	for b.Loop() {
		k.Sign([]byte("retrieve111748736000000"))
	}
}

func BenchmarkID25(b *testing.B) {
	x := keys.FromSeed([32]byte{1}).X25519()
	id := account.ID{account.PrefixAccount}
	copy(id[1:], x[:])
	for b.Loop() {
		if _, err := ID25(id, [32]byte{2}); err != nil {
			b.Fatal(err)
		}
	}
}
