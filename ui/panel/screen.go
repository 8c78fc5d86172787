package panel

import (
	"image"
	"image/color"
	"strings"
	"sync"

	"hearth/node/api"
	"hearth/ui/qr"
)

// drawing is held while the fonts are used.
var drawing sync.Mutex

// Draw makes the picture of a view for a display of the given size in pixels.
// A mono display gets black and white only.
func Draw(size image.Point, mono bool, v View) *image.RGBA {
	drawing.Lock()
	defer drawing.Unlock()
	c := newCanvas(size, mono)
	open := v.Messenger.GetAccount() == api.MessengerState_OPEN
	switch {
	case v.Page == Node:
		c.nodePage(c.banner(v), v)
	case v.Page == FullID && open:
		c.idPage(c.banner(v), v)
	case open:
		c.home(v)
	default:
		c.next(c.banner(v), v)
	}
	return c.RGBA
}

const developerMode = "DEVELOPER MODE: NO TPM"

// banner says at the foot of the screen that no TPM protects the keys, if so,
// and gives what is left above it.
func (c *canvas) banner(v View) image.Rectangle {
	return c.bannerIn(c.Rect, v)
}

func (c *canvas) bannerIn(r image.Rectangle, v View) image.Rectangle {
	if !v.developer() || c.low() { // a low screen says it in its header
		return r
	}
	foot := r
	foot.Min.Y = r.Max.Y - c.bannerHeight(v)
	c.fill(foot, c.theme.banner)
	text := developerMode
	if width(c.small, text) > foot.Dx() {
		text = "DEVELOPER MODE"
	}
	c.in(c.small, foot, 0, c.bannerText, text)
	r.Max.Y = foot.Min.Y
	return r
}

func (c *canvas) bannerHeight(v View) int {
	if v.developer() {
		return height(c.small) + 1
	}
	return 0
}

// low tells whether the display has room for a few lines of text only.
func (c *canvas) low() bool { return c.Rect.Dy() < 100 }

// home is the first screen: it shares the space out by the shape of the
// display, the QR code taking as much as whole pixels per module allow.
func (c *canvas) home(v View) {
	id := v.Messenger.GetSessionId()
	code, err := qr.New(id)
	if err != nil || c.low() {
		c.homeText(c.banner(v), v, code)
		return
	}
	const headerHeight = 20
	if area := c.bannerHeight(v); c.Rect.Dx()-code.Pixels(code.Scale(c.Rect.Dy()))-narrowest >= -code.Pixels(1) {
		c.homeWide(v, code)
	} else if scale := code.Scale(c.Rect.Dy() - area - headerHeight - height(c.small)); scale >= 4 && c.Rect.Dx() >= code.Pixels(scale) {
		c.homeTall(c.banner(v), v, code, scale)
	} else {
		c.homeTight(v, code)
	}
}

// homeTall has the name above the code, the ID beside it and the state below.
func (c *canvas) homeTall(r image.Rectangle, v View, code *qr.Code, scale int) {
	side := code.Pixels(scale)
	header := image.Rect(r.Min.X, r.Min.Y, r.Max.X, r.Min.Y+min(22, r.Dy()-side-height(c.small)))
	c.header(header, v)
	left := 2
	code.Draw(c.RGBA, image.Pt(left, header.Max.Y), scale)
	c.idColumn(image.Rect(left+side, header.Max.Y, r.Max.X, header.Max.Y+side), v)
	c.state(image.Rect(r.Min.X, header.Max.Y+side, r.Max.X, r.Max.Y), v)
}

// narrowest is what a column of text needs beside the code, in pixels.
const narrowest = 110

// homeWide has the code at the left and everything else at its right.
func (c *canvas) homeWide(v View, code *qr.Code) {
	scale := code.Scale(min(c.Rect.Dy(), c.Rect.Dx()-narrowest))
	side := code.Pixels(scale)
	code.Draw(c.RGBA, image.Pt(0, (c.Rect.Dy()-side)/2), scale)
	column := c.bannerIn(image.Rect(side+3, 0, c.Rect.Max.X, c.Rect.Max.Y), v)
	header := column
	header.Max.Y = header.Min.Y + height(c.title) + 3
	c.header(header, v)
	line := height(c.small) + 1
	lines := 2
	if c.mono {
		lines = 1
	}
	foot := column
	foot.Min.Y = foot.Max.Y - lines*line
	c.state(foot, v)
	c.idColumn(image.Rect(column.Min.X, header.Max.Y, column.Max.X, foot.Min.Y), v)
}

