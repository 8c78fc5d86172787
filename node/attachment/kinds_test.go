package attachment

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"slices"
	"strings"
	"testing"

	"golang.org/x/image/webp"
)

// smallGIF is an animation of two pictures.
func smallGIF(t testing.TB) []byte {
	palette := color.Palette{color.Black, color.RGBA{R: 255, A: 255}, color.RGBA{B: 255, A: 255}}
	g := &gif.GIF{LoopCount: 3}
	for i := range 2 {
		m := image.NewPaletted(image.Rect(0, 0, 48, 32), palette)
		for j := range m.Pix {
			m.Pix[j] = byte(1 + (j/24+i)%2)
		}
		g.Image, g.Delay = append(g.Image, m), append(g.Delay, 7)
	}
	var b bytes.Buffer
	if err := gif.EncodeAll(&b, g); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// inGIF puts blocks behind the colours of a GIF.
func inGIF(file []byte, blocks ...string) []byte {
	at := 13 + colours(file[10])
	return slices.Concat(file[:at], []byte(strings.Join(blocks, "")), file[at:])
}

// bitWriter writes from the lowest bit on.
type bitWriter struct {
	b []byte
	n int
}

func (w *bitWriter) put(v uint32, n int) {
	for i := range n {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

// lossless is a VP8L picture of one colour (WebP lossless specification): every code
// has one symbol, so that the pixels take no bits.
func lossless(w, h uint32, c color.RGBA) []byte {
	b := &bitWriter{b: []byte{0x2f}, n: 8}
	b.put(w-1, 14)
	b.put(h-1, 14)
	b.put(0, 4) // no alpha, version 0
	b.put(0, 3) // no transform, no colour cache, one group of codes
	for _, symbol := range []byte{c.G, c.R, c.B, c.A} {
		b.put(0b101, 3) // simple, one symbol, of eight bits
		b.put(uint32(symbol), 8)
	}
	b.put(0b001, 3) // distances: simple, one symbol, of one bit
	b.put(0, 1)
	return append(b.b, 0)
}

func riff(chunks ...[]byte) []byte {
	all := slices.Concat(chunks...)
	return slices.Concat([]byte("RIFF"), binary.LittleEndian.AppendUint32(nil, uint32(len(all)+4)), []byte("WEBP"), all)
}

func vp8x(flags byte, w, h uint32) []byte {
	return appendRIFF(nil, "VP8X", appendUint24(appendUint24([]byte{flags, 0, 0, 0}, w-1), h-1))
}

func frame(w, h uint32, inside ...[]byte) []byte {
	head := append([]byte{0, 0, 0, 0, 0, 0}, appendUint24(appendUint24(appendUint24(nil, w-1), h-1), 100)...)
	return appendRIFF(nil, "ANMF", slices.Concat(append(head, 0), slices.Concat(inside...)))
}

// profile is a colour profile of version 2 or 4 with a maker's name in every place
// that has room for one.
func profile(version byte) []byte {
	head := make([]byte, iccHeader)
	for i := range head {
		head[i] = "secret"[i%6]
	}
	head[8] = version
	copy(head[12:24], "mntrRGB XYZ ")
	copy(head[36:40], "acsp")
	tags := []struct{ name, body string }{
		{"desc", "desc\x00\x00\x00\x00\x00\x00\x00\x07secret\x00" + strings.Repeat("\x00", 78)},
		{"cprt", "text\x00\x00\x00\x00secret secret secret\x00"},
		{"dmnd", "desc\x00\x00\x00\x00secret"},
		{"rXYZ", "XYZ \x00\x00\x00\x00red.red.red."},
		{"rTRC", "curv\x00\x00\x00\x00\x00\x00\x00\x01\x02\x33"},
		{"gTRC", "curv\x00\x00\x00\x00\x00\x00\x00\x01\x02\x33"},
		{"meta", "dict\x00\x00\x00\x00secret"},
	}
	table, data := binary.BigEndian.AppendUint32(nil, uint32(len(tags))), []byte(nil)
	for _, t := range tags {
		table = append(table, t.name...)
		table = binary.BigEndian.AppendUint32(table, uint32(iccHeader+4+12*len(tags)+len(data)))
		table = binary.BigEndian.AppendUint32(table, uint32(len(t.body)))
		data = append(data, t.body...)
	}
	all := slices.Concat(head, table, data)
	binary.BigEndian.PutUint32(all, uint32(len(all)))
	return all
}

func packedProfile(p []byte) string {
	var b bytes.Buffer
	b.WriteString("secret profile\x00\x00")
	w := zlib.NewWriter(&b)
	w.Write(p)
	w.Close()
	return b.String()
}

func TestCleanGIFAndWebP(t *testing.T) {
	g := smallGIF(t)
	red := lossless(48, 32, color.RGBA{R: 255, A: 255})
	still := appendRIFF(nil, "VP8L", red)
	secret := appendRIFF(nil, "EXIF", exif(binary.LittleEndian, 1))
	turned := appendRIFF(nil, "EXIF", append([]byte(exifHead), exif(binary.LittleEndian, 6)...))
	xmp := appendRIFF(nil, "XMP ", []byte("<secret/>"))
	odd := appendRIFF(nil, "ODD ", []byte("secret!"))
	anim := appendRIFF(nil, "ANIM", []byte{0, 0, 0, 0, 3, 0})
	for _, c := range []struct {
		name        string
		file        []byte
		want        string
		orientation int
		width       uint32
		keeps       string
	}{
		{"a GIF without anything", g, GIF, 1, 48, "NETSCAPE2.0"},
		{"comments go", inGIF(g, "\x21\xfe\x06secret\x00"), GIF, 1, 48, "NETSCAPE2.0"},
		{"XMP goes", inGIF(g, "\x21\xff\x0bXMP DataXMP\x06secret\x00"), GIF, 1, 48, "NETSCAPE2.0"},
		{"what hides behind the number of loops goes", inGIF(g, "\x21\xff\x0bANIMEXTS1.0\x03\x01\x00\x00\x06secret\x00"), GIF, 1, 48, "ANIMEXTS1.0"},
		{"a text block goes", inGIF(g, "\x21\x01\x0c............\x06secret\x00"), GIF, 1, 48, ""},
		{"what is behind the end of a GIF goes", append(bytes.Clone(g), "secret"...), GIF, 1, 48, ""},
		{"a GIF without an end gets one", g[:len(g)-1], GIF, 1, 48, ""},
		{"a WebP without anything", riff(still), WebP, 1, 48, ""},
		{"Exif, XMP and unknown chunks go", riff(vp8x(webpExif|webpXMP, 48, 32), still, secret, xmp, odd), WebP, 1, 48, "VP8X"},
		{"without a head they go as well", riff(still, secret, xmp), WebP, 1, 48, ""},
		{"of Exif in a WebP its orientation stays", riff(vp8x(webpExif, 48, 32), still, turned), WebP, 6, 32, "EXIF"},
		{"what is behind the end of a WebP goes", append(riff(still), "secret"...), WebP, 1, 48, ""},
		{"an animated WebP stays one", riff(vp8x(webpAnimated, 48, 32), anim, frame(48, 32, still, odd), xmp, frame(48, 32, still)), WebP, 1, 48, "ANMF"},
		{"of a colour profile the colours stay", riff(vp8x(webpICC, 48, 32), appendRIFF(nil, "ICCP", profile(4)), still), WebP, 1, 48, "red.red.red."},
		{"a colour profile that is none goes", riff(vp8x(webpICC, 48, 32), appendRIFF(nil, "ICCP", []byte("secret")), still), WebP, 1, 48, ""},
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
			if again, _, err := Clean(got); err != nil || !bytes.Equal(again, got) {
				t.Errorf("cleaned twice it is another file, %v", err)
			}
			switch {
			case c.want == GIF:
				a, err := gif.DecodeAll(bytes.NewReader(g))
				if err != nil {
					t.Fatal(err)
				}
				b, err := gif.DecodeAll(bytes.NewReader(got))
				if err != nil || len(b.Image) != 2 || !bytes.Equal(a.Image[1].Pix, b.Image[1].Pix) || b.Delay[1] != 7 {
					t.Errorf("another animation, %v", err)
				}
			case !strings.Contains(c.name, "animated"):
				m, err := webp.Decode(bytes.NewReader(got))
				if err != nil {
					t.Fatal(err)
				}
				if r, _, b, _ := m.At(47, 31).RGBA(); r != 0xffff || b != 0 {
					t.Errorf("another picture: red %x, blue %x", r, b)
				}
			}
		})
	}
}

func TestOfColourProfilesTheColoursAreKept(t *testing.T) {
	j, p := smallJPEG(t), smallPNG(t)
	for _, version := range []byte{2, 4} {
		whole := profile(version)
		for name, file := range map[string][]byte{
			"in a JPEG": withSegments(j, segment(0xe2, iccHead+"\x01\x01"+string(whole))),
			"in a JPEG, in two parts": withSegments(j, segment(0xe2, iccHead+"\x02\x02"+string(whole[200:])),
				segment(0xe2, iccHead+"\x01\x02"+string(whole[:200]))),
		} {
			got, _, err := Clean(file)
			if err != nil || bytes.Contains(got, []byte("secret")) || !bytes.Contains(got, []byte("red.red.red.")) || bytes.Count(got, []byte("curv")) != 1 {
				t.Errorf("version %d %s: %q, %v", version, name, got, err)
			}
		}
		got, _, err := Clean(withChunks(p, chunk("iCCP", packedProfile(whole))))
		at := bytes.Index(got, []byte("iCCP"))
		if err != nil || at < 0 || bytes.Contains(got, []byte("secret")) {
			t.Fatalf("version %d in a PNG: %q, %v", version, got, err)
		}
		body := got[at+4 : at+4+int(binary.BigEndian.Uint32(got[at-4:]))]
		if _, packed, _ := bytes.Cut(body, []byte("\x00\x00")); cleanPNGProfile(body) == nil || len(packed) == 0 {
			t.Errorf("%q", body)
		}
		clean := cleanICC(whole)
		if int(binary.BigEndian.Uint32(clean)) != len(clean) || clean[8] != version || string(clean[16:20]) != "RGB " || bytes.Contains(clean, []byte("secret")) {
			t.Errorf("version %d: %q", version, clean)
		}
	}
	for name, damaged := range map[string][]byte{
		"cut short":            profile(4)[:200],
		"half a JPEG's":        joinICC([][]byte{append([]byte{1, 2}, profile(4)...)}),
		"a tag beyond its end": slices.Replace(profile(4), iccHeader+8, iccHeader+12, 0xff, 0xff, 0xff, 0xff),
		"far too many tags":    slices.Replace(profile(4), iccHeader, iccHeader+4, 0xff, 0xff, 0xff, 0xff),
		"nothing to keep":      append(profile(4)[:iccHeader], 0, 0, 0, 0),
	} {
		if got := cleanICC(damaged); got != nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	if bomb := packedProfile(make([]byte, maxICC+1)); cleanPNGProfile([]byte(bomb)) != nil {
		t.Error("a profile of any size is unpacked")
	}
}

func TestKindsThatCannotBeCleanedAreRefused(t *testing.T) {
	g := smallGIF(t)
	still := appendRIFF(nil, "VP8L", lossless(48, 32, color.RGBA{}))
	for name, c := range map[string]struct {
		file []byte
		want error
	}{
		"HEIC":                            {[]byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic...."), ErrPictureKind},
		"HEIC by its second brand":        {[]byte("\x00\x00\x00\x18ftypXXXX\x00\x00\x00\x00mif1...."), ErrPictureKind},
		"AVIF":                            {[]byte("\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1...."), ErrPictureKind},
		"TIFF":                            {[]byte("II*\x00........"), ErrPictureKind},
		"TIFF, big endian":                {[]byte("MM\x00*........"), ErrPictureKind},
		"JPEG XL":                         {[]byte("\x00\x00\x00\x0cJXL \r\n\x87\n"), ErrPictureKind},
		"a GIF of nothing":                {[]byte("GIF89a"), ErrPicture},
		"a GIF without a picture":         {append(bytes.Clone(g[:13+colours(g[10])]), ';'), ErrPicture},
		"a GIF that is cut in a picture":  {g[:len(g)-9], ErrPicture},
		"a GIF with bytes between blocks": {inGIF(g, "?"), ErrPicture},
		"a WebP cut short":                {riff(still)[:20], ErrPicture},
		"a WebP of nothing":               {riff(), ErrPicture},
		"a WebP with two pictures":        {riff(still, still), ErrPicture},
		"a WebP with a late head":         {riff(still, vp8x(0, 48, 32)), ErrPicture},
		"a WebP whose head lies":          {riff(vp8x(0, 1, 1), still), ErrPicture},
		"a picture beyond its animation":  {riff(vp8x(webpAnimated, 10, 10), frame(48, 32, still)), ErrPicture},
		"a frame that lies":               {riff(vp8x(webpAnimated, 48, 32), frame(4, 4, still)), ErrPicture},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Clean(c.file); !errors.Is(err, c.want) || !errors.Is(err, ErrPicture) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if _, err := Preview(c.file); !errors.Is(err, ErrPicture) {
				t.Errorf("preview: error %v", err)
			}
		})
	}
	for name, file := range map[string]string{
		"a voice note": "\x00\x00\x00\x18ftypM4A \x00\x00\x02\x00isomiso2....",
		"a film":       "\x00\x00\x00\x14ftypqt  \x00\x00\x02\x00qt  ....",
		"a text":       "IIRC this is a text",
		"a sound":      "RIFF\x04\x00\x00\x00WAVE",
	} {
		if got, pic, err := Clean([]byte(file)); err != nil || string(got) != file || pic.Type != "" {
			t.Errorf("%s: %q, %+v, %v", name, got, pic, err)
		}
	}
}

func TestPreviewsOfGIFAndWebP(t *testing.T) {
	for name, file := range map[string][]byte{
		"a GIF":  smallGIF(t),
		"a WebP": riff(appendRIFF(nil, "VP8L", lossless(48, 32, color.RGBA{R: 255, A: 255}))),
	} {
		got, err := Preview(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m, err := jpeg.Decode(bytes.NewReader(got))
		if err != nil || m.Bounds().Dx() != 48 || m.Bounds().Dy() != 32 {
			t.Fatalf("%s: %v", name, err)
		}
		if r, _, b, _ := m.At(3, 3).RGBA(); r < 0xf000 || b > 0x1000 {
			t.Errorf("%s: red %x, blue %x", name, r, b)
		}
	}
	bomb := riff(appendRIFF(nil, "VP8L", lossless(16384, 16384, color.RGBA{})))
	if _, err := Preview(bomb); !errors.Is(err, ErrPicture) {
		t.Errorf("a picture of 268 million pixels in %d bytes: %v", len(bomb), err)
	}
	if small, err := Shrink(smallJPEG(t), 12); err != nil {
		t.Error(err)
	} else if m, err := jpeg.Decode(bytes.NewReader(small)); err != nil || m.Bounds().Dx() != 12 || m.Bounds().Dy() != 8 {
		t.Errorf("shrunk to %v, %v", m.Bounds(), err)
	}
}

func FuzzCleanGIF(f *testing.F) {
	g := smallGIF(f)
	f.Add(g[6:])
	f.Add(inGIF(g, "\x21\xfe\x06secret\x00", "\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")[6:])
	f.Fuzz(func(t *testing.T, rest []byte) { cleanTwice(t, append([]byte("GIF89a"), rest...)) })
}

func FuzzCleanWebP(f *testing.F) {
	still := appendRIFF(nil, "VP8L", lossless(3, 3, color.RGBA{}))
	f.Add(still)
	f.Add(slices.Concat(vp8x(webpICC|webpExif, 3, 3), appendRIFF(nil, "ICCP", profile(2)), still, appendRIFF(nil, "EXIF", exif(binary.BigEndian, 6))))
	f.Add(slices.Concat(vp8x(webpAnimated, 3, 3), frame(3, 3, still)))
	f.Fuzz(func(t *testing.T, chunks []byte) { cleanTwice(t, riff(chunks)) })
}

func FuzzPreview(f *testing.F) {
	for _, file := range [][]byte{smallJPEG(f), smallPNG(f), smallGIF(f), riff(appendRIFF(nil, "VP8L", lossless(3, 3, color.RGBA{})))} {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 1<<16 {
			return
		}
		if got, err := Preview(file); err == nil {
			if c, err := jpeg.DecodeConfig(bytes.NewReader(got)); err != nil || c.Width > PreviewSize || c.Height > PreviewSize {
				t.Fatalf("%+v, %v", c, err)
			}
		}
	})
}

func FuzzCleanICC(f *testing.F) {
	f.Add(profile(2))
	f.Add(profile(4))
	f.Fuzz(func(t *testing.T, b []byte) {
		got := cleanICC(b)
		if got == nil {
			return
		}
		if len(got) > len(b)+400 || !bytes.Equal(cleanICC(got), got) {
			t.Fatalf("%d bytes became %d, and then others", len(b), len(got))
		}
	})
}
