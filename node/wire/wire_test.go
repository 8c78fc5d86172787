package wire

import (
	"bytes"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"filippo.io/edwards25519"
	"golang.org/x/crypto/nacl/box"
	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/keys"
	"hearth/node/wire/sessionpb"
)

const sent = 1_700_000_000_123

var (
	alice = account.New(account.Seed{1})
	bob   = account.New(account.Seed{2})
	carol = account.New(account.Seed{3})
)

// seeded is a repeatable source of random bytes.
func seeded() *mathrand.ChaCha8 { return mathrand.NewChaCha8([32]byte{9}) }

func TestAMessageComesBackAsItWasSealed(t *testing.T) {
	for _, tc := range []struct {
		name    string
		to      *account.Account
		content *sessionpb.Content
	}{
		{"a text", bob, Text("Hello Bob, it's me \U0001F602", sent)},
		{"an empty text", bob, Text("", sent)},
		{"a text to oneself", alice, Text("note", sent)},
		{"the longest text", bob, Text(strings.Repeat("\U0001F602", 10_000), sent)},
		{"a typing message", bob, &sessionpb.Content{
			TypingMessage: &sessionpb.TypingMessage{Timestamp: proto.Uint64(sent), Action: sessionpb.TypingMessage_STARTED.Enum()},
			SigTimestamp:  proto.Uint64(sent),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			data, err := Seal(rand.Reader, alice, tc.to.ID(), tc.content)
			if err != nil {
				t.Fatal(err)
			}
			message, err := Open(tc.to, data)
			if err != nil {
				t.Fatal(err)
			}
			if message.Sender != alice.ID() || message.Timestamp != sent || !proto.Equal(message.Content, tc.content) {
				t.Errorf("got %v of %s at %d", message.Content, message.Sender, message.Timestamp)
			}
		})
	}
}

func TestSealWritesTheCurrentFraming(t *testing.T) {
	data, err := Seal(seeded(), alice, bob.ID(), Text("hi", sent))
	if err != nil {
		t.Fatal(err)
	}
	var outer sessionpb.WebSocketMessage
	if err := proto.Unmarshal(data, &outer); err != nil {
		t.Fatal(err)
	}
	r := outer.GetRequest()
	if outer.GetType() != sessionpb.WebSocketMessage_REQUEST ||
		r.Verb == nil || *r.Verb != "" || r.Path == nil || *r.Path != "" || r.Id == nil || *r.Id != 0 {
		t.Errorf("frame %v", &outer)
	}
	envelope, err := unframe(data)
	if err != nil {
		t.Fatal(err)
	}
	if envelope.GetSourceDevice() != 1 || envelope.Source != nil || envelope.ServerTimestamp != nil || envelope.GetTimestamp() != sent {
		t.Errorf("envelope %v", envelope)
	}
	if n := len(envelope.GetContent()); (n-Overhead)%paddingBlock != 0 {
		t.Errorf("sealed content of %d bytes is not padded", n)
	}

	sig := envelope.GetProSig()
	if len(sig) != 64 {
		t.Fatalf("proSig of %d bytes", len(sig))
	}
	if _, err := new(edwards25519.Point).SetBytes(sig[:32]); err != nil {
		t.Error("the first half of proSig is no curve point")
	}
	if _, err := edwards25519.NewScalar().SetCanonicalBytes(sig[32:]); err != nil {
		t.Error("the second half of proSig is not below the group order")
	}
	if keys.Verify(alice.Keys().Ed25519(), envelope.GetContent(), sig) {
		t.Error("proSig gives the sender away")
	}
}

func TestLengthsOfShortMessagesAreHidden(t *testing.T) {
	var sizes []int
	for _, body := range []string{"", "yes", strings.Repeat("x", 100)} {
		data, err := Seal(rand.Reader, alice, bob.ID(), Text(body, sent))
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(data))
	}
	if sizes[0] != sizes[1] || sizes[1] != sizes[2] {
		t.Errorf("stored sizes %v differ", sizes)
	}
}

