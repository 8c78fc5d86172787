package panel

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// theme is the colours of a display.
type theme struct {
	ground, text, dim, ember, flame, good, bad color.RGBA
	banner, bannerText                         color.RGBA
}

var (
	colours = theme{
		ground: color.RGBA{0x0b, 0x0d, 0x11, 0xff}, text: color.RGBA{0xf6, 0xf3, 0xee, 0xff}, dim: color.RGBA{0xa8, 0xb0, 0xbc, 0xff},
		ember: color.RGBA{0xff, 0x7a, 0x2f, 0xff}, flame: color.RGBA{0xff, 0xd0, 0x6b, 0xff},
		good: color.RGBA{0x4a, 0xde, 0x80, 0xff}, bad: color.RGBA{0xff, 0xc5, 0x3d, 0xff},
		banner: color.RGBA{0xff, 0xb0, 0x20, 0xff}, bannerText: color.RGBA{0, 0, 0, 0xff},
	}
	black = color.RGBA{0, 0, 0, 0xff}
	white = color.RGBA{0xff, 0xff, 0xff, 0xff}
	// two is for displays that light a dot or do not.
	two = theme{ground: black, text: white, dim: white, ember: white, flame: black, good: white, bad: white, banner: white, bannerText: black}
)

// canvas is a picture and the means to write on it.
type canvas struct {
	*image.RGBA
	theme
	mono  bool
	title font.Face
	body  font.Face
	small font.Face
	code  font.Face // fixed width, for IDs and commands
}

func newCanvas(size image.Point, mono bool) *canvas {
	c := &canvas{RGBA: image.NewRGBA(image.Rectangle{Max: size}), theme: colours, mono: mono}
	switch {
	case mono:
		// An outline font without shades of grey is a mess at this size.
		c.theme = two
		c.title, c.body, c.small, c.code = basicfont.Face7x13, basicfont.Face7x13, basicfont.Face7x13, basicfont.Face7x13
	case size.Y >= 200:
		c.title, c.body, c.small, c.code = face(bold, 17), face(medium, 14), face(medium, 12.5), face(fixedWidth, 13)
	default:
		c.title, c.body, c.small, c.code = face(bold, 13), face(medium, 11.5), face(medium, 10.5), face(fixedWidth, 11)
	}
	c.fill(c.Rect, c.ground)
	return c
}

type typeface int

const (
	bold typeface = iota
	medium
	fixedWidth
)

var ttf = [...][]byte{bold: gobold.TTF, medium: gomedium.TTF, fixedWidth: gomonobold.TTF}

type faceKey struct {
	typeface
	size float64
}

var faces = struct {
	sync.Mutex
	fonts map[typeface]*opentype.Font
	made  map[faceKey]font.Face
}{fonts: map[typeface]*opentype.Font{}, made: map[faceKey]font.Face{}}

// face gives a typeface at a size in pixels. A face is not safe for two
// goroutines; Draw holds drawing for that.
func face(t typeface, size float64) font.Face {
	faces.Lock()
	defer faces.Unlock()
	key := faceKey{t, size}
	if f := faces.made[key]; f != nil {
		return f
	}
	if faces.fonts[t] == nil {
		parsed, err := opentype.Parse(ttf[t])
		if err != nil {
			panic(fmt.Sprintf("the built-in font %d: %v", t, err)) // cannot be: it is part of the program
		}
		faces.fonts[t] = parsed
	}
	f, err := opentype.NewFace(faces.fonts[t], &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		panic(fmt.Sprintf("the built-in font %d: %v", t, err))
	}
	faces.made[key] = f
	return f
}

func (c *canvas) fill(r image.Rectangle, col color.Color) {
	draw.Draw(c.RGBA, r, image.NewUniform(col), image.Point{}, draw.Src)
}

func width(f font.Face, text string) int { return font.MeasureString(f, text).Ceil() }

func height(f font.Face) int {
	m := f.Metrics()
	if f == basicfont.Face7x13 {
		return 13
	}
	return (m.Ascent + m.Descent).Ceil()
}

// text writes one line with its upper left corner at (x, y).
func (c *canvas) text(f font.Face, x, y int, col color.Color, text string) {
	d := font.Drawer{Dst: c.RGBA, Src: image.NewUniform(col), Face: f, Dot: fixed.P(x, y+f.Metrics().Ascent.Ceil())}
	d.DrawString(text)
}

