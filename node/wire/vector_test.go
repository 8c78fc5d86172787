package wire

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/wire/sessionpb"
)

type paddingVector struct {
	Length  int `json:"message_length"`
	Legacy  int `json:"legacy_total_160k_minus_1"`
	Current int `json:"libsession_total_160k"`
}

type unpaddingVector struct {
	Input  vectortest.Hex `json:"input_hex"`
	Output vectortest.Hex
}

type contentVector struct {
	Name    string
	Fields  any
	Content vectortest.Hex `json:"content_hex"`
}

type storedVector struct {
	Name         string
	From, To     string
	Timestamp    uint64         `json:"networkTimestamp"`
	Padded       vectortest.Hex `json:"padded_content_hex"`
	EphemeralKey vectortest.Hex `json:"ephemeral_pubkey_hex"`
	KeySeed      vectortest.Hex `json:"ephemeral_seed_hex"`
	Sealed       vectortest.Hex `json:"envelope_content_hex"`
	Envelope     vectortest.Hex `json:"envelope_hex"`
	Stored       string         `json:"stored_data_base64"`
	Content      vectortest.Hex `json:"decrypted_content_hex"`
	Sender       string         `json:"sender_account_id"`
}

type payloadVector struct {
	Key       vectortest.Hex `json:"key_hex"`
	Payload   vectortest.Hex `json:"payload_hex"`
	Plaintext string         `json:"plaintext_ascii"`
}

type vectors struct {
	Accounts map[string]struct {
		Seed    vectortest.Hex `json:"seed16_hex"`
		ID      string         `json:"account_id"`
		Ed25519 vectortest.Hex `json:"ed25519_pubkey"`
	}
	Padding struct {
		Vectors []paddingVector
	}
	Unpadding struct {
		Vectors []unpaddingVector
	}
	ContentEncoding struct {
		Vectors []contentVector
	} `json:"content_encoding"`
	Legacy struct {
		Vectors []storedVector
	} `json:"stored_message_legacy_framing"`
	Current       storedVector `json:"stored_message_current_framing"`
	Deterministic struct {
		Sender, Recipient string
		Plaintext         string         `json:"plaintext_ascii"`
		Ciphertext        vectortest.Hex `json:"ciphertext_hex"`
		Signature         vectortest.Hex `json:"signature_hex"`
		KeySeed           vectortest.Hex `json:"ephemeral_seed_hex"`
	} `json:"session_protocol_deterministic_upstream"`
	Payloads []payloadVector `json:"xchacha20_payload_upstream"`
}

func loadVectors(t testing.TB) *vectors {
	t.Helper()
	v := new(vectors)
	vectortest.Load(t, "messages.json", v)
	return v
}

func (v *vectors) account(t testing.TB, name string) *account.Account {
	t.Helper()
	seed := v.Accounts[name].Seed
	if len(seed) != account.SeedSize {
		t.Fatalf("no account %q", name)
	}
	return account.New(account.Seed(seed))
}

