package attachment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"testing"
)

// quarters is a picture whose upper left quarter is red, the rest is blue.
func quarters(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			c := color.RGBA{B: 255, A: 255}
			if x < w/2 && y < h/2 {
				c = color.RGBA{R: 255, A: 255}
			}
			m.SetRGBA(x, y, c)
		}
	}
	return m
}

func smallJPEG(t testing.TB) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, quarters(48, 32), &jpeg.Options{Quality: 95}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func smallPNG(t testing.TB) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, quarters(48, 32)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// exif is a TIFF block with a maker's name, and the orientation after it.
func exif(order binary.AppendByteOrder, o int) []byte {
	b := []byte("II*\x00")
	if order == binary.AppendByteOrder(binary.BigEndian) {
		b = []byte("MM\x00*")
	}
	b = order.AppendUint32(b, 8)
	b = order.AppendUint16(b, 2)
	b = order.AppendUint16(b, 0x010f) // Make
	b = order.AppendUint16(b, 2)
	b = order.AppendUint32(b, 6)
	b = order.AppendUint32(b, 38)
	b = order.AppendUint16(b, tagOrientation)
	b = order.AppendUint16(b, typeShort)
	b = order.AppendUint32(b, 1)
	b = order.AppendUint16(b, uint16(o))
	b = order.AppendUint16(b, 0)
	b = order.AppendUint32(b, 0)
	return append(b, "secret"...)
}

// withSegments puts segments behind the start of a JPEG.
func withSegments(file []byte, segments ...[]byte) []byte {
	out := bytes.Clone(file[:2])
	for _, s := range segments {
		out = append(out, s...)
	}
	return append(out, file[2:]...)
}

func segment(marker byte, body string) []byte { return appendSegment(nil, marker, []byte(body)) }

// withChunks puts chunks behind the head of a PNG.
func withChunks(file []byte, chunks ...[]byte) []byte {
	const head = len(pngMagic) + 12 + 13
	out := bytes.Clone(file[:head])
	for _, c := range chunks {
		out = append(out, c...)
	}
	return append(out, file[head:]...)
}

func chunk(name, body string) []byte { return appendChunk(nil, name, []byte(body)) }

