package attachment

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"hearth/node/keys"
	"hearth/node/onion"
)

var seed = [32]byte{1, 2, 3}

func content(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i*31 + i>>8)
	}
	return b
}

func encrypted(t testing.TB, data []byte, deterministic bool) ([]byte, Secret) {
	t.Helper()
	var b bytes.Buffer
	var secret Secret
	var err error
	if deterministic {
		secret, err = EncryptDeterministic(&b, bytes.NewReader(data), int64(len(data)), seed, File)
	} else {
		secret, err = Encrypt(rand.Reader, &b, bytes.NewReader(data), int64(len(data)), true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), secret
}

func decrypted(uploaded []byte, secret Secret, deterministic bool) ([]byte, error) {
	var b bytes.Buffer
	err := Decrypt(&b, bytes.NewReader(uploaded), int64(len(uploaded)), secret, deterministic)
	return b.Bytes(), err
}

func TestFilesOfEverySizeComeBack(t *testing.T) {
	for _, size := range []int{0, 1, 15, 16, 17, 540, 541, 542, 32767, 32768, 32769, 65536, 100_000, 1_000_000, MaxSize} {
		data := content(size)
		for _, deterministic := range []bool{false, true} {
			uploaded, secret := encrypted(t, data, deterministic)
			if len(uploaded) > MaxUpload {
				t.Errorf("%d bytes: an upload of %d", size, len(uploaded))
			}
			if !deterministic && int64(len(uploaded)) != UploadSize(int64(size), true) {
				t.Errorf("%d bytes: an upload of %d", size, len(uploaded))
			}
			got, err := decrypted(uploaded, secret, deterministic)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, deterministic %t: %d bytes back, %v", size, deterministic, len(got), err)
			}
		}
	}
}

func TestReadersThatGiveLittleAtATime(t *testing.T) {
	data := content(70_000)
	var b bytes.Buffer
	secret, err := Encrypt(rand.Reader, &b, iotest.OneByteReader(bytes.NewReader(data)), int64(len(data)), true)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decrypted(b.Bytes(), secret, false); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes back, %v", len(got), err)
	}
	uploaded, secret := encrypted(t, data, true)
	var plain bytes.Buffer
	n, err := DecryptDeterministic(&plain, iotest.HalfReader(bytes.NewReader(uploaded)), secret.Key)
	if err != nil || n != int64(len(data)) || !bytes.Equal(plain.Bytes(), data) {
		t.Errorf("%d bytes back, %v", n, err)
	}
}

func TestSameUploadTwice(t *testing.T) {
	first, _ := encrypted(t, content(1000), true)
	again, _ := encrypted(t, content(1000), true)
	if !bytes.Equal(first, again) {
		t.Error("a deterministic upload differs from itself")
	}
	var other bytes.Buffer
	if _, err := EncryptDeterministic(&other, bytes.NewReader(content(1000)), 1000, [32]byte{9}, File); err != nil || bytes.Equal(first, other.Bytes()) {
		t.Errorf("another uploader makes the same upload, %v", err)
	}
	classic, _ := encrypted(t, content(1000), false)
	if again, _ := encrypted(t, content(1000), false); bytes.Equal(classic, again) {
		t.Error("a classic upload is made twice the same")
	}
}

func TestFilesThatAreNotAsAnnounced(t *testing.T) {
	none := bytes.NewReader(nil)
	if _, err := Encrypt(rand.Reader, io.Discard, none, MaxSize+1, true); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a classic file above the limit: %v", err)
	}
	if _, err := EncryptDeterministic(io.Discard, none, maxPlain+1, seed, File); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a deterministic file above the limit: %v", err)
	}
	if _, _, err := EncryptPicture(rand.Reader, make([]byte, MaxSize+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a picture above the limit: %v", err)
	}
	if _, err := Encrypt(rand.Reader, io.Discard, bytes.NewReader(content(99)), 100, true); !errors.Is(err, ErrSize) {
		t.Errorf("a file that is shorter: %v", err)
	}
	if _, err := Encrypt(rand.Reader, io.Discard, bytes.NewReader(content(101)), 100, true); !errors.Is(err, ErrSize) {
		t.Errorf("a file that is longer: %v", err)
	}
	if _, err := EncryptDeterministic(io.Discard, bytes.NewReader(content(99)), 100, seed, File); !errors.Is(err, ErrSize) {
		t.Errorf("a file that is shorter: %v", err)
	}
}