// homeTight is for a small square: the code, a line below it, and the name or
// the developer mode along its side.
func (c *canvas) homeTight(v View, code *qr.Code) {
	side := min(c.Rect.Dx(), c.Rect.Dy()-height(c.title)-1)
	scale := code.Scale(side)
	side = code.Pixels(scale)
	code.Draw(c.RGBA, image.Point{}, scale)
	edge := image.Rect(side, 0, c.Rect.Max.X, side)
	if v.developer() {
		c.sideways(c.small, edge, c.bannerText, c.theme.banner, "DEVELOPER MODE")
	} else if edge.Dx() > height(c.small) {
		text, l := v.summary()
		c.sideways(c.small, edge, c.colour(l), c.ground, text)
	}
	c.header(image.Rect(0, side, c.Rect.Max.X, c.Rect.Max.Y), v)
}

// homeText is for displays too low for a code that a camera could read. The
// code is drawn when there is room beside the ID, one pixel per module.
func (c *canvas) homeText(r image.Rectangle, v View, code *qr.Code) {
	line := height(c.small)
	header := r
	header.Max.Y = r.Min.Y + line - 1
	c.header(header, v)
	id := v.Messenger.GetSessionId()
	area := image.Rect(r.Min.X, header.Max.Y, r.Max.X, r.Max.Y)
	if code != nil && c.textLines(id, area.Dx()-code.Pixels(1)) <= area.Dy()/c.idPitch() && code.Pixels(1) <= area.Dy() {
		code.Draw(c.RGBA, image.Pt(area.Max.X-code.Pixels(1), area.Min.Y), 1)
		area.Max.X -= code.Pixels(1)
	}
	perLine := c.perLine(area.Dx())
	y := area.Min.Y
	for len(id) > 0 && y+c.idPitch() <= r.Max.Y {
		n := min(perLine, len(id))
		c.idLine(image.Pt(area.Min.X+1, y), id[:n])
		id = id[n:]
		y += c.idPitch()
	}
	if r.Max.Y-y >= line-2 {
		text, l := v.summary()
		c.in(c.small, image.Rect(area.Min.X, y, area.Max.X, r.Max.Y), -1, c.colour(l), text)
	}
}

// idPitch is the distance of two lines of an ID in pixels: hex digits have no
// descenders, so lines may stand closer than text.
func (c *canvas) idPitch() int {
	if c.mono {
		return digitHeight + 2
	}
	return height(c.code)
}

// idAdvance and idGap are the distances of two digits, and of two groups more,
// where every pixel counts.
func (c *canvas) idAdvance() int {
	if c.mono {
		return digitWidth + 1
	}
	return width(c.code, "0")
}

func (c *canvas) idGap() int { return c.idAdvance() * 2 / 3 }

func (c *canvas) perLine(w int) int {
	group := 6 * c.idAdvance()
	if w < group {
		return max(1, w/c.idAdvance())
	}
	return 6 * ((w + c.idGap()) / (group + c.idGap()))
}

func (c *canvas) idLine(at image.Point, digits string) {
	for i, digit := range []byte(digits) {
		x := at.X + i*c.idAdvance() + i/6*c.idGap()
		if c.mono {
			c.digit(image.Pt(x, at.Y+1), digit)
		} else {
			c.text(c.code, x, at.Y, c.theme.text, string(digit))
		}
	}
}

func (c *canvas) textLines(id string, w int) int {
	n := c.perLine(w)
	return (len(id) + n - 1) / n
}

// header has the name, the state of things as a dot, and the unread count.
func (c *canvas) header(r image.Rectangle, v View) {
	if c.low() {
		c.headerLow(r, v, "Hearth")
		return
	}
	x := r.Min.X + 3
	flame := min(r.Dy()-2, 20)
	if flame >= 11 {
		c.fire(x, r.Min.Y+(r.Dy()-flame)/2, flame)
		x += flame + 3
	}
	name := r
	name.Min.X = x
	c.in(c.title, name, -1, c.theme.text, "Hearth")
	x += width(c.title, "Hearth") + 4

	right := r.Max.X - 3
	if v.Messenger.GetUnread() > 0 {
		text := v.unread()
		if long := text + " unread"; right-x-16 > width(c.small, long)+10 {
			text = long
		}
		w := max(width(c.small, text)+10, r.Dy()-4)
		badge := image.Rect(right-w, r.Min.Y+2, right, r.Max.Y-2)
		if c.mono {
			badge = image.Rect(right-w, r.Min.Y, right, r.Max.Y)
		}
		c.pill(badge, c.ember)
		c.in(c.small, badge, 0, black, text)
		right = badge.Min.X - 4
	} else if long := "nothing unread"; right-x-16 > width(c.small, long) {
		c.in(c.small, image.Rect(x, r.Min.Y, right, r.Max.Y), 1, c.dim, long)
		return
	}
	if r.Dx() < 200 { // there is no line that says it
		_, l := v.summary()
		if radius := min(4, r.Dy()/3); right-x >= 2*radius {
			c.disc(image.Pt(x+radius+1, r.Min.Y+r.Dy()/2), radius, l)
		}
	}
}

