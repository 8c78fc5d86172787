package attachment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Content types of the pictures that [Clean] knows.
const (
	JPEG = "image/jpeg"
	PNG  = "image/png"
)

// ErrPicture reports a picture that cannot be read, so that what it tells about
// its making cannot be taken out.
var ErrPicture = errors.New("not a picture that can be read")

// Picture is what [Clean] found out.
type Picture struct {
	Type          string // [JPEG], [PNG], or empty for a file that is neither
	Width, Height uint32 // pixels, as it is to be shown
	Orientation   int    // 1 to 8 as in Exif: how it is to be turned to be shown
}

// Clean takes out of a JPEG or PNG file whatever is not needed to show it: where,
// when and with what it was taken, comments, thumbnails, further pictures, and all
// that stands behind its end. The picture itself is not encoded anew. How it has
// to be turned is kept, as the only field of an Exif block, and so are colour
// profiles. A file that begins as neither of the two is returned as it is. The
// error is [ErrPicture].
func Clean(file []byte) ([]byte, Picture, error) {
	switch {
	case bytes.HasPrefix(file, []byte("\xff\xd8")):
		return cleanJPEG(file)
	case bytes.HasPrefix(file, []byte(pngMagic)):
		return cleanPNG(file)
	}
	return file, Picture{}, nil
}

// turned swaps the sides of a picture that lies on its side.
func (p Picture) turned() Picture {
	if p.Orientation >= 5 {
		p.Width, p.Height = p.Height, p.Width
	}
	return p
}

// Markers of JPEG (ITU-T T.81, table B.1).
const (
	markerSOI  = 0xd8
	markerEOI  = 0xd9
	markerSOS  = 0xda
	markerDHT  = 0xc4
	markerJPG  = 0xc8
	markerDAC  = 0xcc
	markerAPP0 = 0xe0
)

const (
	exifHead  = "Exif\x00\x00"
	iccHead   = "ICC_PROFILE\x00"
	jfifHead  = "JFIF\x00"
	adobeHead = "Adobe"
	jfifSize  = 14 // without the thumbnail
	adobeSize = 12
)

func cleanJPEG(file []byte) ([]byte, Picture, error) {
	p := Picture{Type: JPEG, Orientation: 1}
	bad := func(what string) ([]byte, Picture, error) {
		return nil, Picture{}, fmt.Errorf("%w: JPEG with %s", ErrPicture, what)
	}
	var head, rest []byte // what must come first, and all the rest
	for at, ended := 2, false; !ended; {
		for at < len(file) && file[at] != 0xff {
			return bad("something between its segments")
		}
		for at < len(file) && file[at] == 0xff {
			at++ // a marker may have several of them in front
		}
		if at >= len(file) {
			return bad("no end")
		}
		marker := file[at]
		at++
		switch {
		case marker == markerEOI:
			ended = true
			continue
		case marker == 0 || marker == 1 || marker >= 0xd0 && marker <= markerSOI:
			return bad("a marker out of place")
		}
		if len(file)-at < 2 {
			return bad("no end")
		}
		size := int(binary.BigEndian.Uint16(file[at:]))
		if size < 2 || size > len(file)-at {
			return bad("a segment of a wrong size")
		}
		body := file[at+2 : at+size]
		at += size
		switch {
		case marker == markerAPP0 && bytes.HasPrefix(body, []byte(jfifHead)) && len(body) >= jfifSize && head == nil:
			jfif := bytes.Clone(body[:jfifSize])
			jfif[12], jfif[13] = 0, 0 // the size of the thumbnail
			head = appendSegment(head, marker, jfif)
		case marker == markerAPP0+1 && bytes.HasPrefix(body, []byte(exifHead)):
			p.Orientation = orientation(body[len(exifHead):])
		case marker == markerAPP0+2 && bytes.HasPrefix(body, []byte(iccHead)):
			rest = appendSegment(rest, marker, body)
		case marker == markerAPP0+14 && bytes.HasPrefix(body, []byte(adobeHead)) && len(body) >= adobeSize:
			rest = appendSegment(rest, marker, body[:adobeSize])
		case marker >= markerAPP0: // the other APPn, COM, and what nobody uses
		default:
			if marker >= 0xc0 && marker <= 0xcf && marker != markerDHT && marker != markerJPG && marker != markerDAC && p.Width == 0 {
				if len(body) < 6 {
					return bad("a wrong frame")
				}
				p.Height, p.Width = uint32(binary.BigEndian.Uint16(body[1:])), uint32(binary.BigEndian.Uint16(body[3:]))
			}
			rest = appendSegment(rest, marker, body)
			if marker == markerSOS {
				from := at
				for ; at+1 < len(file); at++ {
					// A zero or a restart marker belongs to the scan.
					if next := file[at+1]; file[at] == 0xff && next != 0 && (next < 0xd0 || next > 0xd7) {
						break
					}
				}
				if at+1 >= len(file) {
					return bad("no end")
				}
				rest = append(rest, file[from:at]...)
			}
		}
	}
	if p.Width == 0 || p.Height == 0 {
		return bad("no size")
	}
	out := append(make([]byte, 0, len(head)+len(rest)+64), 0xff, markerSOI)
	out = append(out, head...)
	if p.Orientation != 1 {
		out = appendSegment(out, markerAPP0+1, append([]byte(exifHead), onlyOrientation(p.Orientation)...))
	}
	out = append(append(out, rest...), 0xff, markerEOI)
	return out, p.turned(), nil
}