func TestSealRefuses(t *testing.T) {
	group := bob.ID()
	group[0] = account.PrefixGroup
	for _, tc := range []struct {
		name    string
		to      account.ID
		content *sessionpb.Content
		want    error
	}{
		{"a message without a time", bob.ID(), &sessionpb.Content{}, ErrTimestamp},
		{"no message", bob.ID(), nil, ErrTimestamp},
		{"a time beyond what clients hold", bob.ID(), Text("x", 1<<53), ErrTimestamp},
		{"a group as recipient", group, Text("x", sent), account.ErrNotSessionID},
		{"a recipient with a known secret", account.ID{account.PrefixAccount}, Text("x", sent), keys.ErrLowOrder},
		{"a body that fits only without framing", bob.ID(), Text(strings.Repeat("x", MaxData-100), sent), ErrTooLarge},
		{"a body that never fits", bob.ID(), Text(strings.Repeat("x", 10*MaxData), sent), ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if data, err := Seal(rand.Reader, alice, tc.to, tc.content); !errors.Is(err, tc.want) {
				t.Errorf("%d bytes, error %v, want %v", len(data), err, tc.want)
			}
		})
	}

	for n := range 64 {
		if _, err := Seal(bytes.NewReader(make([]byte, n)), alice, bob.ID(), Text("x", sent)); err == nil {
			t.Errorf("%d random bytes were enough", n)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	good, err := Seal(rand.Reader, alice, bob.ID(), Text("hi", sent))
	if err != nil {
		t.Fatal(err)
	}
	sealedContent := func(t *testing.T, plain []byte) []byte {
		sealed, err := Encrypt(rand.Reader, alice, bob.ID(), plain)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	encode := func(t *testing.T, m proto.Message) []byte {
		b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	framed := func(t *testing.T, timestamp uint64, sealed []byte) []byte {
		data, err := frame(timestamp, sealed, nil)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	inEnvelope := func(t *testing.T, envelope *sessionpb.Envelope) []byte {
		return encode(t, &sessionpb.WebSocketMessage{Request: &sessionpb.WebSocketRequestMessage{Body: encode(t, envelope)}})
	}
	text := func(t *testing.T, timestamp uint64) []byte { return Pad(encode(t, Text("hi", timestamp))) }

	for _, tc := range []struct {
		name string
		data func(t *testing.T) []byte
		want error
	}{
		{"nothing", func(t *testing.T) []byte { return nil }, ErrMalformed},
		{"garbage", func(t *testing.T) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, ErrMalformed},
		{"a truncated message", func(t *testing.T) []byte { return good[:len(good)-40] }, ErrMalformed},
		{"more than a swarm stores", func(t *testing.T) []byte { return make([]byte, MaxData+1) }, ErrTooLarge},
		{"a frame without an envelope", func(t *testing.T) []byte { return encode(t, &sessionpb.WebSocketMessage{}) }, ErrMalformed},
		{"an envelope without a type", func(t *testing.T) []byte {
			return inEnvelope(t, &sessionpb.Envelope{Timestamp: proto.Uint64(sent), Content: sealedContent(t, text(t, sent))})
		}, ErrMalformed},
		{"an envelope for a group", func(t *testing.T) []byte {
			return inEnvelope(t, &sessionpb.Envelope{
				Type: sessionpb.Envelope_CLOSED_GROUP_MESSAGE.Enum(), Timestamp: proto.Uint64(sent), Content: sealedContent(t, text(t, sent)),
			})
		}, ErrMalformed},
		{"an envelope without content", func(t *testing.T) []byte { return framed(t, sent, nil) }, ErrMalformed},
		{"a box one byte too short", func(t *testing.T) []byte { return framed(t, sent, make([]byte, Overhead-1)) }, ErrMalformed},
		{"a box around nothing", func(t *testing.T) []byte { return framed(t, sent, sealedContent(t, nil)) }, ErrMalformed},
		{"a box around padding alone", func(t *testing.T) []byte { return framed(t, sent, sealedContent(t, Pad(nil))) }, ErrMalformed},
		{"a box around garbage", func(t *testing.T) []byte { return framed(t, sent, sealedContent(t, []byte("hello"))) }, ErrMalformed},
		{"content without a required field", func(t *testing.T) []byte {
			return framed(t, sent, sealedContent(t, Pad(encode(t, &sessionpb.Content{UnsendRequest: &sessionpb.UnsendRequest{}}))))
		}, ErrMalformed},
		{"a message for somebody else", func(t *testing.T) []byte {
			data, err := Seal(rand.Reader, alice, carol.ID(), Text("hi", sent))
			if err != nil {
				t.Fatal(err)
			}
			return data
		}, ErrNotForUs},
		{"a damaged box", func(t *testing.T) []byte {
			sealed := sealedContent(t, text(t, sent))
			sealed[len(sealed)/2] ^= 1
			return framed(t, sent, sealed)
		}, ErrNotForUs},
		{"a signature of somebody else", func(t *testing.T) []byte {
			return framed(t, sent, forge(t, text(t, sent), alice.Keys().Ed25519(), carol.Keys(), bob.ID()))
		}, ErrSignature},
		{"a message that its recipient sealed again for us", func(t *testing.T) []byte {
			return framed(t, sent, resealed(t, text(t, sent)))
		}, ErrSignature},
		{"a sender that anybody can sign for", func(t *testing.T) []byte {
			return framed(t, sent, forgeWithSmallOrderKey(t, text(t, sent)))
		}, ErrSignature},
		{"an envelope with another time than the signed one", func(t *testing.T) []byte {
			return framed(t, sent+1, sealedContent(t, text(t, sent)))
		}, ErrTimestamp},
		{"a signed time of zero", func(t *testing.T) []byte { return framed(t, sent, sealedContent(t, text(t, 0))) }, ErrTimestamp},
		{"a time of zero", func(t *testing.T) []byte { return framed(t, 0, sealedContent(t, text(t, 0))) }, ErrTimestamp},
		{"a time beyond every calendar", func(t *testing.T) []byte {
			return framed(t, 1<<63, sealedContent(t, text(t, 1<<63)))
		}, ErrTimestamp},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if message, err := Open(bob, tc.data(t)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, error %v, want %v", message, err, tc.want)
			}
		})
	}
}

// forge seals plain for to with the public key of one account and a signature
// by another.
func forge(t *testing.T, plain []byte, claimed [32]byte, signer *keys.Pair, to account.ID) []byte {
	t.Helper()
	recipient := to.Key()
	inner := append(bytes.Clone(plain), claimed[:]...)
	inner = append(inner, signer.Sign(append(bytes.Clone(inner), recipient[:]...))...)
	return sealAnonymous(t, inner, recipient)
}

// resealed is what Carol can do with a message that Alice sent her.
func resealed(t *testing.T, plain []byte) []byte {
	t.Helper()
	return sealAnonymous(t, openAnonymous(t, plain), bob.ID().Key())
}

// openAnonymous returns the inside of a box from Alice to Carol.
func openAnonymous(t *testing.T, plain []byte) []byte {
	t.Helper()
	sealed, err := Encrypt(rand.Reader, alice, carol.ID(), plain)
	if err != nil {
		t.Fatal(err)
	}
	public, secret := carol.Keys().X25519(), carol.Keys().X25519Secret()
	inner, ok := box.OpenAnonymous(nil, sealed, &public, &secret)
	if !ok {
		t.Fatal("Carol cannot open her message")
	}
	return inner
}

// forgeWithSmallOrderKey uses the neutral point as public key: with R = B and
// s = 1 its signature equation holds for every message.
func forgeWithSmallOrderKey(t *testing.T, plain []byte) []byte {
	t.Helper()
	recipient := bob.ID().Key()
	neutral, one := [32]byte{1}, [32]byte{1}
	signature := append(edwards25519.NewGeneratorPoint().Bytes(), one[:]...)
	inner := append(bytes.Clone(plain), neutral[:]...)
	if !keys.Verify(neutral, append(bytes.Clone(inner), recipient[:]...), signature) {
		t.Fatal("the forged signature does not verify, so this tests nothing")
	}
	return sealAnonymous(t, append(inner, signature...), recipient)
}

func sealAnonymous(t *testing.T, inner []byte, recipient [32]byte) []byte {
	t.Helper()
	sealed, err := box.SealAnonymous(nil, inner, &recipient, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestOpenReadsWhatItNeedNotUnderstand(t *testing.T) {
	plain, err := proto.Marshal(Text("hi", sent))
	if err != nil {
		t.Fatal(err)
	}
	// Field 99, a text that a later client may add.
	plain = append(plain, 0x9a, 0x06, 0x02, 'o', 'k')
	sealed, err := Encrypt(rand.Reader, alice, bob.ID(), Pad(plain))
	if err != nil {
		t.Fatal(err)
	}
	data, err := frame(sent, sealed, []byte("no signature"))
	if err != nil {
		t.Fatal(err)
	}
	message, err := Open(bob, data)
	if err != nil || message.Content.GetDataMessage().GetBody() != "hi" {
		t.Errorf("got %v, %v", message, err)
	}
}

func TestBrokenTextIsRepaired(t *testing.T) {
	bad := "a\xffb"
	content := Text(bad, sent)
	content.DataMessage.Profile = &sessionpb.LokiProfile{DisplayName: &bad}
	content.DataMessage.Preview = []*sessionpb.DataMessage_Preview{{Url: proto.String("u"), Title: &bad}}
	content.DataMessage.ProfileKey = []byte(bad)
	content.CallMessage = &sessionpb.CallMessage{
		Type: sessionpb.CallMessage_OFFER.Enum(), Uuid: &bad, Sdps: []string{"fine", bad},
	}
	data, err := Seal(rand.Reader, alice, bob.ID(), content)
	if err != nil {
		t.Fatal(err)
	}
	message, err := Open(bob, data)
	if err != nil {
		t.Fatal(err)
	}
	const want = "a\uFFFDb"
	data1 := message.Content.GetDataMessage()
	call := message.Content.GetCallMessage()
	for name, got := range map[string]string{
		"body": data1.GetBody(), "name": data1.GetProfile().GetDisplayName(), "title": data1.GetPreview()[0].GetTitle(),
		"uuid": call.GetUuid(), "sdp": call.GetSdps()[1],
	} {
		if got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if call.GetSdps()[0] != "fine" || string(data1.GetProfileKey()) != bad {
		t.Error("what was not broken text has changed")
	}
}

func TestEqualMessagesDoNotLookEqual(t *testing.T) {
	random := seeded()
	a, err := Seal(random, alice, bob.ID(), Text("hi", sent))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Seal(random, alice, bob.ID(), Text("hi", sent))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, b) {
		t.Error("two sealings of one message are equal")
	}
}

func TestPayloadsOfAnotherKeyDoNotOpen(t *testing.T) {
	sealed, err := SealPayload(rand.Reader, [32]byte{1}, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPayload([32]byte{2}, sealed); !errors.Is(err, ErrNotForUs) {
		t.Errorf("another key: %v", err)
	}
	for n := range 40 {
		if _, err := OpenPayload([32]byte{1}, sealed[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestDecryptedPlaintextHasRoomForNothingElse(t *testing.T) {
	sealed, err := Encrypt(rand.Reader, alice, bob.ID(), []byte("hi"))
	if err != nil {
		t.Fatal(err)
	}
	_, plain, err := Decrypt(bob, sealed)
	if err != nil || cap(plain) != len(plain) {
		t.Errorf("%d bytes in room for %d, %v", len(plain), cap(plain), err)
	}
}

func FuzzOpen(f *testing.F) {
	v := loadVectors(f)
	bob := v.account(f, "bob")
	good, err := Seal(seeded(), alice, bob.ID(), Text("hi", sent))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	envelope, err := unframe(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope.GetContent())
	f.Add([]byte{8, 1, 18, 2, 26, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		message, err := Open(bob, data)
		if err != nil {
			known := []error{ErrMalformed, ErrNotForUs, ErrSignature, ErrTimestamp, ErrTooLarge}
			for _, k := range known {
				if errors.Is(err, k) {
					return
				}
			}
			t.Fatalf("error %v is none of the documented ones", err)
		}
		if message.Sender != alice.ID() {
			t.Errorf("a message of %s came from nowhere", message.Sender)
		}
	})
}

// FuzzContent feeds what a signed sender can put into a box.
func FuzzContent(f *testing.F) {
	for _, c := range loadVectors(f).ContentEncoding.Vectors {
		f.Add(Pad(c.Content))
	}
	f.Add([]byte{0x80})
	f.Add(bytes.Repeat([]byte{0x0b}, 20_000)) // groups within groups
	f.Fuzz(func(t *testing.T, padded []byte) {
		content, err := parseContent(padded)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v", err)
			}
			return
		}
		if body := content.GetDataMessage().GetBody(); !utf8.ValidString(body) {
			t.Errorf("body %q", body)
		}
		encoded, err := proto.Marshal(content)
		if err != nil {
			t.Fatalf("encoding again: %v", err)
		}
		again := new(sessionpb.Content)
		if err := proto.Unmarshal(encoded, again); err != nil {
			t.Fatalf("decoding again: %v", err)
		}
		if !proto.Equal(content, again) {
			t.Errorf("%v became %v", content, again)
		}
	})
}

func FuzzUnpad(f *testing.F) {
	for _, c := range loadVectors(f).Unpadding.Vectors {
		f.Add([]byte(c.Input))
	}
	f.Add(Pad(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !bytes.HasPrefix(b, Unpad(b)) {
			t.Errorf("unpadding %x gives %x", b, Unpad(b))
		}
		padded := Pad(b)
		if len(padded)%paddingBlock != 0 || !bytes.Equal(Unpad(padded), b) {
			t.Errorf("%x does not come back from %x", b, padded)
		}
	})
}

var textSizes = []struct {
	name string
	body string
}{
	{"short text", "Hello world"},
	{"1 KiB", strings.Repeat("x", 1024)},
	{"64 KiB", strings.Repeat("x", 64<<10)},
}

func BenchmarkSeal(b *testing.B) {
	for _, size := range textSizes {
		b.Run(size.name, func(b *testing.B) {
			content, to := Text(size.body, sent), bob.ID()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Seal(rand.Reader, alice, to, content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, size := range textSizes {
		b.Run(size.name, func(b *testing.B) {
			data, err := Seal(rand.Reader, alice, bob.ID(), Text(size.body, sent))
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(bob, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