// headerLow is a title that turns into the developer-mode banner.
func (c *canvas) headerLow(r image.Rectangle, v View, title string) {
	ink := c.theme.text
	if v.developer() {
		c.fill(r, c.theme.banner)
		ink = c.bannerText
		title += " DEVELOPER"
	}
	name := r
	name.Min.X += 2
	right := r.Max.X - 3
	if v.Messenger.GetUnread() > 0 {
		w := width(c.small, v.unread())
		c.in(c.small, image.Rect(right-w, r.Min.Y, right+1, r.Max.Y), 1, ink, v.unread())
		name.Max.X = right - w - 3
	} else if _, l := v.summary(); !v.developer() {
		c.disc(image.Pt(right-4, r.Min.Y+r.Dy()/2), min(4, r.Dy()/3), l)
		name.Max.X = right - 10
	}
	if v.developer() && width(c.title, title) > name.Dx() {
		title = "DEVELOPER"
	}
	c.in(c.title, name, -1, ink, title)
}

// summary is the most important of the two state lines.
func (v View) summary() (string, level) {
	node, l := v.nodeLine()
	if text, worse := v.messengerLine(); worse == bad || l == good {
		if worse == good {
			return "Ready", good
		}
		return text, worse
	}
	return node, l
}

func (c *canvas) colour(l level) color.RGBA {
	switch l {
	case good:
		return c.good
	case bad:
		return c.bad
	}
	return c.dim
}

// idColumn writes the ID in groups of six characters, as many to a line as fit.
func (c *canvas) idColumn(r image.Rectangle, v View) {
	r = r.Inset(1)
	all := groups(v.Messenger.GetSessionId())
	w := width(c.code, "000000")
	if w > r.Dx() {
		return
	}
	gap := width(c.code, "0")
	perLine := max(1, (r.Dx()+gap)/(w+gap))
	lines := (len(all) + perLine - 1) / perLine
	pitch := min(r.Dy()/lines, 18)
	if pitch < 9 {
		return
	}
	left := r.Min.X + (r.Dx()-perLine*w-(perLine-1)*gap)/2
	top := r.Min.Y + (r.Dy()-lines*pitch)/2
	for i, g := range all {
		x := left + i%perLine*(w+gap)
		y := top + i/perLine*pitch
		c.in(c.code, image.Rect(x, y, x+w+1, y+pitch), -1, c.shade(i), g)
	}
}

// shade alternates, so that neighbouring groups do not run together.
func (c *canvas) shade(i int) color.RGBA {
	if i%2 == 0 {
		return c.theme.text
	}
	return c.dim
}

// state writes what node and messenger say. With room for one line only, it is
// the more important one.
func (c *canvas) state(r image.Rectangle, v View) {
	line := height(c.small) + 1
	r.Min.X += 4
	r.Max.X -= 3
	write := func(r image.Rectangle, text string, l level) {
		radius := min(4, r.Dy()/3)
		c.disc(image.Pt(r.Min.X+radius, r.Min.Y+r.Dy()/2), radius, l)
		r.Min.X += 2*radius + 6
		c.in(c.small, r, -1, c.lineColour(l), printable(c.short(r.Dx(), text, l)))
	}
	if r.Dy() < 2*line {
		text, l := v.summary()
		if l == good {
			text, l = v.nodeLine()
		}
		write(r, text, l)
		return
	}
	upper, lower := r, r
	upper.Max.Y = r.Min.Y + r.Dy()/2
	lower.Min.Y = upper.Max.Y
	text, l := v.nodeLine()
	write(upper, text, l)
	text, l = v.messengerLine()
	write(lower, text, l)
}

// short leaves out the details of good news where they do not fit.
func (c *canvas) short(w int, text string, l level) string {
	if news, _, more := strings.Cut(text, ","); more && l != bad && width(c.small, text) > w {
		return news
	}
	return text
}

