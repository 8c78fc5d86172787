package panel

import "image"

// Digits for IDs on displays where a line has to hold 18 of them in 128
// pixels, with the gaps between groups: the fonts at hand are wider.
const (
	digitWidth  = 5
	digitHeight = 7
)

// digits are the pixels of 0 to f, row by row, the left one in the highest of
// five bits.
var digits = [16][digitHeight]byte{
	{0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110},
	{0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110},
	{0b01110, 0b10001, 0b00001, 0b00010, 0b00100, 0b01000, 0b11111},
	{0b11111, 0b00010, 0b00100, 0b00010, 0b00001, 0b10001, 0b01110},
	{0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010},
	{0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110},
	{0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110},
	{0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000},
	{0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110},
	{0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100},
	{0b00000, 0b00000, 0b01110, 0b00001, 0b01111, 0b10001, 0b01111},
	{0b10000, 0b10000, 0b10110, 0b11001, 0b10001, 0b10001, 0b11110},
	{0b00000, 0b00000, 0b01110, 0b10000, 0b10000, 0b10001, 0b01110},
	{0b00001, 0b00001, 0b01101, 0b10011, 0b10001, 0b10001, 0b01111},
	{0b00000, 0b00000, 0b01110, 0b10001, 0b11111, 0b10000, 0b01110},
	{0b00110, 0b01001, 0b01000, 0b11100, 0b01000, 0b01000, 0b01000},
}

// digit draws one lower-case hex digit; anything else is left out.
func (c *canvas) digit(at image.Point, hex byte) {
	var rows [digitHeight]byte
	switch {
	case hex >= '0' && hex <= '9':
		rows = digits[hex-'0']
	case hex >= 'a' && hex <= 'f':
		rows = digits[hex-'a'+10]
	}
	for y, row := range rows {
		for x := range digitWidth {
			if row>>(digitWidth-1-x)&1 == 1 {
				c.SetRGBA(at.X+x, at.Y+y, c.theme.text)
			}
		}
	}
}
