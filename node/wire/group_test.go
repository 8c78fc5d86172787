package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
	"hearth/node/wire/sessionpb"
)

func TestGroupEnvelopes(t *testing.T) {
	content := Text("hello", sent)
	b, err := GroupEnvelope(rand.Reader, content)
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenGroupEnvelope(alice.ID(), b)
	if err != nil || m.Sender != alice.ID() || m.Timestamp != sent || !proto.Equal(m.Content, content) {
		t.Errorf("%+v, %v", m, err)
	}
	envelope := new(sessionpb.Envelope)
	if err := proto.Unmarshal(b, envelope); err != nil {
		t.Fatal(err)
	}
	plain, err := proto.Marshal(content)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(envelope.GetContent(), plain) || envelope.GetSourceDevice() != 1 || len(envelope.GetProSig()) != 64 {
		t.Errorf("envelope %v", envelope)
	}

	// Content that ends like padding keeps its end: group messages are not padded.
	odd := proto.Clone(content).(*sessionpb.Content)
	odd.DataMessage.ProfileKey = nil
	odd.ProSigForCommunityMessageOnly = []byte{1, 0x80, 0, 0}
	if b, err = GroupEnvelope(rand.Reader, odd); err != nil {
		t.Fatal(err)
	}
	if m, err := OpenGroupEnvelope(alice.ID(), b); err != nil || !proto.Equal(m.Content, odd) {
		t.Errorf("%v, %v", m, err)
	}

	if _, err := GroupEnvelope(rand.Reader, &sessionpb.Content{}); !errors.Is(err, ErrTimestamp) {
		t.Errorf("without a time: %v", err)
	}
	if _, err := GroupEnvelope(rand.Reader, Text(strings.Repeat("x", 1_000_000), sent)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
}

func TestBadGroupEnvelopes(t *testing.T) {
	plain, err := proto.Marshal(Text("hello", sent))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		envelope *sessionpb.Envelope
		err      error
	}{
		{"of a one-to-one message", &sessionpb.Envelope{Type: sessionpb.Envelope_SESSION_MESSAGE.Enum(), Timestamp: proto.Uint64(sent), Content: plain}, ErrMalformed},
		{"at another time than was signed", &sessionpb.Envelope{Type: sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(), Timestamp: proto.Uint64(sent + 1), Content: plain}, ErrTimestamp},
		{"at no time", &sessionpb.Envelope{Type: sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(), Timestamp: proto.Uint64(0), Content: []byte{}}, ErrMalformed},
		{"with nothing inside", &sessionpb.Envelope{Type: sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(), Timestamp: proto.Uint64(sent)}, ErrMalformed},
		{"with something else inside", &sessionpb.Envelope{Type: sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(), Timestamp: proto.Uint64(sent), Content: []byte{0xff}}, ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := proto.Marshal(c.envelope)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := OpenGroupEnvelope(alice.ID(), b); !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v", err, c.err)
			}
		})
	}
	if _, err := OpenGroupEnvelope(alice.ID(), []byte("no envelope")); !errors.Is(err, ErrMalformed) {
		t.Errorf("bytes: %v", err)
	}
}

// TestEncryptionOfLibsession has accounts with seeds of 32 bytes, which no recovery
// phrase gives.
func TestEncryptionOfLibsession(t *testing.T) {
	type user struct {
		Seed vectortest.Hex `json:"seed_hex"`
		ID   account.ID     `json:"session_id"`
	}
	var v struct {
		C struct {
			Sender, Recipient user
			Plaintext         string
			Deterministic     vectortest.Hex `json:"deterministic_ciphertext_hex"`
			Random            vectortest.Hex `json:"random_ciphertext_hex"`
			To                [2]string      `json:"decrypts_to"`
		} `json:"session_encrypt"`
	}
	vectortest.Load(t, "blinding.json", &v)
	c := v.C
	sender, recipient := keys.FromSeed([32]byte(c.Sender.Seed)), keys.FromSeed([32]byte(c.Recipient.Seed))
	if got, err := encryptDeterministic(sender, c.Recipient.ID, []byte(c.Plaintext)); err != nil || !bytes.Equal(got, c.Deterministic) {
		t.Errorf("encrypted %x, %v", got, err)
	}
	for _, ciphertext := range [][]byte{c.Deterministic, c.Random} {
		from, plain, err := decrypt(recipient, ciphertext)
		if err != nil || string(plain) != c.To[0] || from.String() != c.To[1] {
			t.Errorf("read %q by %s, %v", plain, from, err)
		}
		if _, _, err := decrypt(sender, ciphertext); !errors.Is(err, ErrNotForUs) {
			t.Errorf("by another recipient: %v", err)
		}
		bad := bytes.Clone(ciphertext)
		bad[40] ^= 1
		if _, _, err := decrypt(recipient, bad); !errors.Is(err, ErrNotForUs) {
			t.Errorf("tampered: %v", err)
		}
	}
}

func FuzzOpenGroupEnvelope(f *testing.F) {
	b, err := GroupEnvelope(rand.Reader, Text("hi", sent))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := OpenGroupEnvelope(alice.ID(), b); err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTimestamp) {
			t.Errorf("error %v is none of the documented ones", err)
		}
	})
}