func (c *canvas) lineColour(l level) color.RGBA {
	if l == bad {
		return c.bad
	}
	return c.theme.text
}

// next is the screen before there is an open account: what to do.
func (c *canvas) next(r image.Rectangle, v View) {
	title, text, command := "Hearth", "Starting", ""
	switch m := v.Messenger; {
	case m == nil, m.GetAccount() == api.MessengerState_STARTING:
	case m.GetAccount() == api.MessengerState_NONE:
		title, text, command = "Welcome", "Choose a PIN on the serial console:", "setup PIN"
	default:
		title, text, command = "Locked", "Unlock on the serial console:", "unlock PIN"
	}
	if c.low() {
		c.nextText(r, v, text+" "+command)
		return
	}
	line := height(c.small) + 2
	foot := r
	foot.Min.Y = r.Max.Y - 2*line - 2
	c.state(foot, v)

	above := image.Rect(r.Min.X, r.Min.Y, r.Max.X, foot.Min.Y)
	lines := balance(c.body, text, above.Dx()-12, 3)
	flame := min(above.Dy()/3, 72)
	tall := flame + height(c.title) + 6 + len(lines)*(height(c.body)+1)
	if command != "" {
		tall += height(c.code) + 14
	}
	if tall > above.Dy() {
		flame = max(0, flame-(tall-above.Dy()))
		tall = above.Dy()
	}
	y := above.Min.Y + (above.Dy()-tall)/2
	if flame >= 11 {
		c.fire((above.Dx()-flame)/2, y, flame)
	}
	y += flame + 2
	row := func(h int) image.Rectangle {
		rect := image.Rect(above.Min.X+2, y, above.Max.X-2, y+h)
		y += h
		return rect
	}
	c.in(c.title, row(height(c.title)+2), 0, c.theme.text, title)
	y += 2
	for _, text := range lines {
		c.in(c.body, row(height(c.body)+1), 0, c.dim, text)
	}
	if command != "" {
		y += 4
		box := row(height(c.code) + 8)
		w := width(c.code, command) + 20
		box.Min.X = above.Min.X + (above.Dx()-w)/2
		box.Max.X = box.Min.X + w
		c.pill(box, c.ember)
		c.in(c.code, box, 0, black, command)
	}
}

func (c *canvas) nextText(r image.Rectangle, v View, text string) {
	line := height(c.body) - 1
	head := r
	head.Max.Y = r.Min.Y + line
	c.header(head, v)
	y := head.Max.Y
	for _, text := range wrap(c.body, text, r.Dx()-2, max(1, (r.Max.Y-y)/line)) {
		c.text(c.body, r.Min.X+1, y, c.theme.text, text)
		y += line
	}
	if r.Max.Y-y >= line-2 {
		text, l := v.nodeLine()
		c.in(c.small, image.Rect(r.Min.X+1, y, r.Max.X, r.Max.Y), -1, c.lineColour(l), printable(c.short(r.Dx()-1, text, l)))
	}
}

// idPage is the ID as large as it fits, in groups.
func (c *canvas) idPage(r image.Rectangle, v View) {
	id := v.Messenger.GetSessionId()
	if c.low() {
		c.homeText(r, v, nil)
		return
	}
	top := c.pageTitle(r, "Session ID", "KEY1 QR")
	all := groups(id)
	f, best := c.code, 0
	perLine := 1
	sizes := []float64{30, 28, 26, 24, 22, 20, 18, 16, 15, 14, 13, 12, 11, 10, 9}
	if c.mono {
		sizes = []float64{0}
	}
	// The largest letters win, whatever number of groups to a line that takes.
	for _, size := range sizes {
		try := c.code
		if size > 0 {
			try = face(fixedWidth, size)
		}
		w, gap := width(try, "000000"), width(try, "0")
		n := (r.Dx() - 4 + gap) / (w + gap)
		if n == 0 {
			continue
		}
		lines := (len(all) + n - 1) / n
		if lines*(height(try)+1) <= r.Max.Y-top {
			f, best, perLine = try, lines, n
			break
		}
	}
	if best == 0 {
		c.homeText(r, v, nil)
		return
	}
	w, gap := width(f, "000000"), width(f, "0")
	pitch := min((r.Max.Y-top)/best, height(f)*3/2)
	left := r.Min.X + (r.Dx()-perLine*w-(perLine-1)*gap)/2
	for i, g := range all {
		x := left + i%perLine*(w+gap)
		y := top + i/perLine*pitch
		c.in(f, image.Rect(x, y, x+w+1, y+pitch), -1, c.shade(i%perLine+i/perLine), g)
	}
}

