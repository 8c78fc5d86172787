package panel

import (
	"image"
	"image/color"
	"image/draw"
)

// RGB565 is a colour of 16 bits, five red, six green, five blue, as ST7735 and
// ST7789 displays take it.
type RGB565 uint16

// RGBA gives the colour with its few bits spread over the whole range, so that
// white is white again.
func (c RGB565) RGBA() (r, g, b, a uint32) {
	r5, g6, b5 := uint32(c>>11), uint32(c>>5&0x3f), uint32(c&0x1f)
	r8, g8, b8 := r5<<3|r5>>2, g6<<2|g6>>4, b5<<3|b5>>2
	return r8 * 0x101, g8 * 0x101, b8 * 0x101, 0xffff
}

// RGB565Model converts any colour to RGB565 by rounding to the nearest value.
var RGB565Model = color.ModelFunc(func(c color.Color) color.Color {
	if c, ok := c.(RGB565); ok {
		return c
	}
	r, g, b, _ := c.RGBA()
	return RGB565((r*31+0x7fff)/0xffff<<11 | (g*63+0x7fff)/0xffff<<5 | (b*31+0x7fff)/0xffff)
})

// Image565 is a picture of RGB565 pixels, row by row.
type Image565 struct {
	Pix  []RGB565
	Rect image.Rectangle
}

// NewImage565 makes a black picture.
func NewImage565(r image.Rectangle) *Image565 {
	return &Image565{Pix: make([]RGB565, r.Dx()*r.Dy()), Rect: r}
}

// ColorModel implements image.Image.
func (m *Image565) ColorModel() color.Model { return RGB565Model }

// Bounds implements image.Image.
func (m *Image565) Bounds() image.Rectangle { return m.Rect }

// At implements image.Image.
func (m *Image565) At(x, y int) color.Color {
	if !(image.Point{x, y}).In(m.Rect) {
		return RGB565(0)
	}
	return m.Pix[m.offset(x, y)]
}

// Set implements draw.Image.
func (m *Image565) Set(x, y int, c color.Color) {
	if (image.Point{x, y}).In(m.Rect) {
		m.Pix[m.offset(x, y)] = RGB565Model.Convert(c).(RGB565)
	}
}

// draw is draw.Draw with draw.Src, faster for the kind of picture that screens
// are made in.
func (m *Image565) draw(r image.Rectangle, src image.Image, at image.Point) {
	from, ok := src.(*image.RGBA)
	if !ok {
		draw.Draw(m, r, src, at, draw.Src)
		return
	}
	toSource := at.Sub(r.Min)
	r = r.Intersect(m.Rect).Intersect(from.Rect.Sub(toSource))
	for y := r.Min.Y; y < r.Max.Y; y++ {
		to := m.Pix[m.offset(r.Min.X, y):][:r.Dx()]
		pix := from.Pix[from.PixOffset(r.Min.X+toSource.X, y+toSource.Y):][:4*r.Dx()]
		for x := range to {
			red, green, blue := uint32(pix[4*x]), uint32(pix[4*x+1]), uint32(pix[4*x+2])
			to[x] = RGB565((red*31+127)/255<<11 | (green*63+127)/255<<5 | (blue*31+127)/255)
		}
	}
}

func (m *Image565) offset(x, y int) int {
	return (y-m.Rect.Min.Y)*m.Rect.Dx() + x - m.Rect.Min.X
}

// changed gives the smallest rectangle that holds every pixel in which two
// pictures of the same size differ.
func (m *Image565) changed(other *Image565) image.Rectangle {
	var r image.Rectangle
	w := m.Rect.Dx()
	for y := range m.Rect.Dy() {
		row, otherRow := m.Pix[y*w:(y+1)*w], other.Pix[y*w:(y+1)*w]
		left := 0
		for left < w && row[left] == otherRow[left] {
			left++
		}
		if left == w {
			continue
		}
		right := w
		for row[right-1] == otherRow[right-1] {
			right--
		}
		r = r.Union(image.Rect(left, y, right, y+1))
	}
	return r.Add(m.Rect.Min)
}
