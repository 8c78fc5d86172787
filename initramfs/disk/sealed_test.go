package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestTheCipherIsTheOneThatTheProcessorIsMadeFor(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		want    Cipher
	}{
		"a PC":               {"processor\t: 0\nmodel name\t: some aes maker\nflags\t\t: fpu vme aes avx\n", AES},
		"a PC without AES":   {"flags\t\t: fpu vme aesx\n", Adiantum},
		"a Raspberry Pi 4":   {"processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\n", Adiantum},
		"a Raspberry Pi 5":   {"Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32\n", AES},
		"nothing is told":    {"", Adiantum},
		"aes in a name only": {"model name\t: aes\n", Adiantum},
	} {
		if got := ChooseCipher([]byte(c.cpuinfo)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAHeaderComesBackFromEitherOfItsTwoPlaces(t *testing.T) {
	want := Header{Cipher: Adiantum, Sealed: bytes.Repeat([]byte("sealed"), 60)}
	disk := sparse(t, Payload)
	if _, _, err := ReadHeader(disk); !errors.Is(err, ErrHeader) {
		t.Errorf("an empty disk: %v", err)
	}
	for name, c := range map[string]struct {
		spoil []int64
		whole bool
		err   error
	}{
		"untouched":       {whole: true},
		"the first lost":  {spoil: []int64{100}},
		"the second lost": {spoil: []int64{64<<10 + 4000}},
		"both lost":       {spoil: []int64{100, 64<<10 + 4000}, err: ErrHeader},
	} {
		t.Run(name, func(t *testing.T) {
			if err := WriteHeader(disk, want); err != nil {
				t.Fatal(err)
			}
			for _, at := range c.spoil {
				if _, err := disk.WriteAt([]byte{1}, at); err != nil {
					t.Fatal(err)
				}
			}
			got, whole, err := ReadHeader(disk)
			if !errors.Is(err, c.err) || whole != c.whole || err == nil && !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, whole %v, %v", got, whole, err)
			}
		})
	}
	if err := WriteHeader(disk, want); err != nil {
		t.Fatal(err)
	}
	if err := Destroy(disk); err != nil {
		t.Fatal(err)
	}
	left := make([]byte, Payload)
	if _, err := disk.ReadAt(left, 0); err != nil || !bytes.Equal(left, make([]byte, Payload)) {
		t.Errorf("something is left of what was destroyed, %v", err)
	}
}

func TestTheKernelIsToldWhatToDecrypt(t *testing.T) {
	for _, c := range []Cipher{AES, Adiantum} {
		key := bytes.Repeat([]byte{0xa5}, c.KeySize())
		target := cryptTarget(c, key, 8192, 254, 3)
		if len(target)%8 != 0 || binary.NativeEndian.Uint64(target) != 0 || binary.NativeEndian.Uint64(target[8:]) != 8192 {
			t.Errorf("%v: target %x", c, target[:40])
		}
		if kind := strings.TrimRight(string(target[24:40]), "\x00"); kind != "crypt" {
			t.Errorf("%v: kind %q", c, kind)
		}
		want := c.String() + " " + hex.EncodeToString(key) + " 0 254:3 2048 1 sector_size:4096"
		if got := strings.TrimRight(string(target[40:]), "\x00"); got != want {
			t.Errorf("%v: %q, want %q", c, got, want)
		}
	}
	if _, err := Open(sparse(t, 64*mib), "x", AES, make([]byte, 32)); err == nil || !strings.Contains(err.Error(), "64 bytes, not 32") {
		t.Errorf("a key of the wrong size: %v", err)
	}
	if _, err := Open(sparse(t, Payload), "x", AES, make([]byte, 64)); !errors.Is(err, ErrSmall) {
		t.Errorf("no room behind the header: %v", err)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add(Header{Cipher: AES, Sealed: []byte("sealed")}.Marshal())
	f.Add(Header{Cipher: Adiantum, Sealed: make([]byte, maxSealed)}.Marshal())
	f.Add([]byte(headerMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHeader(b)
		if err == nil && !bytes.Equal(h.Marshal(), b) {
			t.Errorf("%+v is not what was read", h)
		}
	})
}
