package link

import (
	"bytes"
	"errors"
	"image"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

func samplePackets() []Packet {
	return []Packet{
		{Hello, nil},
		Button{Number: 6, Pressed: true}.Packet(),
		Band{Number: 7, Last: true, Panel: image.Pt(240, 240), Rect: image.Rect(3, 5, 5, 6), Pixels: []byte{1, 2, 3, 4}}.Packet(),
		Button{Number: 6}.Packet(),
	}
}

func stream(packets ...Packet) []byte {
	var b []byte
	for _, p := range packets {
		b = p.Append(b)
	}
	return b
}

func all(t testing.TB, s *Scanner) []Packet {
	t.Helper()
	var packets []Packet
	for {
		p, err := s.Next()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, p)
	}
}

func TestScannerFindsThePackets(t *testing.T) {
	good := stream(samplePackets()...)
	first := stream(samplePackets()[0])
	flipped := bytes.Clone(good)
	flipped[len(first)+8] ^= 1 // in the payload of the second packet
	tests := []struct {
		name    string
		bytes   []byte
		want    []Packet
		skipped bool
	}{
		{"nothing", nil, nil, false},
		{"packets one after the other", good, samplePackets(), false},
		{"garbage before", append([]byte("login: \x48\x50\xc5"), good...), samplePackets(), true},
		{"a packet that begins in its middle", append(bytes.Clone(good[9:len(first)]), good...), samplePackets(), true},
		{"a flipped bit costs that packet only", flipped, append(samplePackets()[:1:1], samplePackets()[2:]...), true},
		{"a magic within garbage", append([]byte(magic+magic+"\x01\xff\xff"), good...), samplePackets(), true},
		{"a garbled length does not hide what follows", append([]byte(magic+"\x03\x10\x00"), good...), samplePackets(), true},
		{"a packet cut short at the end", good[:len(good)-1], samplePackets()[:3], true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.bytes), iotest.OneByteReader(bytes.NewReader(tt.bytes)), iotest.DataErrReader(bytes.NewReader(tt.bytes))} {
				s := NewScanner(r, MaxPayload)
				got := all(t, s)
				if len(got) != len(tt.want) {
					t.Fatalf("%d packets, want %d", len(got), len(tt.want))
				}
				for i := range got {
					if got[i].Kind != tt.want[i].Kind || !bytes.Equal(got[i].Payload, tt.want[i].Payload) {
						t.Errorf("packet %d is %v, want %v", i, got[i], tt.want[i])
					}
				}
				if (s.Skipped() > 0) != tt.skipped {
					t.Errorf("skipped %d bytes", s.Skipped())
				}
			}
		})
	}
}

func TestScannerReportsTheErrorOfTheStream(t *testing.T) {
	broken := errors.New("broken")
	s := NewScanner(io.MultiReader(bytes.NewReader(stream(samplePackets()[:1]...)), iotest.ErrReader(broken)), MaxPayload)
	if _, err := s.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Next(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestALongPacketIsGarbageToAReceiverOfShortOnes(t *testing.T) {
	got := all(t, NewScanner(bytes.NewReader(stream(samplePackets()...)), ButtonSize))
	if len(got) != 3 {
		t.Errorf("%d packets, want 3", len(got))
	}
}

func TestBandsThatAreWrongAreRefused(t *testing.T) {
	ok := Band{Number: 1, Panel: image.Pt(10, 10), Rect: image.Rect(8, 9, 10, 10), Pixels: make([]byte, 4)}
	if got, err := ParseBand(ok.Packet().Payload); err != nil || !reflect.DeepEqual(got, ok) {
		t.Fatalf("got %v, %v", got, err)
	}
	tests := []struct {
		name   string
		change func(*Band)
	}{
		{"no pixels", func(b *Band) { b.Rect.Max = b.Rect.Min; b.Pixels = nil }},
		{"one pixel too few", func(b *Band) { b.Pixels = b.Pixels[2:] }},
		{"half a pixel too many", func(b *Band) { b.Pixels = append(b.Pixels, 0) }},
		{"beyond the right edge", func(b *Band) { b.Rect = b.Rect.Add(image.Pt(1, 0)) }},
		{"beyond the lower edge", func(b *Band) { b.Rect = b.Rect.Add(image.Pt(0, 1)) }},
		{"a panel too wide", func(b *Band) { b.Panel.X = MaxSide + 1 }},
		{"a panel without height", func(b *Band) { b.Panel.Y = 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := ok
			tt.change(&b)
			if _, err := ParseBand(b.Packet().Payload); !errors.Is(err, ErrPayload) {
				t.Errorf("got %v", err)
			}
		})
	}
	for n := range bandHeader {
		if _, err := ParseBand(make([]byte, n)); !errors.Is(err, ErrPayload) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestButtonsThatAreWrongAreRefused(t *testing.T) {
	for _, payload := range [][]byte{nil, {1}, {1, 2}, {1, 1, 1}} {
		if _, err := ParseButton(payload); !errors.Is(err, ErrPayload) {
			t.Errorf("%v: %v", payload, err)
		}
	}
}

func FuzzScanner(f *testing.F) {
	f.Add(stream(samplePackets()...))
	f.Add([]byte(magic + "\x03\x00\x05hello"))
	f.Add([]byte(magic + magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewScanner(bytes.NewReader(b), MaxPayload)
		used := 0
		for _, p := range all(t, s) {
			used += headerSize + len(p.Payload) + crcSize
			if len(p.Payload) > MaxPayload {
				t.Fatalf("payload of %d bytes", len(p.Payload))
			}
			switch p.Kind {
			case BandKind:
				if band, err := ParseBand(p.Payload); err == nil && !bytes.Equal(band.Packet().Payload, p.Payload) {
					t.Fatal("a band is another after parsing")
				}
			case ButtonKind:
				if button, err := ParseButton(p.Payload); err == nil && !bytes.Equal(button.Packet().Payload, p.Payload) {
					t.Fatal("a button is another after parsing")
				}
			}
		}
		if used+int(s.Skipped()) > len(b) || len(b)-used-int(s.Skipped()) >= headerSize {
			t.Fatalf("%d bytes, %d used, %d skipped", len(b), used, s.Skipped())
		}
	})
}
