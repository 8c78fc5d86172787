// Package qr turns a Session ID into a QR code for a screen and for a
// terminal.
//
// New takes the text; Draw puts the code into a picture at a whole number of
// pixels per module, Text writes it with half-block characters for the serial
// console. Both always draw dark modules on lit ground with a quiet zone,
// because phone cameras do not read inverted codes.
package qr

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"

	"rsc.io/qr"
)

// QuietZone is the width of the light frame around a code in modules. The QR
// standard asks for 4; 2 leaves more pixels for each module on a small screen
// and is still read by the phones' scanners, which need about 4 camera pixels
// per module.
const QuietZone = 2

// QuietZoneText is the frame in a terminal, where columns are plenty and the
// ground outside the code is dark more often than not.
const QuietZoneText = 4

// Code is a square of dark and light modules without its quiet zone.
type Code struct {
	code *qr.Code
}

// New encodes text at error correction level L. A Session ID of 66 lower-case
// hex characters gives 33x33 modules (version 4, byte mode). The text is kept
// as it is: upper-case hex would make a smaller code, but the Session clients
// for phones take a scanned ID literally and would talk to another account.
func New(text string) (*Code, error) {
	c, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, fmt.Errorf("qr code of %d bytes: %w", len(text), err)
	}
	return &Code{code: c}, nil
}

// Size is the number of modules on a side, without the quiet zone.
func (c *Code) Size() int { return c.code.Size }

// Dark tells whether the module in column x, row y is dark. Everything outside
// the code is light.
func (c *Code) Dark(x, y int) bool { return c.code.Black(x, y) }

// Scale gives the largest number of pixels per module with which the code and
// its quiet zone fit into side pixels; 0 when it does not fit at all.
func (c *Code) Scale(side int) int { return max(0, side/c.side()) }

// Pixels is the side of the drawn code, quiet zone included, in pixels.
func (c *Code) Pixels(scale int) int { return c.side() * scale }

func (c *Code) side() int { return c.Size() + 2*QuietZone }

// Draw draws the code and its quiet zone with the upper left corner at p, with
// scale pixels per module.
func (c *Code) Draw(dst draw.Image, p image.Point, scale int) {
	ground := image.Rect(0, 0, c.Pixels(scale), c.Pixels(scale)).Add(p)
	draw.Draw(dst, ground, image.NewUniform(color.White), image.Point{}, draw.Src)
	module := image.Rect(0, 0, scale, scale)
	dark := image.NewUniform(color.Black)
	for y := range c.Size() {
		for x := range c.Size() {
			if c.Dark(x, y) {
				at := p.Add(image.Pt((x+QuietZone)*scale, (y+QuietZone)*scale))
				draw.Draw(dst, module.Add(at), dark, image.Point{}, draw.Src)
			}
		}
	}
}

// The colours are named in full, because a terminal's own foreground and
// background may be either way round: black on bright white.
const (
	onPaper  = "\x1b[30;107m"
	offPaper = "\x1b[0m"
)

// Text gives the code as lines for a terminal, two rows of modules in each, so
// that modules come out square: 21 lines of 41 columns for a Session ID.
func (c *Code) Text() []string {
	var lines []string
	for y := -QuietZoneText; y < c.Size()+QuietZoneText; y += 2 {
		var line strings.Builder
		line.WriteString(onPaper)
		for x := -QuietZoneText; x < c.Size()+QuietZoneText; x++ {
			line.WriteString(halfBlock[c.Dark(x, y)][c.Dark(x, y+1)])
		}
		line.WriteString(offPaper)
		lines = append(lines, line.String())
	}
	return lines
}

// halfBlock is indexed by upper and lower module being dark.
var halfBlock = map[bool]map[bool]string{
	false: {false: " ", true: "▄"},
	true:  {false: "▀", true: "█"},
}
