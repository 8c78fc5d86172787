package attachment

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Content types of the pictures that [Clean] knows.
const (
	JPEG = "image/jpeg"
	PNG  = "image/png"
	GIF  = "image/gif"
	WebP = "image/webp"
)

// ErrPicture reports a picture that cannot be read, so that what it tells about
// its making cannot be taken out.
var ErrPicture = errors.New("not a picture that can be read")

// ErrPictureKind reports a kind of picture that [Clean] does not know how to clean,
// although it says as much about its making as others do. It wraps [ErrPicture].
var ErrPictureKind = fmt.Errorf("%w: pictures of this kind have to be converted to JPEG or PNG first", ErrPicture)

// Picture is what [Clean] found out.
type Picture struct {
	Type          string // [JPEG], [PNG], [GIF], [WebP], or empty for a file that is none of them
	Width, Height uint32 // pixels, as it is to be shown
	Orientation   int    // 1 to 8 as in Exif: how it is to be turned to be shown
}

// Clean takes out of a JPEG, PNG, GIF or WebP file whatever is not needed to show it:
// where, when and with what it was taken (Exif, XMP, IPTC), comments, texts,
// thumbnails, further pictures, and all that stands behind its end. The picture
// itself is not encoded anew, and animations stay. How it has to be turned is kept,
// as the only field of an Exif block; of colour profiles the colours are kept, see
// icc.go.
//
// HEIC, AVIF, TIFF, with it the raw pictures of cameras, and JPEG XL in its container
// are refused with [ErrPictureKind]: their descriptions are woven into what holds the
// picture. Any other file is returned as it is. The error is [ErrPicture].
func Clean(file []byte) ([]byte, Picture, error) {
	switch {
	case bytes.HasPrefix(file, []byte("\xff\xd8")):
		return cleanJPEG(file)
	case bytes.HasPrefix(file, []byte(pngMagic)):
		return cleanPNG(file)
	case bytes.HasPrefix(file, []byte("GIF87a")), bytes.HasPrefix(file, []byte("GIF89a")):
		return cleanGIF(file)
	case isWebP(file):
		return cleanWebP(file)
	case isOtherPicture(file):
		return nil, Picture{}, ErrPictureKind
	}
	return file, Picture{}, nil
}

// otherPictures are what the first four bytes behind "ftyp", or one of the brands
// that follow, are of still pictures in the container of MP4 (ISO 23008-12).
var otherPictures = []string{"heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1", "avif", "avis"}

func isOtherPicture(file []byte) bool {
	for _, magic := range []string{"II*\x00", "MM\x00*", "II+\x00", "MM\x00+", "IIRO", "IIU\x00", "\x00\x00\x00\x0cJXL "} {
		if bytes.HasPrefix(file, []byte(magic)) {
			return true
		}
	}
	if len(file) < 16 || string(file[4:8]) != "ftyp" {
		return false
	}
	size := min(int64(binary.BigEndian.Uint32(file)), int64(len(file)), 256)
	for at := int64(8); at+4 <= size; at += 4 {
		// The second number is a version.
		if at != 12 && slices.Contains(otherPictures, string(file[at:at+4])) {
			return true
		}
	}
	return false
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
	var profile [][]byte
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
		case marker == markerAPP0+2 && bytes.HasPrefix(body, []byte(iccHead)) && len(body) >= len(iccHead)+2:
			profile = append(profile, body[len(iccHead):])
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
	if icc := cleanICC(joinICC(profile)); icc != nil {
		out = appendICC(out, icc)
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
	"cHRM": true, "gAMA": true, "sBIT": true, "sRGB": true, "cICP": true, "bKGD": true,
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
		case "iCCP":
			if icc := cleanPNGProfile(body); icc != nil {
				out = appendChunk(out, "iCCP", icc)
			}
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

// maxICC is the largest colour profile that is unpacked, in bytes; those that carry
// tables for printers have a few megabytes.
const maxICC = 4 << 20

// cleanPNGProfile cleans the body of an iCCP chunk: a name, a zero, the method of
// packing, which is 0, and the packed profile. It is nil when there is no sense in it.
func cleanPNGProfile(body []byte) []byte {
	_, packed, ok := bytes.Cut(body, []byte{0})
	if !ok || len(packed) == 0 || packed[0] != 0 {
		return nil
	}
	r, err := zlib.NewReader(bytes.NewReader(packed[1:]))
	if err != nil {
		return nil
	}
	profile, err := io.ReadAll(io.LimitReader(r, maxICC+1))
	if err != nil || len(profile) > maxICC {
		return nil
	}
	if profile = cleanICC(profile); profile == nil {
		return nil
	}
	out := bytes.NewBuffer([]byte("colours\x00\x00"))
	w := zlib.NewWriter(out)
	w.Write(profile) // into memory, where nothing fails
	w.Close()
	return out.Bytes()
}

func appendChunk(b []byte, name string, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	from := len(b)
	b = append(append(b, name...), body...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[from:]))
}
