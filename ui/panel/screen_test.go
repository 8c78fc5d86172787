package panel

import (
	"bytes"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"hearth/node/api"
	"hearth/ui/devicetest"
)

var update = flag.Bool("update", false, "write the golden pictures anew")

// displays are the ones the screens are laid out for.
var displays = []struct {
	name string
	size image.Point
	mono bool
}{
	{"240x240", image.Pt(240, 240), false},
	{"128x128", image.Pt(128, 128), false},
	{"128x64-mono", image.Pt(128, 64), true},
	{"250x122-mono", image.Pt(250, 122), true},
	{"320x240", image.Pt(320, 240), false},
}

func readyNode() *api.NodeStatus {
	return &api.NodeStatus{Address: "127.0.200.1:22300", Ready: true, Swarm: "7fffffffffffffff", SwarmMembers: 4, KnownNodes: 10, Messages: 1312, Bytes: 3_456_700, Onions: 8110, Requests: 4523}
}

func openAccount(change func(*api.MessengerState)) *api.MessengerState {
	s := devicetest.OpenState()
	if change != nil {
		change(s)
	}
	return s
}

// views are the screens somebody sees, from power-on to a bad day.
var views = []struct {
	name string
	view View
}{
	{"starting", View{}},
	{"setup", View{Messenger: &api.MessengerState{TriesLeft: 5}, Node: readyNode()}},
	{"setup-developer", View{Messenger: &api.MessengerState{TriesLeft: 5, Developer: true}, Node: readyNode()}},
	{"locked", View{Messenger: &api.MessengerState{Account: api.MessengerState_LOCKED, TriesLeft: 5}, Node: readyNode()}},
	{"home", View{Messenger: openAccount(nil), Node: readyNode()}},
	{"home-unread", View{Messenger: openAccount(func(s *api.MessengerState) { s.Unread = 3 }), Node: readyNode()}},
	{"home-developer", View{Messenger: openAccount(func(s *api.MessengerState) { s.Developer, s.Unread = true, 12 }), Node: readyNode()}},
	{"home-trouble", View{Messenger: openAccount(func(s *api.MessengerState) {
		s.Trouble = "no path of three nodes can be built: 2 nodes are known"
		s.Paths = 0
	}), Node: &api.NodeStatus{Trouble: "not in the node list of the network yet"}}},
	{"home-trouble-developer", View{Messenger: openAccount(func(s *api.MessengerState) {
		s.Developer, s.Trouble = true, "no path of three nodes can be built: 2 nodes are known"
	}), Node: readyNode()}},
	{"id", View{Messenger: openAccount(nil), Node: readyNode(), Page: FullID}},
	{"id-developer", View{Messenger: openAccount(func(s *api.MessengerState) { s.Developer = true }), Node: readyNode(), Page: FullID}},
	{"node", View{Messenger: openAccount(nil), Node: readyNode(), Device: &api.DeviceStatus{Address: "10.0.2.15"}, Page: Node}},
	{"node-trouble-developer", View{Messenger: openAccount(func(s *api.MessengerState) {
		s.Developer, s.Trouble = true, "no path of three nodes can be built: 2 nodes are known"
	}), Node: &api.NodeStatus{Address: "127.0.200.1:22300", Trouble: "not in the node list of the network yet"}, Page: Node}},
}