func TestClean(t *testing.T) {
	j, p := smallJPEG(t), smallPNG(t)
	jfif := segment(0xe0, "JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x01\x02secret")
	for _, c := range []struct {
		name        string
		file        []byte
		want        string
		orientation int
		width       uint32
		keeps       string
	}{
		{"a JPEG without anything", j, JPEG, 1, 48, ""},
		{"Exif goes", withSegments(j, segment(0xe1, exifHead+string(exif(binary.LittleEndian, 1)))), JPEG, 1, 48, ""},
		{"of Exif its orientation stays, turned right", withSegments(j, segment(0xe1, exifHead+string(exif(binary.LittleEndian, 6)))), JPEG, 6, 32, exifHead},
		{"of Exif its orientation stays, upside down, big endian", withSegments(j, segment(0xe1, exifHead+string(exif(binary.BigEndian, 3)))), JPEG, 3, 48, exifHead},
		{"an orientation of 9 is none", withSegments(j, segment(0xe1, exifHead+string(exif(binary.BigEndian, 9)))), JPEG, 1, 48, ""},
		{"XMP, Photoshop data, further pictures and comments go", withSegments(j, segment(0xe1, "http://ns.adobe.com/xap/1.0/\x00secret"),
			segment(0xed, "Photoshop 3.0\x00secret"), segment(0xe2, "MPF\x00secret"), segment(0xfe, "secret")), JPEG, 1, 48, ""},
		{"the thumbnail of JFIF goes, JFIF stays", withSegments(j, jfif), JPEG, 1, 48, jfifHead},
		{"of a colour profile the colours stay", withSegments(j, segment(0xe2, iccHead+"\x01\x01"+string(profile(2)))), JPEG, 1, 48, "red.red.red."},
		{"what is behind the end goes", append(bytes.Clone(j), "secret film"...), JPEG, 1, 48, ""},
		{"a PNG without anything", p, PNG, 1, 48, ""},
		{"texts, times and private chunks go", withChunks(p, chunk("tEXt", "Author\x00secret"), chunk("iTXt", "secret"), chunk("zTXt", "secret"),
			chunk("tIME", "secret!"), chunk("prVt", "secret")), PNG, 1, 48, ""},
		{"Exif goes from a PNG", withChunks(p, appendChunk(nil, "eXIf", exif(binary.BigEndian, 1))), PNG, 1, 48, ""},
		{"of Exif in a PNG its orientation stays", withChunks(p, appendChunk(nil, "eXIf", exif(binary.LittleEndian, 8))), PNG, 8, 32, "eXIf"},
		{"gamma stays", withChunks(p, chunk("gAMA", "\x00\x00\xb1\x8f")), PNG, 1, 48, "gAMA"},
		{"what is behind the end of a PNG goes", append(bytes.Clone(p), "secret"...), PNG, 1, 48, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, pic, err := Clean(c.file)
			if err != nil {
				t.Fatal(err)
			}
			if pic.Type != c.want || pic.Orientation != c.orientation || pic.Width != c.width || pic.Height != 80-c.width {
				t.Errorf("%+v", pic)
			}
			if bytes.Contains(got, []byte("secret")) || !bytes.Contains(got, []byte(c.keeps)) {
				t.Errorf("%q is left", got)
			}
			a, _, err := image.Decode(bytes.NewReader(c.file))
			if err != nil {
				t.Fatal(err)
			}
			b, _, err := image.Decode(bytes.NewReader(got))
			if err != nil {
				t.Fatal(err)
			}
			for y := range 32 {
				for x := range 48 {
					if a.At(x, y) != b.At(x, y) {
						t.Fatalf("another pixel at %d, %d", x, y)
					}
				}
			}
			again, _, err := Clean(got)
			if err != nil || !bytes.Equal(again, got) {
				t.Errorf("cleaned twice it is another file, %v", err)
			}
		})
	}
	t.Run("another file stays as it is", func(t *testing.T) {
		if got, pic, err := Clean([]byte("BM secret")); err != nil || string(got) != "BM secret" || pic.Type != "" {
			t.Errorf("%q, %+v, %v", got, pic, err)
		}
	})
}

func TestCleanRefusesWhatItCannotRead(t *testing.T) {
	j, p := smallJPEG(t), smallPNG(t)
	damaged := bytes.Clone(p)
	damaged[len(damaged)-20]++
	for name, file := range map[string][]byte{
		"a JPEG cut short":           j[:len(j)-10],
		"a JPEG of nothing":          []byte("\xff\xd8\xff\xd9"),
		"a segment that is too long": withSegments(j, []byte{0xff, 0xe1, 0xff, 0xff}),
		"bytes between segments":     withSegments(j, []byte("secret")),
		"a PNG cut short":            p[:len(p)-1],
		"a damaged chunk":            damaged,
		"a PNG without a head":       append([]byte(pngMagic), chunk("IEND", "")...),
		"two heads":                  withChunks(p, p[len(pngMagic):len(pngMagic)+25]),
		"an unknown critical chunk":  withChunks(p, chunk("ABCD", "")),
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Clean(file); !errors.Is(err, ErrPicture) {
				t.Errorf("error %v", err)
			}
			if _, err := Preview(file); !errors.Is(err, ErrPicture) {
				t.Errorf("preview: error %v", err)
			}
		})
	}
}