func TestVectorsOfOtherPrograms(t *testing.T) {
	v := loadVectors(t)

	if len(v.Accounts) == 0 {
		t.Error("no accounts")
	}
	for name, want := range v.Accounts {
		a := v.account(t, name)
		ed := a.Keys().Ed25519()
		if a.ID().String() != want.ID || !bytes.Equal(ed[:], want.Ed25519) {
			t.Errorf("%s is %s with %x", name, a.ID(), ed)
		}
	}

	vectortest.Each(t, "padding", v.Padding.Vectors, func(t *testing.T, c paddingVector) {
		// Zero bytes and 0x80 at the end are what unpadding could eat too much of.
		for _, message := range [][]byte{make([]byte, c.Length), bytes.Repeat([]byte{0x80}, c.Length)} {
			padded := Pad(message)
			if len(padded) != c.Current {
				t.Errorf("%d bytes are padded to %d, want %d", c.Length, len(padded), c.Current)
			}
			if !bytes.Equal(Unpad(padded), message) {
				t.Errorf("%d bytes do not come back", c.Length)
			}
			// Older clients: the next multiple of 160, less one.
			if want := (c.Length+2+159)/160*160 - 1; c.Legacy != want {
				t.Errorf("%d bytes were padded to %d, not to %d", c.Length, want, c.Legacy)
			}
			legacy := make([]byte, c.Legacy)
			copy(legacy, append(bytes.Clone(message), 0x80))
			if !bytes.Equal(Unpad(legacy), message) {
				t.Errorf("%d bytes do not come back from %d", c.Length, c.Legacy)
			}
		}
	})

	vectortest.Each(t, "unpadding", v.Unpadding.Vectors, func(t *testing.T, c unpaddingVector) {
		if got := Unpad(c.Input); !bytes.Equal(got, c.Output) {
			t.Errorf("%x becomes %x, want %x", c.Input, got, c.Output)
		}
	})

	vectortest.Each(t, "content_encoding", v.ContentEncoding.Vectors, func(t *testing.T, c contentVector) {
		want := contentFromFields(t, c.Fields)
		got := new(sessionpb.Content)
		if err := proto.Unmarshal(c.Content, got); err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		if len(got.ProtoReflect().GetUnknown()) != 0 {
			t.Errorf("%s: unknown fields %x", c.Name, got.ProtoReflect().GetUnknown())
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s: decoded %v, want %v", c.Name, got, want)
		}
		encoded, err := proto.Marshal(want)
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		// protobufjs wrote one of them in another order of fields than by number,
		// which is all that an encoder may choose here.
		if !bytes.Equal(encoded, sortFields(t, c.Content)) {
			t.Errorf("%s: encoded %x, want %x", c.Name, encoded, c.Content)
		}
	})

	vectortest.Each(t, "stored_message_legacy_framing", v.Legacy.Vectors, func(t *testing.T, c storedVector) {
		checkStored(t, v, c)
	})

	t.Run("stored_message_current_framing", func(t *testing.T) {
		c := v.Current
		from, to := v.account(t, c.From), v.account(t, c.To)
		checkStored(t, v, c)

		if got := Pad(c.Content); !bytes.Equal(got, c.Padded) {
			t.Errorf("padded %x, want %x", got, c.Padded)
		}
		sealed, err := EncryptDeterministic(from, to.ID(), c.Padded)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sealed, c.Sealed) {
			t.Errorf("sealed %x, want %x", sealed, c.Sealed)
		}
		checkOneTimeKey(t, sealed, c.KeySeed)
		if !bytes.HasPrefix(sealed, c.EphemeralKey) {
			t.Errorf("one-time key %x, want %x", sealed[:32], c.EphemeralKey)
		}
		envelope := new(sessionpb.Envelope)
		if err := proto.Unmarshal(c.Envelope, envelope); err != nil {
			t.Fatal(err)
		}
		data, err := frame(envelope.GetTimestamp(), sealed, envelope.GetProSig())
		if err != nil {
			t.Fatal(err)
		}
		if got := base64.StdEncoding.EncodeToString(data); got != c.Stored {
			t.Errorf("stored data %s, want %s", got, c.Stored)
		}
	})

	t.Run("session_protocol_deterministic_upstream", func(t *testing.T) {
		c := v.Deterministic
		from, to := v.account(t, c.Sender), v.account(t, c.Recipient)
		sealed, err := EncryptDeterministic(from, to.ID(), []byte(c.Plaintext))
		if err != nil || !bytes.Equal(sealed, c.Ciphertext) {
			t.Errorf("ciphertext %x, %v, want %x", sealed, err, c.Ciphertext)
		}
		checkOneTimeKey(t, sealed, c.KeySeed)
		recipient := to.ID().Key()
		public := from.Keys().Ed25519()
		if got := from.Keys().Sign(slices.Concat([]byte(c.Plaintext), public[:], recipient[:])); !bytes.Equal(got, c.Signature) {
			t.Errorf("signature %x, want %x", got, c.Signature)
		}
		sender, plain, err := Decrypt(to, c.Ciphertext)
		if err != nil || string(plain) != c.Plaintext || sender != from.ID() {
			t.Errorf("decrypted %q of %s, %v", plain, sender, err)
		}
	})

	vectortest.Each(t, "xchacha20_payload_upstream", v.Payloads, func(t *testing.T, c payloadVector) {
		key := [32]byte(c.Key)
		plain, err := OpenPayload(key, c.Payload)
		if err != nil || string(plain) != c.Plaintext {
			t.Errorf("opened %q, %v, want %q", plain, err, c.Plaintext)
		}
		sealed, err := SealPayload(bytes.NewReader(c.Payload[:24]), key, []byte(c.Plaintext))
		if err != nil || !bytes.Equal(sealed, c.Payload) {
			t.Errorf("sealed %x, %v, want %x", sealed, err, c.Payload)
		}
	})
}