func TestScreensLookLikeTheirGoldenPictures(t *testing.T) {
	for _, d := range displays {
		for _, v := range views {
			t.Run(d.name+"/"+v.name, func(t *testing.T) {
				got := Draw(d.size, d.mono, v.view)
				path := filepath.Join("testdata", d.name, v.name+".png")
				if *update {
					var b bytes.Buffer
					if err := png.Encode(&b, got); err != nil {
						t.Fatal(err)
					}
					if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				if err := sameAs(path, got); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func sameAs(path string, got *image.RGBA) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	want, err := png.Decode(f)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if want.Bounds() != got.Bounds() {
		return fmt.Errorf("%s: %v, drawn %v", path, want.Bounds(), got.Bounds())
	}
	for y := range got.Rect.Dy() {
		for x := range got.Rect.Dx() {
			wr, wg, wb, _ := want.At(x, y).RGBA()
			gr, gg, gb, _ := got.At(x, y).RGBA()
			if apart(wr, gr) || apart(wg, gg) || apart(wb, gb) {
				return fmt.Errorf("%s: pixel %d,%d is another (go test ./ui/panel -update writes the pictures anew)", path, x, y)
			}
		}
	}
	return nil
}

// apart tells two parts of a colour from each other. Edges may come out one or
// two shades different where a processor rounds differently.
func apart(a, b uint32) bool { return max(a, b)-min(a, b) > 3*0x101 }

func TestTheCodeOnTheScreenReadsBackAsTheID(t *testing.T) {
	reader, err := exec.LookPath("zbarimg")
	if err != nil {
		t.Fatal("zbarimg not found: install with `make deps`")
	}
	for _, d := range displays {
		if d.size.Y < 100 {
			continue // too low for a code; the ID is there as text
		}
		for _, developer := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, developer mode %v", d.name, developer), func(t *testing.T) {
				var picture, out bytes.Buffer
				if err := png.Encode(&picture, Draw(d.size, d.mono, View{Messenger: openAccount(func(s *api.MessengerState) { s.Developer = developer }), Node: readyNode()})); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(reader, "-q", "--raw", "PNG:-")
				cmd.Stdin, cmd.Stdout = &picture, &out
				if err := cmd.Run(); err != nil {
					t.Fatalf("zbarimg: %v", err)
				}
				if got := strings.TrimSpace(out.String()); got != devicetest.Alice {
					t.Errorf("read %q", got)
				}
			})
		}
	}
}

func TestDeveloperModeIsOnEveryScreen(t *testing.T) {
	for _, d := range displays {
		for _, v := range views {
			with, without := v.view, v.view
			if v.view.Messenger == nil {
				continue // nobody has said so yet
			}
			with.Messenger, without.Messenger = proto.CloneOf(v.view.Messenger), proto.CloneOf(v.view.Messenger)
			with.Messenger.Developer, without.Messenger.Developer = true, false
			if banner := bannerPixels(d.mono, Draw(d.size, d.mono, with)) - bannerPixels(d.mono, Draw(d.size, d.mono, without)); banner < 400 {
				t.Errorf("%s/%s: the banner is %d pixels", d.name, v.name, banner)
			}
		}
	}
}

func bannerPixels(mono bool, m *image.RGBA) (n int) {
	want := colours.banner
	if mono {
		want = white
	}
	for y := range m.Rect.Dy() {
		for x := range m.Rect.Dx() {
			if m.RGBAAt(x, y) == want {
				n++
			}
		}
	}
	return n
}

func TestAMonoDisplayGetsBlackAndWhite(t *testing.T) {
	for _, v := range views {
		m := Draw(image.Pt(128, 64), true, v.view)
		for i := 0; i < len(m.Pix); i += 4 {
			if p := (color.RGBA{m.Pix[i], m.Pix[i+1], m.Pix[i+2], m.Pix[i+3]}); p != black && p != white {
				t.Fatalf("%s has %v", v.name, p)
			}
		}
	}
}

func TestAnySizeAndAnyTextCanBeDrawn(t *testing.T) {
	long := strings.Repeat("Überaus langes Wort ohne Ende ", 40) + strings.Repeat("W", 500) + "\x00\x1b[2J\n\u202e\ufffd😀"
	hard := []View{
		{Messenger: openAccount(func(s *api.MessengerState) { s.Trouble, s.Unread, s.SessionId = long, 1<<32-1, long }), Node: &api.NodeStatus{Trouble: long, Address: long, Swarm: long}},
		{Messenger: openAccount(func(s *api.MessengerState) { s.SessionId = "" })},
		{Messenger: openAccount(func(s *api.MessengerState) { s.SessionId = strings.Repeat("0", 10_000) })},
	}
	for _, v := range views {
		hard = append(hard, v.view)
	}
	for _, size := range []image.Point{{1, 1}, {8, 8}, {16, 200}, {200, 16}, {40, 40}, {96, 64}, {64, 128}, {160, 80}, {100, 100}, {180, 101}, {240, 320}, {480, 320}} {
		for _, mono := range []bool{false, true} {
			for _, v := range hard {
				for _, v.Page = range []Page{Home, FullID, Node} {
					if m := Draw(size, mono, v); m.Rect.Size() != size {
						t.Fatalf("picture of %v", m.Rect.Size())
					}
				}
			}
		}
	}
}

func BenchmarkDrawHome240(b *testing.B) {
	v := View{Messenger: openAccount(nil), Node: readyNode()}
	for b.Loop() {
		Draw(image.Pt(240, 240), false, v)
	}
}

func TestTheNodePageSaysWhoAnswers(t *testing.T) {
	v := View{Messenger: openAccount(nil), Node: readyNode(), Page: Node}
	v.Node.Reachable, v.Node.Failing = 9, 1
	found := false
	for _, r := range v.nodeRows() {
		found = found || r.label == "Answer" && r.value == "9 of 10"
	}
	if !found {
		t.Errorf("rows %+v", v.nodeRows())
	}
	if text, l := v.nodeLine(); l != good {
		t.Errorf("line %q", text)
	}
	v.Node.ReachTrouble = "no other node answers"
	if text, l := v.nodeLine(); text != "Node: no other node answers" || l != bad {
		t.Errorf("with trouble: line %q", text)
	}
}