var errDisk = errors.New("disk on fire")

type brokenWriter struct{ after int }

func (w *brokenWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestErrorsOfReadersAndWritersComeThrough(t *testing.T) {
	data := content(100_000)
	for _, after := range []int{0, 10, 30_000, 90_000} {
		if _, err := Encrypt(rand.Reader, &brokenWriter{after}, bytes.NewReader(data), 100_000, true); !errors.Is(err, errDisk) {
			t.Errorf("classic, %d: %v", after, err)
		}
		if _, err := EncryptDeterministic(&brokenWriter{after}, bytes.NewReader(data), 100_000, seed, File); !errors.Is(err, errDisk) {
			t.Errorf("deterministic, %d: %v", after, err)
		}
		for _, deterministic := range []bool{false, true} {
			uploaded, secret := encrypted(t, data, deterministic)
			if err := Decrypt(&brokenWriter{after}, bytes.NewReader(uploaded), int64(len(uploaded)), secret, deterministic); !errors.Is(err, errDisk) {
				t.Errorf("decrypting, %d: %v", after, err)
			}
		}
	}
	if _, err := Encrypt(rand.Reader, io.Discard, iotest.ErrReader(errDisk), 100, true); !errors.Is(err, errDisk) {
		t.Errorf("reading: %v", err)
	}
	for _, random := range []int{0, 63, 64, 79} {
		if _, err := Encrypt(bytes.NewReader(make([]byte, random)), io.Discard, bytes.NewReader(nil), 0, true); err == nil {
			t.Errorf("%d bytes of randomness were enough", random)
		}
	}
	if _, _, err := EncryptPicture(bytes.NewReader(make([]byte, 43)), nil); err == nil {
		t.Error("43 bytes of randomness were enough")
	}
}

func TestDamagedDownloads(t *testing.T) {
	data := content(70_000)
	for _, deterministic := range []bool{false, true} {
		uploaded, secret := encrypted(t, data, deterministic)
		changed := func(at int, bit byte) []byte {
			b := bytes.Clone(uploaded)
			b[at] ^= bit
			return b
		}
		var damaged [][]byte
		for _, at := range []int{0, 1, 20, 26, 32_700, 32_810, len(uploaded) / 2, len(uploaded) - 33, len(uploaded) - 1} {
			damaged = append(damaged, changed(at, 1), changed(at, 0x80), uploaded[:at])
		}
		damaged = append(damaged, append(bytes.Clone(uploaded), 0), append(bytes.Clone(uploaded), uploaded...))
		for i, d := range damaged {
			got, err := decrypted(d, secret, deterministic)
			if !errors.Is(err, ErrForged) && !errors.Is(err, ErrMalformed) {
				t.Errorf("deterministic %t, damage %d: %v", deterministic, i, err)
			}
			if !deterministic && len(got) > 0 {
				t.Errorf("damage %d: %d bytes were given out", i, len(got))
			}
			if !bytes.HasPrefix(data, got) && !bytes.Equal(got, data) {
				t.Errorf("deterministic %t, damage %d: bytes that the sender did not write", deterministic, i)
			}
		}
	}
}

// forge makes a classic upload whose HMAC and digest are right, with any
// encrypted part.
func forge(key Key, ivAndEncrypted []byte) ([]byte, Secret) {
	mac := hmac.New(sha256.New, key[32:])
	mac.Write(ivAndEncrypted)
	uploaded := mac.Sum(bytes.Clone(ivAndEncrypted))
	digest := sha256.Sum256(uploaded)
	return uploaded, Secret{Key: key, Digest: digest[:], Size: 1}
}

func TestAuthenticNonsense(t *testing.T) {
	key := Key(make([]byte, 64))
	for _, size := range []int{0, 15, 16, 17, 33} {
		uploaded, secret := forge(key, make([]byte, size))
		if _, err := decrypted(uploaded, secret, false); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	// Zero bytes under this key end in no right padding.
	uploaded, secret := forge(key, make([]byte, 64))
	if _, err := decrypted(uploaded, secret, false); !errors.Is(err, ErrMalformed) {
		t.Errorf("wrong padding: %v", err)
	}

	header := make([]byte, streamHeader)
	stream := func(chunks ...any) []byte {
		s, err := newSecretstream(make([]byte, 32), header)
		if err != nil {
			t.Fatal(err)
		}
		out := append([]byte{streamMark}, header...)
		for i := 0; i < len(chunks); i += 2 {
			if out, err = s.seal(out, []byte(chunks[i].(string)), byte(chunks[i+1].(int))); err != nil {
				t.Fatal(err)
			}
		}
		return out
	}
	full := strings.Repeat("\x00", streamChunk-1) + "\x01"
	for _, tt := range []struct {
		name   string
		stream []byte
		want   string
	}{
		{"nothing", nil, "it ends early"},
		{"no chunk", stream(), "it ends early"},
		{"no last chunk", stream(full, 0), "it ends early"},
		{"a short chunk that is not the last", stream("\x01abc", 0, "def", 3), "chunk does not decrypt"},
		{"no end of the padding", stream("\x00\x00", 3), "nothing but padding"},
		{"padding of something else", stream("\x00\x02", 3), "padding"},
		{"another tag", stream(full, 2, "a", 3), "tag 2"},
		{"more after the end", append(stream("\x01", 3), 'x'), "does not decrypt"},
		{"another mark", append([]byte{'T'}, stream("\x01", 3)[1:]...), "begins with"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := DecryptDeterministic(io.Discard, bytes.NewReader(tt.stream), make(Key, 32))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	after := append(stream(full, 3), stream("\x01", 3)...)
	if _, err := DecryptDeterministic(io.Discard, bytes.NewReader(after), make(Key, 32)); !errors.Is(err, ErrMalformed) {
		t.Errorf("more after a last chunk of full size: %v", err)
	}
}

func TestSizeThatLies(t *testing.T) {
	data := content(1000)
	for _, deterministic := range []bool{false, true} {
		uploaded, secret := encrypted(t, data, deterministic)
		for _, size := range []int64{-1, 1 << 40} {
			secret.Size = size
			if _, err := decrypted(uploaded, secret, deterministic); !errors.Is(err, ErrSize) {
				t.Errorf("deterministic %t, size %d: %v", deterministic, size, err)
			}
		}
	}
	uploaded, secret := encrypted(t, data, false)
	secret.Size = 10
	if got, err := decrypted(uploaded, secret, false); err != nil || !bytes.Equal(got, data[:10]) {
		t.Errorf("%x, %v", got, err)
	}
}

func TestKeysOfTheWrongKind(t *testing.T) {
	for _, size := range []int{0, 31, 32, 33, 63, 65} {
		uploaded, secret := encrypted(t, nil, false)
		secret.Key = make(Key, size)
		if _, err := decrypted(uploaded, secret, false); !errors.Is(err, ErrKey) {
			t.Errorf("classic, %d bytes: %v", size, err)
		}
		if size == 32 {
			continue
		}
		if _, err := DecryptDeterministic(io.Discard, bytes.NewReader(uploaded), make(Key, size)); !errors.Is(err, ErrKey) {
			t.Errorf("deterministic, %d bytes: %v", size, err)
		}
		if _, err := DecryptPicture(make(Key, size), uploaded); !errors.Is(err, ErrKey) {
			t.Errorf("picture, %d bytes: %v", size, err)
		}
	}
	uploaded, secret := encrypted(t, nil, false)
	secret.Digest = nil
	if _, err := decrypted(uploaded, secret, false); !errors.Is(err, ErrKey) {
		t.Errorf("without a digest: %v", err)
	}
}

func TestPictures(t *testing.T) {
	picture := content(5000)
	key, uploaded, err := EncryptPicture(rand.Reader, picture)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecryptPicture(key, uploaded); err != nil || !bytes.Equal(got, picture) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, at := range []int{0, 12, len(uploaded) - 1} {
		uploaded[at] ^= 1
		if _, err := DecryptPicture(key, uploaded); !errors.Is(err, ErrForged) {
			t.Errorf("changed at %d: %v", at, err)
		}
		uploaded[at] ^= 1
	}
	if _, err := DecryptPicture(key, uploaded[:27]); !errors.Is(err, ErrMalformed) {
		t.Errorf("27 bytes: %v", err)
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	secret := Secret{Key: Key("a very secret key")}
	inJSON, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(secret.Key), fmt.Sprintf("%x %v %+v %#v", secret, secret, secret, secret), string(inJSON)} {
		if strings.Contains(text, "very") || strings.Contains(text, "76657279") {
			t.Errorf("printed %s", text)
		}
	}
}

func TestURLs(t *testing.T) {
	id := IDOf([]byte("content"))
	server := keys.FromSeed([32]byte{7}).Ed25519()
	p := fmt.Sprintf("%x", server)
	e := strings.Repeat("ab", 32)
	session := fmt.Sprintf("%x", SessionEd25519)
	key := Key(bytes.Repeat([]byte{0xab}, 32))
	for _, tt := range []struct {
		text string
		want URL
		back string // "" when the same
	}{
		{"http://filev2.getsession.org/file/1000009", URL{Host: Host, ID: "1000009"}, ""},
		{"http://filev2.getsession.org/file/" + id.String(), URL{Host: Host, ID: id.String()}, ""},
		{"http://FileV2.getsession.org/file/12/#", URL{Host: Host, ID: "12"}, "http://filev2.getsession.org/file/12"},
		{"http://filev2.getsession.org/file/a-_Z#d=", URL{Host: Host, ID: "a-_Z", Deterministic: true}, ""},
		{"http://filev2.getsession.org/file/a#d", URL{Host: Host, ID: "a", Deterministic: true}, "http://filev2.getsession.org/file/a#d="},
		{"http://filev2.getsession.org/file/a#p=" + session, URL{Host: Host, ID: "a"}, "http://filev2.getsession.org/file/a"},
		{"http://127.0.0.1:8080/file/a#p=" + p + "&d=&e=" + e, URL{Host: "127.0.0.1:8080", ID: "a", Server: server, Deterministic: true, Key: key}, ""},
		{"http://h/deep/er/file/a?x=1#later=1&e=" + e + "&&=", URL{Host: "h", ID: "a", Key: key}, "http://h/file/a#e=" + e},
	} {
		tt.want.Scheme = "http"
		got, err := ParseURL(tt.text)
		if err != nil || fmt.Sprintf("%v %x", got, []byte(got.Key)) != fmt.Sprintf("%v %x", tt.want, []byte(tt.want.Key)) {
			t.Errorf("%s: %v, %v", tt.text, got, err)
		}
		if tt.back == "" {
			tt.back = tt.text
		}
		if back := got.Text(); back != tt.back {
			t.Errorf("%s: written as %s", tt.text, back)
		}
	}
	for _, text := range []string{
		"", "x", "ftp://h/file/1", "http:///file/1", "http://h", "http://h/", "http://user@h/file/1", "http://h/file/a%2fb", "http://h/file/a.b",
		"http://h/file/a b", "http://h/file/" + strings.Repeat("1", 129), "http://h/file/1#p=12", "http://h/file/1#p=" + strings.Repeat("x", 64),
		"http://h/file/1#e=", "http://h/file/1#" + strings.Repeat("x", maxURL), "http://h:x/file/1", "http://[::1/file/1",
	} {
		if u, err := ParseURL(text); !errors.Is(err, ErrURL) {
			t.Errorf("%q: %v, %v", text, u, err)
		}
	}
}

func TestServersOfURLs(t *testing.T) {
	other := keys.FromSeed([32]byte{7})
	p := fmt.Sprintf("#p=%x", other.Ed25519())
	for _, tt := range []struct {
		text string
		want onion.WebServer
	}{
		{"http://filev2.getsession.org/file/1", onion.WebServer{Host: Host, Protocol: "http", Port: 80, X25519: SessionX25519}},
		{"https://files.example.org/file/1" + p, onion.WebServer{Host: "files.example.org", Protocol: "https", Port: 443, X25519: other.X25519()}},
		{"http://127.0.0.1:8080/file/1" + p, onion.WebServer{Host: "127.0.0.1", Protocol: "http", Port: 8080, X25519: other.X25519()}},
		{NodeURL(IDOf(nil), true).Text(), onion.WebServer{Host: Host, Protocol: "http", Port: 80, X25519: Nodes().X25519()}},
	} {
		u, err := ParseURL(tt.text)
		if err != nil {
			t.Fatal(err)
		}
		tt.want.Target = Target
		if got, err := u.WebServer(); err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.text, got, err)
		}
	}
	for _, text := range []string{"http://h:0/file/1", "http://h:99999/file/1", "http://h/file/1#p=01" + strings.Repeat("00", 31)} {
		u, err := ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.WebServer(); !errors.Is(err, ErrURL) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func TestFilesWithoutURL(t *testing.T) {
	u, err := LocateFile("", 12345)
	if err != nil || u.Text() != "http://filev2.getsession.org/file/12345" || u.DeprecatedID() != 12345 {
		t.Errorf("%v, %v", u, err)
	}
	if _, err := LocateFile("", 0); !errors.Is(err, ErrURL) {
		t.Errorf("neither: %v", err)
	}
	if u, err := LocateFile("http://h/file/abc", 5); err != nil || u.ID != "abc" || u.DeprecatedID() != 0 {
		t.Errorf("%v, %v", u, err)
	}
}

func TestNamesByContent(t *testing.T) {
	id := IDOf([]byte("content"))
	// What hashlib of Python 3 and base64.urlsafe_b64encode make of it.
	if id.String() != "8S0gDU89dQBlT8_sVlvATEOwTH4NpbTUdEZX8i1m6AHx" {
		t.Errorf("named %s", id)
	}
	back, ok := ParseID(id.String())
	if !ok || back != id {
		t.Errorf("%v, %t", back, ok)
	}
	place := id.Place()
	if place.Key() != [32]byte(id[:32]) {
		t.Errorf("placed at %v", place)
	}
	for _, text := range []string{"", "1000009", id.String()[1:], id.String() + "A", strings.Repeat("!", 44), strings.Repeat("\n", 44), id.String()[:40] + "\nAAA"} {
		if _, ok := ParseID(text); ok {
			t.Errorf("%q is a name", text)
		}
	}
	u := NodeURL(id, true)
	parsed, err := ParseURL(u.Text())
	if err != nil || !strings.HasPrefix(u.Text(), "http://filev2.getsession.org/file/"+id.String()+"#p=") {
		t.Errorf("%s: %v", u.Text(), err)
	}
	if got, ok := parsed.OnNodes(); !ok || got != id || !parsed.Deterministic {
		t.Errorf("%v, %t", got, ok)
	}
	for _, other := range []string{"http://filev2.getsession.org/file/" + id.String(), fmt.Sprintf("http://filev2.getsession.org/file/1#p=%x", Nodes().Ed25519())} {
		u, err := ParseURL(other)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := u.OnNodes(); ok {
			t.Errorf("%s is on the nodes", other)
		}
	}
	if x, err := keys.X25519FromEd25519(SessionEd25519); err != nil || x != SessionX25519 {
		t.Errorf("the two keys of Session's file server do not belong together: %v", err)
	}
}

func FuzzDecrypt(f *testing.F) {
	data := content(1000)
	for _, deterministic := range []bool{false, true} {
		uploaded, secret := encrypted(f, data, deterministic)
		f.Add(uploaded, []byte(secret.Key), secret.Digest, secret.Size, deterministic)
	}
	uploaded, secret := forge(make(Key, 64), make([]byte, 64))
	f.Add(uploaded, []byte(secret.Key), secret.Digest, secret.Size, false)
	f.Fuzz(func(t *testing.T, uploaded, key, digest []byte, size int64, deterministic bool) {
		got, err := decrypted(uploaded, Secret{Key(key), digest, size}, deterministic)
		if err == nil && int64(len(got)) != size {
			t.Errorf("%d bytes, said to be %d", len(got), size)
		}
		if len(got) > len(uploaded) {
			t.Errorf("%d bytes out of %d", len(got), len(uploaded))
		}
		_, _ = DecryptPicture(Key(key), uploaded)
	})
}

// FuzzDecryptForged gives the decryption what a hostile contact can: anything,
// with the right digest and HMAC.
func FuzzDecryptForged(f *testing.F) {
	f.Add(make([]byte, 48), int64(1))
	f.Add(make([]byte, 5), int64(0))
	f.Fuzz(func(t *testing.T, body []byte, size int64) {
		uploaded, secret := forge(make(Key, 64), body)
		secret.Size = size
		got, err := decrypted(uploaded, secret, false)
		if err == nil && int64(len(got)) != size || err != nil && len(got) > 0 {
			t.Errorf("%d bytes of %d, %v", len(got), size, err)
		}
	})
}

func FuzzParseURL(f *testing.F) {
	f.Add("http://filev2.getsession.org/file/1000009")
	f.Add(NodeURL(IDOf(nil), true).Text() + "&e=" + strings.Repeat("00", 32))
	f.Fuzz(func(t *testing.T, text string) {
		u, err := ParseURL(text)
		if err != nil {
			return
		}
		again, err := ParseURL(u.Text())
		if err != nil || again.Text() != u.Text() || again.ID != u.ID || again.Host != u.Host {
			t.Errorf("%q: %q, %q, %v", text, u.Text(), again.Text(), err)
		}
	})
}

func benchmarkSizes(b *testing.B, run func(b *testing.B, data []byte)) {
	for _, size := range []int{1_000, 1_000_000, MaxSize} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			run(b, content(size))
		})
	}
}

func BenchmarkEncrypt(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, data []byte) {
		for b.Loop() {
			if _, err := Encrypt(rand.Reader, io.Discard, bytes.NewReader(data), int64(len(data)), true); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecrypt(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, data []byte) {
		uploaded, secret := encrypted(b, data, false)
		for b.Loop() {
			if err := Decrypt(io.Discard, bytes.NewReader(uploaded), int64(len(uploaded)), secret, false); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncryptDeterministic(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, data []byte) {
		for b.Loop() {
			if _, err := EncryptDeterministic(io.Discard, bytes.NewReader(data), int64(len(data)), seed, File); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkDecryptDeterministic(b *testing.B) {
	benchmarkSizes(b, func(b *testing.B, data []byte) {
		uploaded, secret := encrypted(b, data, true)
		for b.Loop() {
			if _, err := DecryptDeterministic(io.Discard, bytes.NewReader(uploaded), secret.Key); err != nil {
				b.Fatal(err)
			}
		}
	})
}
