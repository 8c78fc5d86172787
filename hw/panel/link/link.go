// Package link is what a virtual panel and its viewer say to each other over a
// byte stream that may lose its beginning, such as a virtio serial port.
//
// Write with Packet.Append, read with a Scanner, which skips whatever is not a
// packet. The viewer says Hello to get the whole picture; the panel answers
// with Band packets, horizontal pieces of the changed rectangle, the last of
// which is marked; from then on only changes come. Button packets go to the
// panel.
//
//	offset  size
//	0       4     magic 48 50 C5 6E
//	4       1     kind
//	5       2     length of the payload, big-endian, at most 8,192
//	7       n     payload
//	7+n     4     CRC-32 (IEEE) of kind, length and payload, big-endian
package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"io"
)

// Kind says what a packet is.
type Kind byte

// The kinds of packets.
const (
	Hello      Kind = 1 // viewer to panel: send the whole picture; no payload
	ButtonKind Kind = 2 // viewer to panel: Button
	BandKind   Kind = 3 // panel to viewer: Band
)

const (
	magic      = "\x48\x50\xc5\x6e"
	headerSize = 7
	crcSize    = 4

	// MaxPayload bounds what a garbled length can make a reader wait for.
	MaxPayload = 8192
	// MaxSide is the largest width and height of a panel in pixels.
	MaxSide = 1024
)

// ErrPayload is the error of a payload that is not what its kind promises.
var ErrPayload = errors.New("malformed panel packet")

// Packet is one unit on the line.
type Packet struct {
	Kind    Kind
	Payload []byte
}

// Append appends the packet as it goes over the line. It panics when the
// payload is longer than MaxPayload, which no packet of this package is.
func (p Packet) Append(b []byte) []byte {
	if len(p.Payload) > MaxPayload {
		panic("panel packet too long")
	}
	b = append(b, magic...)
	start := len(b)
	b = append(b, byte(p.Kind))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Payload)))
	b = append(b, p.Payload...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
}

// Scanner finds the packets in a stream.
type Scanner struct {
	r          *bufio.Reader
	maxPayload int
	skipped    uint64
}

// NewScanner reads packets from r and takes anything with a longer payload
// than maxPayload for garbage: a receiver of short packets is then never kept
// waiting by a garbled length.
func NewScanner(r io.Reader, maxPayload int) *Scanner {
	maxPayload = min(maxPayload, MaxPayload)
	return &Scanner{r: bufio.NewReaderSize(r, headerSize+maxPayload+crcSize), maxPayload: maxPayload}
}

// Skipped counts the bytes that belonged to no packet.
func (s *Scanner) Skipped() uint64 { return s.skipped }

// Next gives the next whole packet. Its payload is the caller's to keep. The
// only errors are those of the stream; what is left of a packet at the end of
// the stream is dropped.
func (s *Scanner) Next() (Packet, error) {
	for {
		header, err := s.r.Peek(headerSize)
		if err != nil {
			return Packet{}, err
		}
		n := int(binary.BigEndian.Uint16(header[5:]))
		if string(header[:4]) != magic || n > s.maxPayload {
			s.skip()
			continue
		}
		whole, err := s.r.Peek(headerSize + n + crcSize)
		if err != nil {
			// A garbled length must not hide the packets after it.
			if err == io.EOF {
				s.skip()
				continue
			}
			return Packet{}, err
		}
		body := whole[len(magic) : headerSize+n]
		if crc32.ChecksumIEEE(body) != binary.BigEndian.Uint32(whole[headerSize+n:]) {
			s.skip()
			continue
		}
		p := Packet{Kind: Kind(body[0]), Payload: append([]byte(nil), body[3:]...)}
		s.discard(len(whole))
		return p, nil
	}
}

func (s *Scanner) skip() {
	s.skipped++
	s.discard(1)
}

func (s *Scanner) discard(n int) {
	if _, err := s.r.Discard(n); err != nil {
		panic("panel packet: bytes that were seen are gone") // Peek has just returned them
	}
}

// Button is a change of one button.
type Button struct {
	Number  byte // as package panel numbers them
	Pressed bool
}

// ButtonSize is the size of a Button's payload in bytes, the longest that a
// panel receives.
const ButtonSize = 2

// Packet gives the button as a packet.
func (b Button) Packet() Packet {
	p := []byte{b.Number, 0}
	if b.Pressed {
		p[1] = 1
	}
	return Packet{ButtonKind, p}
}

// ParseButton reads the payload of a ButtonKind packet. Errors are ErrPayload.
func ParseButton(payload []byte) (Button, error) {
	if len(payload) != ButtonSize || payload[1] > 1 {
		return Button{}, fmt.Errorf("button of %d bytes: %w", len(payload), ErrPayload)
	}
	return Button{Number: payload[0], Pressed: payload[1] == 1}, nil
}

// Band is a piece of a picture.
type Band struct {
	// Number counts the bands of a connection, so that the viewer notices a
	// missing one and says Hello again.
	Number uint32
	// Last marks the band that completes a change. Until it has come, the
	// picture is half old and half new.
	Last bool
	// Panel is the size of the whole screen in pixels.
	Panel image.Point
	// Rect is what the band covers, within the panel.
	Rect image.Rectangle
	// Pixels are RGB565, big-endian, row by row: two bytes for each pixel.
	Pixels []byte
}

const bandHeader = 4 + 1 + 6*2

// MaxBandPixels is how many pixels fit in one band.
const MaxBandPixels = (MaxPayload - bandHeader) / 2

// Packet gives the band as a packet.
func (b Band) Packet() Packet {
	p := make([]byte, 0, bandHeader+len(b.Pixels))
	p = binary.BigEndian.AppendUint32(p, b.Number)
	if b.Last {
		p = append(p, 1)
	} else {
		p = append(p, 0)
	}
	for _, v := range [...]int{b.Panel.X, b.Panel.Y, b.Rect.Min.X, b.Rect.Min.Y, b.Rect.Dx(), b.Rect.Dy()} {
		p = binary.BigEndian.AppendUint16(p, uint16(v))
	}
	return Packet{BandKind, append(p, b.Pixels...)}
}

// ParseBand reads the payload of a BandKind packet. The pixels share the
// payload's memory. Errors are ErrPayload.
func ParseBand(payload []byte) (Band, error) {
	if len(payload) < bandHeader {
		return Band{}, fmt.Errorf("band of %d bytes: %w", len(payload), ErrPayload)
	}
	var v [6]int
	for i := range v {
		v[i] = int(binary.BigEndian.Uint16(payload[5+2*i:]))
	}
	b := Band{
		Number: binary.BigEndian.Uint32(payload),
		Last:   payload[4] == 1,
		Panel:  image.Pt(v[0], v[1]),
		Rect:   image.Rect(v[2], v[3], v[2]+v[4], v[3]+v[5]),
		Pixels: payload[bandHeader:],
	}
	screen := image.Rectangle{Max: b.Panel}
	switch {
	case payload[4] > 1,
		b.Panel.X > MaxSide || b.Panel.Y > MaxSide,
		b.Rect.Empty() || !b.Rect.In(screen),
		len(b.Pixels) != 2*b.Rect.Dx()*b.Rect.Dy():
		return Band{}, fmt.Errorf("band %v of a panel of %v with %d bytes: %w", b.Rect, b.Panel, len(b.Pixels), ErrPayload)
	}
	return b, nil
}
