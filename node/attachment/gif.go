package attachment

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Blocks and extensions of GIF (GIF89a specification).
const (
	gifExtension   = 0x21
	gifImage       = 0x2c
	gifTrailer     = 0x3b
	gifControl     = 0xf9 // how long a picture is shown, and what is transparent
	gifApplication = 0xff
)

// gifLoops are the application extensions that say how often an animation is shown;
// all others carry what programs like to keep, XMP among it.
var gifLoops = map[string]bool{"NETSCAPE2.0": true, "ANIMEXTS1.0": true}

func cleanGIF(file []byte) ([]byte, Picture, error) {
	p := Picture{Type: GIF, Orientation: 1}
	bad := func(what string) ([]byte, Picture, error) {
		return nil, Picture{}, fmt.Errorf("%w: GIF with %s", ErrPicture, what)
	}
	if len(file) < 13 {
		return bad("no end")
	}
	p.Width, p.Height = uint32(binary.LittleEndian.Uint16(file[6:])), uint32(binary.LittleEndian.Uint16(file[8:]))
	if p.Width == 0 || p.Height == 0 {
		return bad("no size")
	}
	at := 13 + colours(file[10])
	if at > len(file) {
		return bad("no end")
	}
	out := append(make([]byte, 0, len(file)+1), file[:at]...)
	images := 0
	for {
		if at >= len(file) {
			if images == 0 {
				return bad("no picture")
			}
			// Many have no mark at their end, and every decoder shows them.
			return append(out, gifTrailer), p, nil
		}
		from := at
		switch file[at] {
		case gifTrailer:
			if images == 0 {
				return bad("no picture")
			}
			return append(out, gifTrailer), p, nil
		case gifImage:
			if len(file)-at < 11 {
				return bad("no end")
			}
			at += 10 + colours(file[at+9]) + 1 // and the size of a code
			if at > len(file) {
				return bad("no end")
			}
			end, ok := subBlocks(file, at)
			if !ok {
				return bad("no end")
			}
			at = end
			images++
			out = append(out, file[from:at]...)
		case gifExtension:
			if len(file)-at < 3 {
				return bad("no end")
			}
			label := file[at+1]
			end, ok := subBlocks(file, at+2)
			if !ok {
				return bad("no end")
			}
			at = end
			switch body := file[from+2 : end]; {
			case label == gifControl && len(body) == 6 && body[0] == 4:
				out = append(out, file[from:end]...)
			case label == gifApplication && len(body) >= 16 && body[0] == 11 && gifLoops[string(body[1:12])] && bytes.HasPrefix(body[12:], []byte{3, 1}):
				out = append(append(out, file[from:from+2+16]...), 0)
			}
		default:
			return bad("a block that is none")
		}
	}
}

// colours is the size in bytes of the table that flags announce.
func colours(flags byte) int {
	if flags&0x80 == 0 {
		return 0
	}
	return 3 << (flags&7 + 1)
}

// subBlocks goes over blocks with their length in front, up to the empty one.
func subBlocks(file []byte, at int) (end int, ok bool) {
	for at < len(file) {
		n := int(file[at])
		at += 1 + n
		if n == 0 {
			return at, true
		}
	}
	return 0, false
}
