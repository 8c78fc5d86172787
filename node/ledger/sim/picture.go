package sim

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

const (
	plotWidth, plotHeight             = 900, 260
	marginLeft, marginTop, marginDown = 64, 28, 26
	marginRight                       = 150
)

var (
	ink     = color.RGBA{0x22, 0x22, 0x22, 0xff}
	faint   = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
	palette = []color.RGBA{{0x1f, 0x77, 0xb4, 0xff}, {0xd6, 0x27, 0x28, 0xff}, {0x2c, 0xa0, 0x2c, 0xff}, {0x94, 0x67, 0xbd, 0xff}, {0xff, 0x7f, 0x0e, 0xff}}
)

// curve is one line of a plot.
type curve struct {
	name string
	y    []float64
}

// plot draws curves over common x values.
type plot struct {
	title  string
	x      []float64
	curves []curve
	low    float64
	high   float64
	log    bool // y is the exponent of ten
	unit   string
	xUnit  string
}

// Picture draws the report as PNG: messages, nodes, swarms, and the attacker's
// chances.
func (r *Report) Picture(out io.Writer) error {
	var hours []float64
	kept, first := curve{name: "somebody has it"}, curve{name: "at first try"}
	online, active, away := curve{name: "online"}, curve{name: "in service"}, curve{name: "out of service"}
	small, median, large, working := curve{name: "smallest"}, curve{name: "median"}, curve{name: "largest"}, curve{name: "fewest working"}
	most, top, least := 0.0, 0.0, 1.0
	for _, s := range r.Samples {
		hours = append(hours, s.At.Hours())
		kept.y, first.y = append(kept.y, 100*s.Kept), append(first.y, 100*s.FirstTry)
		online.y, active.y, away.y = append(online.y, float64(s.Online)), append(active.y, float64(s.Active)), append(away.y, float64(s.Out))
		small.y, median.y, large.y, working.y = append(small.y, float64(s.Smallest)), append(median.y, float64(s.Median)), append(large.y, float64(s.Largest)), append(working.y, float64(s.Working))
		most, top = max(most, float64(s.Active), float64(s.Online)), max(top, float64(s.Largest))
		least = min(least, s.FirstTry)
	}
	var shares []float64
	chance := []curve{{name: "path wholly bad"}, {name: "both ends bad"}, {name: "swarm wholly bad"}, {name: "committee halted"}}
	exponent := func(p float64) float64 { return math.Log10(max(p, 1e-9)) }
	for _, p := range r.Paths {
		shares = append(shares, 100*p.Share)
		for i, v := range []float64{p.Whole, p.Ends, p.Swarm, p.Committee} {
			chance[i].y = append(chance[i].y, exponent(v))
		}
	}
	plots := []plot{
		{title: "messages that can be had", x: hours, curves: []curve{kept, first}, low: math.Floor(least*10) * 10, high: 100, unit: "%", xUnit: "h"},
		{title: "nodes", x: hours, curves: []curve{online, active, away}, high: most * 1.05, xUnit: "h"},
		{title: "members of a swarm", x: hours, curves: []curve{large, median, small, working}, high: top + 1, xUnit: "h"},
		{title: "chances of an attacker, by the share of all stakes", x: shares, curves: chance, low: -9, high: 0, log: true, xUnit: "%"},
	}
	img := image.NewRGBA(image.Rect(0, 0, plotWidth, plotHeight*len(plots)))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for i, p := range plots {
		p.draw(img, i*plotHeight)
	}
	return png.Encode(out, img)
}

func (p *plot) draw(img *image.RGBA, top int) {
	left, right := marginLeft, plotWidth-marginRight
	up, down := top+marginTop, top+plotHeight-marginDown
	if len(p.x) == 0 {
		return
	}
	from, to := p.x[0], p.x[len(p.x)-1]
	if to <= from {
		to = from + 1
	}
	high := p.high
	if high <= p.low {
		high = p.low + 1
	}
	px := func(x float64) float64 { return float64(left) + (x-from)/(to-from)*float64(right-left) }
	py := func(y float64) float64 { return float64(down) - (y-p.low)/(high-p.low)*float64(down-up) }
	write(img, left, top+16, p.title, ink)
	marks := 4
	if p.log {
		marks = 3 // whole exponents
	}
	for i := range marks + 1 {
		y := p.low + (high-p.low)*float64(i)/float64(marks)
		stroke(img, float64(left), py(y), float64(right), py(y), faint)
		label := fmt.Sprintf("%.4g%s", y, p.unit)
		if p.log {
			label = fmt.Sprintf("1e%.0f", y)
		}
		write(img, left-7*len(label)-6, int(py(y))+4, label, ink)
		x := from + (to-from)*float64(i)/float64(marks)
		label = fmt.Sprintf("%.3g %s", x, p.xUnit)
		write(img, int(px(x))-7*len(label)/2, down+16, label, ink)
	}
	for i, c := range p.curves {
		colour := palette[i%len(palette)]
		for j := 1; j < len(c.y); j++ {
			stroke(img, px(p.x[j-1]), py(c.y[j-1]), px(p.x[j]), py(c.y[j]), colour)
		}
		y := up + 12 + 18*i
		stroke(img, float64(right+10), float64(y-4), float64(right+26), float64(y-4), colour)
		write(img, right+30, y, c.name, ink)
	}
}

// stroke draws a line two pixels wide.
func stroke(img *image.RGBA, x0, y0, x1, y1 float64, c color.RGBA) {
	steps := int(max(math.Abs(x1-x0), math.Abs(y1-y0), 1))
	for i := range steps + 1 {
		t := float64(i) / float64(steps)
		x, y := int(math.Round(x0+(x1-x0)*t)), int(math.Round(y0+(y1-y0)*t))
		img.SetRGBA(x, y, c)
		if c != faint {
			img.SetRGBA(x, y+1, c)
		}
	}
}

func write(img *image.RGBA, x, y int, text string, c color.RGBA) {
	d := font.Drawer{Dst: img, Src: image.NewUniform(c), Face: basicfont.Face7x13, Dot: fixed.P(x, y)}
	d.DrawString(text)
}