func TestPreview(t *testing.T) {
	var big bytes.Buffer
	if err := jpeg.Encode(&big, quarters(1200, 600), nil); err != nil {
		t.Fatal(err)
	}
	// Where the red quarter is shown, by orientation: right, down.
	for o, want := range [][2]bool{1: {false, false}, 2: {true, false}, 3: {true, true}, 4: {false, true},
		5: {false, false}, 6: {true, false}, 7: {true, true}, 8: {false, true}} {
		if o == 0 {
			continue
		}
		file := withSegments(big.Bytes(), segment(0xe1, exifHead+string(exif(binary.LittleEndian, o))))
		got, err := Preview(file)
		if err != nil {
			t.Fatal(err)
		}
		m, err := jpeg.Decode(bytes.NewReader(got))
		if err != nil {
			t.Fatal(err)
		}
		w, h := m.Bounds().Dx(), m.Bounds().Dy()
		if o < 5 && (w != 240 || h != 120) || o >= 5 && (w != 120 || h != 240) {
			t.Errorf("orientation %d: %d × %d", o, w, h)
		}
		for _, right := range []bool{false, true} {
			for _, down := range []bool{false, true} {
				x, y := w/4, h/4
				if right {
					x += w / 2
				}
				if down {
					y += h / 2
				}
				r, _, b, _ := m.At(x, y).RGBA()
				if red := r > b; red != (want == [2]bool{right, down}) {
					t.Errorf("orientation %d: red %v at %d, %d", o, red, x, y)
				}
			}
		}
	}
	t.Run("a small picture stays small, and white shows through", func(t *testing.T) {
		var b bytes.Buffer
		if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, 10, 20))); err != nil {
			t.Fatal(err)
		}
		got, err := Preview(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		m, err := jpeg.Decode(bytes.NewReader(got))
		if err != nil || m.Bounds().Dx() != 10 || m.Bounds().Dy() != 20 {
			t.Fatalf("%v, %v", m, err)
		}
		if r, _, _, _ := m.At(5, 5).RGBA(); r < 0xf000 {
			t.Errorf("red is %x", r)
		}
	})
	t.Run("a bomb is not decoded", func(t *testing.T) {
		bomb := bytes.Clone(smallPNG(t))
		binary.BigEndian.PutUint32(bomb[16:], 1<<30)
		binary.BigEndian.PutUint32(bomb[20:], 1<<30)
		binary.BigEndian.PutUint32(bomb[29:], crc32.ChecksumIEEE(bomb[12:29]))
		if _, _, err := Clean(bomb); err != nil {
			t.Errorf("it is well formed: %v", err)
		}
		if _, err := Preview(bomb); !errors.Is(err, ErrPicture) {
			t.Errorf("error %v", err)
		}
	})
	if _, err := Preview([]byte("text")); !errors.Is(err, ErrPicture) {
		t.Errorf("of a text: %v", err)
	}
}

func FuzzCleanJPEG(f *testing.F) {
	j := smallJPEG(f)
	f.Add(j[2:])
	f.Add(withSegments(j, segment(0xe1, exifHead+string(exif(binary.LittleEndian, 6))), segment(0xfe, "c"))[2:])
	f.Fuzz(func(t *testing.T, rest []byte) { cleanTwice(t, append([]byte("\xff\xd8"), rest...)) })
}

func FuzzCleanPNG(f *testing.F) {
	p := smallPNG(f)
	f.Add(p[len(pngMagic):])
	f.Add(withChunks(p, appendChunk(nil, "eXIf", exif(binary.BigEndian, 5)), chunk("tEXt", "x"))[len(pngMagic):])
	f.Fuzz(func(t *testing.T, rest []byte) { cleanTwice(t, append([]byte(pngMagic), rest...)) })
}

// cleanTwice checks what holds for every file: it stays about as long, and is
// clean afterwards.
func cleanTwice(t *testing.T, file []byte) {
	got, pic, err := Clean(file)
	if err != nil {
		if !errors.Is(err, ErrPicture) {
			t.Fatal(err)
		}
		return
	}
	if len(got) > len(file)+400 { // a description that a profile must have
		t.Fatalf("%d bytes became %d", len(file), len(got))
	}
	again, pic2, err := Clean(got)
	if err != nil || pic2 != pic || !bytes.Equal(again, got) {
		t.Fatalf("cleaned again: %+v and %+v, %v", pic, pic2, err)
	}
}