func appendSegment(b []byte, marker byte, body []byte) []byte {
	b = append(b, 0xff, marker)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)+2))
	return append(b, body...)
}

const (
	tagOrientation = 0x0112
	typeShort      = 3
)

// orientation reads the one field of a TIFF block that is needed to show a
// picture. A block that is damaged says nothing.
func orientation(tiff []byte) int {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(tiff, []byte("II*\x00")):
		order = binary.LittleEndian
	case bytes.HasPrefix(tiff, []byte("MM\x00*")):
		order = binary.BigEndian
	default:
		return 1
	}
	if len(tiff) < 8 {
		return 1
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return 1
	}
	fields := tiff[at+2:]
	for n := order.Uint16(tiff[at:]); n > 0 && len(fields) >= 12; n-- {
		if order.Uint16(fields) == tagOrientation {
			if v := int(order.Uint16(fields[8:])); order.Uint16(fields[2:]) == typeShort && v >= 1 && v <= 8 {
				return v
			}
			return 1
		}
		fields = fields[12:]
	}
	return 1
}

// onlyOrientation is a TIFF block with this one field.
func onlyOrientation(o int) []byte {
	b := []byte("MM\x00*\x00\x00\x00\x08\x00\x01")
	b = binary.BigEndian.AppendUint16(b, tagOrientation)
	b = binary.BigEndian.AppendUint16(b, typeShort)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(o))
	return append(b, 0, 0, 0, 0, 0, 0)
}

const pngMagic = "\x89PNG\r\n\x1a\n"

// pngKept are the chunks that say how a picture looks, those of animations
// included (PNG specification, third edition).
var pngKept = map[string]bool{
	"IHDR": true, "PLTE": true, "IDAT": true, "tRNS": true,
	"cHRM": true, "gAMA": true, "iCCP": true, "sBIT": true, "sRGB": true, "cICP": true, "bKGD": true,
	"acTL": true, "fcTL": true, "fdAT": true,
}

func cleanPNG(file []byte) ([]byte, Picture, error) {
	p := Picture{Type: PNG, Orientation: 1}
	bad := func(what string) ([]byte, Picture, error) {
		return nil, Picture{}, fmt.Errorf("%w: PNG with %s", ErrPicture, what)
	}
	out := append(make([]byte, 0, len(file)+64), pngMagic...)
	left := file[len(pngMagic):]
	afterHead := 0
	for {
		if len(left) < 12 {
			return bad("no end")
		}
		size := int64(binary.BigEndian.Uint32(left))
		if size > int64(len(left))-12 {
			return bad("a chunk of a wrong size")
		}
		chunk := left[:12+size]
		left = left[12+size:]
		name, body := string(chunk[4:8]), chunk[8:8+size]
		if crc32.ChecksumIEEE(chunk[4:8+size]) != binary.BigEndian.Uint32(chunk[8+size:]) {
			return bad("a damaged chunk")
		}
		if (name == "IHDR") != (p.Width == 0) {
			return bad("its head out of place")
		}
		switch name {
		case "IHDR":
			if size < 8 {
				return bad("a wrong head")
			}
			p.Width, p.Height = binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
			if p.Width == 0 || p.Height == 0 {
				return bad("no size")
			}
			out = append(out, chunk...)
			afterHead = len(out)
		case "eXIf":
			p.Orientation = orientation(body)
		case "IEND":
			out = append(out, chunk...)
			if p.Orientation == 1 {
				return out, p, nil
			}
			// In front of the pixels, where every decoder looks for it.
			turn := appendChunk(nil, "eXIf", onlyOrientation(p.Orientation))
			out = append(out[:afterHead:afterHead], append(turn, out[afterHead:]...)...)
			return out, p.turned(), nil
		default:
			if pngKept[name] {
				out = append(out, chunk...)
			} else if name[0]&0x20 == 0 {
				return bad("an unknown chunk that it needs")
			}
		}
	}
}

func appendChunk(b []byte, name string, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	from := len(b)
	b = append(append(b, name...), body...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[from:]))
}
