package attachment

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

const (
	// PreviewSize is the longest side of a preview, in pixels.
	PreviewSize = 240

	// maxPixels is the largest picture of which a preview is made. Decoding one
	// takes up to eight bytes a pixel.
	maxPixels      = 16 << 20
	previewQuality = 85
)

// Preview makes a JPEG of at most [PreviewSize] pixels each way from a JPEG, PNG, GIF
// or still WebP file, upright and with nothing but the picture in it; of an animated
// GIF it is the first picture. What is transparent gets white. A small picture stays
// as small as it is. The error is [ErrPicture], also for a picture of more than 16
// million pixels, which is not decoded.
func Preview(file []byte) ([]byte, error) { return Shrink(file, PreviewSize) }

// Shrink is [Preview] with at most size pixels each way.
func Shrink(file []byte, size int) ([]byte, error) {
	clean, p, err := Clean(file)
	if err != nil {
		return nil, err
	}
	if p.Type == "" {
		return nil, fmt.Errorf("%w: neither JPEG, PNG, GIF nor WebP", ErrPicture)
	}
	if int64(p.Width)*int64(p.Height) > maxPixels {
		return nil, fmt.Errorf("%w: %d × %d pixels are too many", ErrPicture, p.Width, p.Height)
	}
	decode, config := jpeg.Decode, jpeg.DecodeConfig
	switch p.Type {
	case PNG:
		decode, config = png.Decode, png.DecodeConfig
	case GIF:
		decode, config = gif.Decode, gif.DecodeConfig
	case WebP:
		decode, config = webp.Decode, webp.DecodeConfig
	}
	// What the decoder reads may be another head than the one above.
	c, err := config(bytes.NewReader(clean))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPicture, err)
	}
	if int64(c.Width)*int64(c.Height) > maxPixels {
		return nil, fmt.Errorf("%w: %d × %d pixels are too many", ErrPicture, c.Width, c.Height)
	}
	full, err := decode(bytes.NewReader(clean))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPicture, err)
	}
	width, height := fit(full.Bounds().Dx(), full.Bounds().Dy(), size)
	small := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(small, small.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	draw.ApproxBiLinear.Scale(small, small.Bounds(), full, full.Bounds(), draw.Over, nil)
	var out bytes.Buffer
	if err := jpeg.Encode(&out, upright(small, p.Orientation), &jpeg.Options{Quality: previewQuality}); err != nil {
		return nil, fmt.Errorf("encoding a preview: %w", err)
	}
	return out.Bytes(), nil
}

// fit shrinks a width and a height so that the longer one is at most size.
func fit(width, height, size int) (int, int) {
	longest := max(width, height)
	if longest <= size {
		return width, height
	}
	return max(1, width*size/longest), max(1, height*size/longest)
}

// upright turns a picture as Exif says that it is to be shown.
func upright(m *image.RGBA, orientation int) *image.RGBA {
	if orientation == 1 {
		return m
	}
	w, h := m.Rect.Dx(), m.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if orientation >= 5 {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			fromX, fromY := x, y
			switch orientation {
			case 2:
				fromX = w - 1 - x
			case 3:
				fromX, fromY = w-1-x, h-1-y
			case 4:
				fromY = h - 1 - y
			case 5:
				fromX, fromY = y, x
			case 6:
				fromX, fromY = y, h-1-x
			case 7:
				fromX, fromY = w-1-y, h-1-x
			case 8:
				fromX, fromY = w-1-y, x
			}
			out.SetRGBA(x, y, m.RGBAAt(fromX, fromY))
		}
	}
	return out
}
