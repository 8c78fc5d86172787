package attachment

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// A colour profile tells more than colours: when and by which program it was made,
// for which make and model, and, if it was made for one display, that display's name
// or serial number. What is needed to show the picture is a handful of its tags (ICC
// specification ICC.1, 8 and 9).

// iccKept are the tags that say how numbers become colours.
var iccKept = []string{
	"rXYZ", "gXYZ", "bXYZ", "rTRC", "gTRC", "bTRC", "kTRC", "wtpt", "bkpt", "chad", "chrm", "lumi", "cicp",
	"A2B0", "A2B1", "A2B2", "B2A0", "B2A1", "B2A2", "D2B0", "D2B1", "D2B2", "B2D0", "B2D1", "B2D2",
}

const (
	iccHeader  = 128
	iccMaxTags = 100
)

// cleanICC makes a profile of the same colours that tells nothing else. The result
// is nil for a profile that makes no sense, which is as well left out.
func cleanICC(profile []byte) []byte {
	if len(profile) < iccHeader+4 || string(profile[36:40]) != "acsp" {
		return nil
	}
	head := make([]byte, iccHeader)
	copy(head[8:10], profile[8:10])   // version
	copy(head[12:24], profile[12:24]) // class, colour space, connection space
	// A date there has to be.
	copy(head[24:36], []byte{0x07, 0xd0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0}) // 1 January 2000
	copy(head[36:40], "acsp")
	head[67] = profile[67] & 3 // rendering intent
	// The white point of the connection space, which is the same in all profiles.
	copy(head[68:80], []byte{0, 0, 0xf6, 0xd6, 0, 1, 0, 0, 0, 0, 0xd3, 0x2d})
	n := binary.BigEndian.Uint32(profile[iccHeader:])
	if n > iccMaxTags || int64(len(profile)) < iccHeader+4+12*int64(n) {
		return nil
	}
	type tag struct {
		name string
		body []byte
	}
	var tags []tag
	for entry := profile[iccHeader+4:]; n > 0; n, entry = n-1, entry[12:] {
		name := string(entry[:4])
		from, size := int64(binary.BigEndian.Uint32(entry[4:])), int64(binary.BigEndian.Uint32(entry[8:]))
		if from+size > int64(len(profile)) || size < 8 {
			return nil
		}
		if slices.ContainsFunc(tags, func(t tag) bool { return t.name == name }) {
			continue
		}
		switch {
		case slices.Contains(iccKept, name):
			tags = append(tags, tag{name, profile[from : from+size]})
		case name == "desc": // which there has to be as well
			tags = append(tags, tag{name, iccText(head[8], "desc", "colours")})
		case name == "cprt":
			tags = append(tags, tag{name, iccText(head[8], "text", "none")})
		}
	}
	if len(tags) == 0 {
		return nil
	}
	table := binary.BigEndian.AppendUint32(nil, uint32(len(tags)))
	var data []byte
	first := iccHeader + 4 + 12*len(tags)
	at := make(map[string]int) // equal bodies are there once, as in most profiles
	for _, t := range tags {
		place, ok := at[string(t.body)]
		if !ok {
			place = first + len(data)
			at[string(t.body)] = place
			data = append(data, t.body...)
			for len(data)%4 != 0 {
				data = append(data, 0)
			}
		}
		table = append(table, t.name...)
		table = binary.BigEndian.AppendUint32(table, uint32(place))
		table = binary.BigEndian.AppendUint32(table, uint32(len(t.body)))
	}
	clean := slices.Concat(head, table, data)
	binary.BigEndian.PutUint32(clean, uint32(len(clean)))
	return clean
}

// iccText is a text tag: of version 4 all are of one type, before that of two.
func iccText(version byte, old, text string) []byte {
	b := []byte(old + "\x00\x00\x00\x00")
	switch {
	case version >= 4:
		b = append([]byte("mluc\x00\x00\x00\x00"), 0, 0, 0, 1, 0, 0, 0, 12)
		b = append(b, "enUS"...)
		b = binary.BigEndian.AppendUint32(b, uint32(2*len(text)))
		b = binary.BigEndian.AppendUint32(b, 28)
		for _, c := range []byte(text) {
			b = append(b, 0, c)
		}
	case old == "desc":
		b = binary.BigEndian.AppendUint32(b, uint32(len(text)+1))
		b = append(append(b, text...), 0)
		b = append(b, make([]byte, 4+4+2+1+67)...) // the same in Unicode and for old Macs: none
	default:
		b = append(append(b, text...), 0)
	}
	return b
}

// joinICC puts the segments of a JPEG's profile together, which are numbered from 1.
// Of an incomplete one there is none.
func joinICC(segments [][]byte) []byte {
	sorted := slices.SortedFunc(slices.Values(segments), func(a, b []byte) int { return int(a[0]) - int(b[0]) })
	var profile []byte
	for i, s := range sorted {
		if int(s[0]) != i+1 || int(s[1]) != len(sorted) {
			return nil
		}
		profile = append(profile, s[2:]...)
	}
	return profile
}

// appendICC writes a profile as segments of a JPEG.
func appendICC(b []byte, profile []byte) []byte {
	const most = 65_533 - len(iccHead) - 2
	parts := slices.Collect(slices.Chunk(profile, most))
	for i, part := range parts {
		b = appendSegment(b, markerAPP0+2, bytes.Join([][]byte{[]byte(iccHead), {byte(i + 1), byte(len(parts))}, part}, nil))
	}
	return b
}