// in writes one line vertically centred in r, cut to its width; align is -1
// for left, 0 for the middle, 1 for right.
func (c *canvas) in(f font.Face, r image.Rectangle, align int, col color.Color, text string) {
	text = cut(f, text, r.Dx())
	free := r.Dx() - width(f, text)
	x := r.Min.X + free*(align+1)/2
	// Centred on the capitals, which is where the eye looks.
	m := f.Metrics()
	capital := m.CapHeight
	if capital <= 0 {
		capital = m.Ascent * 8 / 10
	}
	baseline := r.Min.Y + (r.Dy()+capital.Round())/2
	d := font.Drawer{Dst: c.RGBA, Src: image.NewUniform(col), Face: f, Dot: fixed.P(x, baseline)}
	d.DrawString(text)
}

// cut shortens text to a width in pixels.
func cut(f font.Face, text string, w int) string {
	text = atMost(text, w)
	if width(f, text) <= w {
		return text
	}
	const dots = "..." // a character of its own is not in every font
	runes := []rune(text)
	for len(runes) > 0 && width(f, string(runes)+dots) > w {
		runes = runes[:len(runes)-1]
	}
	return strings.TrimRight(string(runes), " ,.") + dots
}

// atMost bounds the work that a long text makes: no character is narrower than
// a pixel, give or take a few that combine.
func atMost(text string, n int) string {
	if len(text) <= n {
		return text
	}
	for i := range text {
		if n--; n < -16 {
			return text[:i]
		}
	}
	return text
}

