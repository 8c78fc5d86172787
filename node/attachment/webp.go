package attachment

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Flags of the chunk VP8X (WebP container specification).
const (
	webpAnimated = 0x02
	webpXMP      = 0x04
	webpExif     = 0x08
	webpAlpha    = 0x10
	webpICC      = 0x20
)

func isWebP(file []byte) bool {
	return len(file) >= 12 && string(file[:4]) == "RIFF" && string(file[8:12]) == "WEBP"
}

// cleanWebP keeps the chunks that are the picture, in their order, and makes the one
// in front that describes it anew.
func cleanWebP(file []byte) ([]byte, Picture, error) {
	p := Picture{Type: WebP, Orientation: 1}
	bad := func(what string) ([]byte, Picture, error) {
		return nil, Picture{}, fmt.Errorf("%w: WebP with %s", ErrPicture, what)
	}
	size := int64(binary.LittleEndian.Uint32(file[4:])) + 8
	if size < 12 || size > int64(len(file)) {
		return bad("a wrong size")
	}
	var flags byte
	var extended, picture bool
	var profile []byte
	var body []byte // the chunks behind the first
	left := file[12:size]
	for len(left) > 0 {
		name, content, rest, ok := webpChunk(left)
		if !ok {
			return bad("a chunk of a wrong size")
		}
		first := len(left) == int(size)-12
		left = rest
		switch name {
		case "VP8X":
			if !first || len(content) < 10 {
				return bad("its head out of place")
			}
			extended, flags = true, content[0]
			p.Width, p.Height = uint24(content[4:])+1, uint24(content[7:])+1
		case "ICCP":
			profile = cleanICC(content)
		case "EXIF":
			p.Orientation = orientation(bytes.TrimPrefix(content, []byte(exifHead)))
		case "ANIM":
			body = appendRIFF(body, name, content)
		case "ANMF":
			frame, ok := cleanFrame(content, p)
			if !ok {
				return bad("a wrong picture of its animation")
			}
			picture = true
			body = appendRIFF(body, name, frame)
		case "ALPH":
			body = appendRIFF(body, name, content)
		case "VP8 ", "VP8L":
			w, h, ok := webpSize(name, content)
			if !ok || picture || extended && (w != p.Width || h != p.Height) {
				return bad("a wrong picture")
			}
			p.Width, p.Height, picture = w, h, true
			body = appendRIFF(body, name, content)
		default: // XMP, and whatever else programs put there
		}
	}
	if !picture {
		return bad("no picture")
	}
	if !extended {
		// What is in it besides has no effect without the head.
		profile, p.Orientation = nil, 1
	}
	var chunks []byte
	if extended {
		flags &= webpAnimated | webpAlpha
		if profile != nil {
			flags |= webpICC
		}
		if p.Orientation != 1 {
			flags |= webpExif
		}
		head := []byte{flags, 0, 0, 0}
		head = appendUint24(appendUint24(head, p.Width-1), p.Height-1)
		chunks = appendRIFF(chunks, "VP8X", head)
		if profile != nil {
			chunks = appendRIFF(chunks, "ICCP", profile)
		}
	}
	chunks = append(chunks, body...)
	if p.Orientation != 1 {
		chunks = appendRIFF(chunks, "EXIF", onlyOrientation(p.Orientation))
	}
	out := append(make([]byte, 0, len(chunks)+12), "RIFF"...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(chunks)+4))
	out = append(append(out, "WEBP"...), chunks...)
	return out, p.turned(), nil
}

// cleanFrame keeps one picture of an animation, which lies within the whole.
func cleanFrame(frame []byte, whole Picture) ([]byte, bool) {
	const head = 16
	if len(frame) < head {
		return nil, false
	}
	w, h := uint24(frame[6:])+1, uint24(frame[9:])+1
	if 2*uint64(uint24(frame))+uint64(w) > uint64(whole.Width) || 2*uint64(uint24(frame[3:]))+uint64(h) > uint64(whole.Height) {
		return nil, false
	}
	out := bytes.Clone(frame[:head])
	picture := false
	for left := frame[head:]; len(left) > 0; {
		name, content, rest, ok := webpChunk(left)
		if !ok {
			return nil, false
		}
		left = rest
		switch name {
		case "ALPH":
			out = appendRIFF(out, name, content)
		case "VP8 ", "VP8L":
			fw, fh, ok := webpSize(name, content)
			if !ok || picture || fw != w || fh != h {
				return nil, false
			}
			picture = true
			out = appendRIFF(out, name, content)
		}
	}
	return out, picture
}

// webpSize reads the size of a picture from its own first bytes (RFC 6386, 9.1, and
// the WebP lossless specification), for that is what decoders go by.
func webpSize(name string, b []byte) (w, h uint32, ok bool) {
	if name == "VP8L" {
		if len(b) < 5 || b[0] != 0x2f {
			return 0, 0, false
		}
		bits := binary.LittleEndian.Uint32(b[1:])
		return bits&0x3fff + 1, bits>>14&0x3fff + 1, true
	}
	if len(b) < 10 || !bytes.Equal(b[3:6], []byte{0x9d, 0x01, 0x2a}) {
		return 0, 0, false
	}
	w, h = uint32(binary.LittleEndian.Uint16(b[6:]))&0x3fff, uint32(binary.LittleEndian.Uint16(b[8:]))&0x3fff
	return w, h, w > 0 && h > 0
}

// webpChunk takes the first chunk off. The byte that fills up the last one may be
// missing.
func webpChunk(b []byte) (name string, content, rest []byte, ok bool) {
	if len(b) < 8 {
		return "", nil, nil, false
	}
	size := int64(binary.LittleEndian.Uint32(b[4:]))
	if size > int64(len(b))-8 {
		return "", nil, nil, false
	}
	name, content, rest = string(b[:4]), b[8:8+size], b[8+size:]
	if size%2 == 1 && len(rest) > 0 {
		rest = rest[1:]
	}
	return name, content, rest, true
}

func appendRIFF(b []byte, name string, content []byte) []byte {
	b = append(b, name...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
	b = append(b, content...)
	if len(content)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func uint24(b []byte) uint32 { return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 }

func appendUint24(b []byte, v uint32) []byte { return append(b, byte(v), byte(v>>8), byte(v>>16)) }