// pageTitle writes the head of a page and the key that leads on, and gives the
// line below it.
func (c *canvas) pageTitle(r image.Rectangle, title, key string) (below int) {
	h := height(c.title) + 4
	if c.mono {
		h = height(c.title)
	}
	head := image.Rect(r.Min.X+3, r.Min.Y, r.Max.X-3, r.Min.Y+h)
	c.in(c.title, head, -1, c.theme.text, title)
	if free := head.Dx() - width(c.title, title); free > width(c.small, key)+8 {
		c.in(c.small, head, 1, c.dim, key)
	}
	c.fill(image.Rect(r.Min.X, head.Max.Y, r.Max.X, head.Max.Y+1), c.ember)
	return head.Max.Y + 2
}

// nodePage is the node's figures and, in full, what is wrong.
func (c *canvas) nodePage(r image.Rectangle, v View) {
	if c.low() {
		c.nodeText(r, v)
		return
	}
	y := c.pageTitle(r, "Node", "KEY3 home")
	text, l := v.nodeState()
	trouble, worse := v.messengerLine()
	line := height(c.body) + 1
	if c.mono {
		line = 12
	}
	state := image.Rect(r.Min.X+3, y, r.Max.X-3, y+line)
	wide := state.Dx() - 14
	lines := wrap(c.body, printable(text), wide, 3)
	for i, text := range lines {
		if i == 0 {
			radius := min(4, line/3)
			c.disc(image.Pt(state.Min.X+radius, state.Min.Y+line/2), radius, l)
		}
		at := state
		at.Min.X += 14
		c.in(c.body, at, -1, c.lineColour(l), text)
		state = state.Add(image.Pt(0, line))
	}
	y = state.Min.Y + 2
	rows := v.nodeRows()
	if v.Node == nil {
		rows = nil
	}
	// What is wrong stands below the figures, which give way.
	var below []string
	if worse == bad {
		below = wrap(c.body, printable("Messages: "+trouble), r.Dx()-6, min(4, (r.Max.Y-y)/line))
	}
	space := r.Max.Y - y - len(below)*line
	labels := 0
	for _, row := range rows {
		labels = max(labels, width(c.small, row.label))
	}
	pitch := line
	if n := len(rows); n > 0 && space/n > line {
		pitch = min(space/n, line+8)
	}
	for _, row := range rows {
		if space < pitch-2 {
			break
		}
		at := image.Rect(r.Min.X+3, y, r.Max.X-2, y+pitch)
		if width(c.small, row.value) > at.Dx()-labels-8 && row.short == "" {
			c.in(c.small, at, -1, c.theme.text, printable(row.value)) // it speaks for itself
			y += pitch
			space -= pitch
			continue
		}
		c.in(c.small, at, -1, c.dim, row.label)
		at.Min.X += labels + 8
		f, value := c.body, printable(row.value)
		if width(f, value) > at.Dx() {
			f = c.small
		}
		if row.short != "" && width(f, value) > at.Dx() {
			value = row.short
		}
		c.in(f, at, -1, c.theme.text, value)
		y += pitch
		space -= pitch
	}
	y = r.Max.Y - len(below)*line
	for _, text := range below {
		c.in(c.body, image.Rect(r.Min.X+3, y, r.Max.X-3, y+line), -1, c.bad, text)
		y += line
	}
}

// nodeText is the node's page in a few lines.
func (c *canvas) nodeText(r image.Rectangle, v View) {
	line := height(c.body) - 1
	head := r
	head.Max.Y = r.Min.Y + line
	c.headerLow(head, v, "Node")
	room := max(1, (r.Max.Y-head.Max.Y)/line)
	state, l := v.nodeState()
	lines := wrap(c.body, printable(state), r.Dx()-2, room)
	if l == good {
		lines = []string{"ready"}
	}
	if v.Node != nil {
		lines = append(lines, v.Node.GetAddress(), count(v.Node.GetKnownNodes(), "peer"), count(v.Node.GetMessages(), "message")+" kept")
	}
	y := head.Max.Y
	for _, text := range lines[:min(len(lines), room)] {
		c.in(c.body, image.Rect(r.Min.X+1, y, r.Max.X, y+line), -1, c.theme.text, printable(text))
		y += line
	}
}
