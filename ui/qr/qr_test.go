package qr

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"os/exec"
	"strings"
	"testing"
)

const id = "059f3c41d7a8b60e52c4f7186d93ab20e571c8d4f6093be2a57d10964fc83eb52a"

// decode reads the QR code in a picture with a program that is not ours.
func decode(t *testing.T, m image.Image) string {
	t.Helper()
	path, err := exec.LookPath("zbarimg")
	if err != nil {
		t.Fatal("zbarimg not found: install with `make deps`")
	}
	var picture, out bytes.Buffer
	if err := png.Encode(&picture, m); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-q", "--raw", "PNG:-")
	cmd.Stdin, cmd.Stdout = &picture, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("zbarimg: %v", err)
	}
	return strings.TrimSuffix(out.String(), "\n")
}

func TestASessionIDIsVersion4InByteMode(t *testing.T) {
	c, err := New(id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Size() != 33 {
		t.Errorf("%d modules, want 33", c.Size())
	}
	if got := c.Scale(128); got != 3 {
		t.Errorf("scale for 128 pixels is %d, want 3", got)
	}
	if got := c.Scale(36); got != 0 {
		t.Errorf("scale for 36 pixels is %d, want 0", got)
	}
}

func TestDrawnCodeReadsBackInLowerCase(t *testing.T) {
	c, err := New(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, scale := range []int{2, 3, 5, 6} {
		m := image.NewGray(image.Rect(0, 0, c.Pixels(scale)+20, c.Pixels(scale)+20)) // on a dark ground
		c.Draw(m, image.Pt(10, 10), scale)
		if got := decode(t, m); got != id {
			t.Errorf("%d pixels per module: read %q", scale, got)
		}
	}
}

func TestTextCodeReadsBack(t *testing.T) {
	c, err := New(id)
	if err != nil {
		t.Fatal(err)
	}
	lines := c.Text()
	if len(lines) != 21 {
		t.Errorf("%d lines, want 21", len(lines))
	}
	const px = 4
	m := image.NewGray(image.Rect(0, 0, 41*px, len(lines)*2*px))
	for y, line := range lines {
		inner, ok := strings.CutPrefix(line, "\x1b[30;107m")
		inner, ok2 := strings.CutSuffix(inner, "\x1b[0m")
		if !ok || !ok2 {
			t.Fatalf("line %q does not set black on white and back", line)
		}
		cells := []rune(inner)
		if len(cells) != 41 {
			t.Fatalf("line of %d columns, want 41", len(cells))
		}
		for x, cell := range cells {
			light := map[rune][2]bool{' ': {true, true}, '▀': {false, true}, '▄': {true, false}, '█': {false, false}}[cell]
			for half, lit := range light {
				if !lit {
					continue
				}
				for i := range px * px {
					m.SetGray(x*px+i%px, (2*y+half)*px+i/px, color.Gray{Y: 0xff})
				}
			}
		}
	}
	if got := decode(t, m); got != id {
		t.Errorf("read %q", got)
	}
}

func TestTextThatDoesNotFit(t *testing.T) {
	if _, err := New(strings.Repeat("x", 4000)); err == nil {
		t.Error("no error")
	}
}