// checkOneTimeKey checks that a box begins with the X25519 key of a box seed:
// libsodium takes the first half of the seed's SHA-512 as the secret.
func checkOneTimeKey(t *testing.T, sealed, seed []byte) {
	t.Helper()
	digest := sha512.Sum512(seed)
	secret, err := ecdh.X25519().NewPrivateKey(digest[:32])
	if err != nil {
		t.Fatal(err)
	}
	if want := secret.PublicKey().Bytes(); !bytes.HasPrefix(sealed, want) {
		t.Errorf("one-time key %x, want %x", sealed[:32], want)
	}
}

func checkStored(t *testing.T, v *vectors, c storedVector) {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(c.Stored)
	if err != nil {
		t.Fatal(err)
	}
	message, err := Open(v.account(t, c.To), data)
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	if message.Sender.String() != c.Sender || message.Sender != v.account(t, c.From).ID() {
		t.Errorf("%s: sender %s, want %s", c.Name, message.Sender, c.Sender)
	}
	want := new(sessionpb.Content)
	if err := proto.Unmarshal(c.Content, want); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(message.Content, want) {
		t.Errorf("%s: content %v, want %v", c.Name, message.Content, want)
	}
	envelope, err := unframe(data)
	if err != nil {
		t.Fatal(err)
	}
	if c.Timestamp != 0 && message.Timestamp != c.Timestamp {
		t.Errorf("%s: time %d, want %d", c.Name, message.Timestamp, c.Timestamp)
	}
	_, padded, err := Decrypt(v.account(t, c.To), envelope.GetContent())
	if err != nil || !bytes.Equal(Unpad(padded), c.Content) {
		t.Errorf("%s: content bytes %x, %v, want %x", c.Name, Unpad(padded), err, c.Content)
	}
	if encoded, err := proto.Marshal(envelope); err != nil || !bytes.Equal(encoded, c.Envelope) {
		t.Errorf("%s: envelope %x, %v, want %x", c.Name, encoded, err, c.Envelope)
	}
}

// contentFromFields reads the fields of a vector, in which byte strings are
// written {"hex": "…"}, as protobuf JSON, which wants them in base64.
func contentFromFields(t *testing.T, fields any) *sessionpb.Content {
	t.Helper()
	var bytesToBase64 func(v any) any
	bytesToBase64 = func(v any) any {
		switch v := v.(type) {
		case map[string]any:
			if text, ok := v["hex"].(string); ok && len(v) == 1 {
				raw, err := hex.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				return base64.StdEncoding.EncodeToString(raw)
			}
			for k := range v {
				v[k] = bytesToBase64(v[k])
			}
		case []any:
			for i := range v {
				v[i] = bytesToBase64(v[i])
			}
		}
		return v
	}
	text, err := json.Marshal(bytesToBase64(fields))
	if err != nil {
		t.Fatal(err)
	}
	content := new(sessionpb.Content)
	if err := protojson.Unmarshal(text, content); err != nil {
		t.Fatalf("fields %s: %v", text, err)
	}
	return content
}

// sortFields orders the outermost fields of a protobuf by number.
func sortFields(t *testing.T, encoded []byte) []byte {
	t.Helper()
	type field struct {
		number protowire.Number
		bytes  []byte
	}
	var fields []field
	for rest := encoded; len(rest) > 0; {
		number, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		fields = append(fields, field{number, rest[:size]})
		rest = rest[size:]
	}
	slices.SortStableFunc(fields, func(a, b field) int { return int(a.number) - int(b.number) })
	var sorted []byte
	for _, f := range fields {
		sorted = append(sorted, f.bytes...)
	}
	return sorted
}