// wrap breaks text into lines of at most w pixels, at spaces where it can. At
// most limit lines come back, the last one cut if there was more.
func wrap(f font.Face, text string, w, limit int) []string {
	var lines []string
	line := ""
	text = atMost(text, w*limit)
	words := strings.Fields(text)
	for i := 0; i < len(words); i++ {
		next := strings.TrimPrefix(line+" "+words[i], " ")
		if width(f, next) <= w {
			line = next
			continue
		}
		if line == "" { // one word wider than the screen
			runes := []rune(words[i])
			n := len(runes)
			for n > 1 && width(f, string(runes[:n])) > w {
				n--
			}
			line = string(runes[:n])
			words[i] = string(runes[n:])
		}
		if len(lines)+1 == limit {
			rest := strings.Join(words[i:], " ")
			return append(lines, cut(f, strings.TrimSpace(line+" "+rest), w))
		}
		lines = append(lines, line)
		line = ""
		if words[i] != "" {
			i--
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// balance wraps like wrap, with lines of about the same length.
func balance(f font.Face, text string, w, limit int) []string {
	best := wrap(f, text, w, limit)
	for w > 8 {
		w -= 8
		lines := wrap(f, text, w, limit+1)
		if len(lines) > len(best) || len(best) == limit {
			break
		}
		best = lines
	}
	return best
}

// disc draws a dot that tells how something is: full for good, and on displays
// without colour a ring for anything else.
func (c *canvas) disc(center image.Point, radius int, l level) {
	col := map[level]color.RGBA{waiting: c.dim, good: c.good, bad: c.bad}[l]
	c.circle(center, float32(radius), col)
	if c.mono && l != good {
		c.circle(center, float32(radius)-1.5, c.ground)
	}
}

func (c *canvas) circle(center image.Point, radius float32, col color.Color) {
	const k = 0.5523 // the usual four curves
	x, y, r := float32(center.X)+0.5, float32(center.Y)+0.5, radius
	c.shape(image.Rect(int(x-r)-1, int(y-r)-1, int(x+r)+2, int(y+r)+2), col, func(v pen) {
		v.MoveTo(x+r, y)
		v.CubeTo(x+r, y+k*r, x+k*r, y+r, x, y+r)
		v.CubeTo(x-k*r, y+r, x-r, y+k*r, x-r, y)
		v.CubeTo(x-r, y-k*r, x-k*r, y-r, x, y-r)
		v.CubeTo(x+k*r, y-r, x+r, y-k*r, x+r, y)
		v.ClosePath()
	})
}

// pill draws a bar with round ends.
func (c *canvas) pill(r image.Rectangle, col color.Color) {
	if c.mono {
		c.fill(r, col)
		return
	}
	radius := r.Dy() / 2
	c.fill(image.Rect(r.Min.X+radius, r.Min.Y, r.Max.X-radius, r.Max.Y), col)
	x0, x1 := float32(r.Min.X), float32(r.Max.X)
	y0, y1, h := float32(r.Min.Y), float32(r.Max.Y), float32(r.Dy())/2
	const k = 0.5523
	c.shape(r, col, func(v pen) {
		v.MoveTo(x0+h, y0)
		v.LineTo(x1-h, y0)
		v.CubeTo(x1-h+k*h, y0, x1, y0+h-k*h, x1, y0+h)
		v.CubeTo(x1, y0+h+k*h, x1-h+k*h, y1, x1-h, y1)
		v.LineTo(x0+h, y1)
		v.CubeTo(x0+h-k*h, y1, x0, y0+h+k*h, x0, y0+h)
		v.CubeTo(x0, y0+h-k*h, x0+h-k*h, y0, x0+h, y0)
		v.ClosePath()
	})
}

// fire draws the flame of the house into a square of side pixels.
func (c *canvas) fire(x, y, side int) {
	s := float32(side) / 24
	at := func(px, py float32) (float32, float32) { return float32(x) + px*s, float32(y) + py*s }
	curve := func(v pen, p ...float32) {
		for i := 0; i+5 < len(p); i += 6 {
			ax, ay := at(p[i], p[i+1])
			bx, by := at(p[i+2], p[i+3])
			cx, cy := at(p[i+4], p[i+5])
			v.CubeTo(ax, ay, bx, by, cx, cy)
		}
		v.ClosePath()
	}
	square := image.Rect(x, y, x+side, y+side)
	c.shape(square, c.ember, func(v pen) {
		v.MoveTo(at(13, 0.5))
		curve(v, 14, 6, 20.5, 8.5, 20.5, 15.5, 20.5, 20.5, 16.7, 23.5, 12, 23.5, 7.3, 23.5, 3.5, 20.5, 3.5, 15.5, 3.5, 11.5, 6, 9.5, 7, 6.5, 8, 8, 8.6, 9, 8.8, 10.5, 11, 8.5, 13, 5, 13, 0.5)
	})
	c.shape(square, c.flame, func(v pen) {
		v.MoveTo(at(12.4, 11.5))
		curve(v, 12.8, 14.5, 16.2, 15.5, 16.2, 18.8, 16.2, 21.2, 14.4, 22.6, 12, 22.6, 9.6, 22.6, 7.8, 21.2, 7.8, 18.8, 7.8, 16.5, 11.8, 15, 12.4, 11.5)
	})
}

// pen draws a path into a small rasterizer with the picture's coordinates.
type pen struct {
	v    *vector.Rasterizer
	x, y float32
}

func (p pen) MoveTo(x, y float32) { p.v.MoveTo(x-p.x, y-p.y) }
func (p pen) LineTo(x, y float32) { p.v.LineTo(x-p.x, y-p.y) }
func (p pen) ClosePath()          { p.v.ClosePath() }
func (p pen) CubeTo(ax, ay, bx, by, cx, cy float32) {
	p.v.CubeTo(ax-p.x, ay-p.y, bx-p.x, by-p.y, cx-p.x, cy-p.y)
}

// shape fills a path that lies within r. Without shades of grey it fills the
// dots that are more than half inside.
func (c *canvas) shape(r image.Rectangle, col color.Color, path func(pen)) {
	v := vector.NewRasterizer(r.Dx(), r.Dy())
	path(pen{v, float32(r.Min.X), float32(r.Min.Y)})
	mask := image.NewAlpha(r)
	v.Draw(mask, r, image.Opaque, image.Point{})
	if c.mono {
		for i, a := range mask.Pix {
			mask.Pix[i] = 0
			if a >= 0x80 {
				mask.Pix[i] = 0xff
			}
		}
	}
	draw.DrawMask(c.RGBA, r, image.NewUniform(col), image.Point{}, mask, r.Min, draw.Over)
}

// sideways writes text that reads from bottom to top, centred in r.
func (c *canvas) sideways(f font.Face, r image.Rectangle, col, ground color.Color, text string) {
	c.fill(r, ground)
	flat := &canvas{RGBA: image.NewRGBA(image.Rect(0, 0, r.Dy(), r.Dx())), theme: c.theme, mono: c.mono}
	flat.fill(flat.Rect, ground)
	flat.in(f, flat.Rect, 0, col, text)
	for y := range flat.Rect.Dy() {
		for x := range flat.Rect.Dx() {
			c.SetRGBA(r.Min.X+y, r.Max.Y-1-x, flat.RGBAAt(x, y))
		}
	}
}
