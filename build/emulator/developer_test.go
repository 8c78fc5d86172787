//go:build boot

package emulator_test

import (
	"context"
	"image"
	"image/color"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/build/emulator"
	hw "hearth/hw/panel"
	"hearth/hw/panel/viewer"
	"hearth/node/api"
	"hearth/ui/panel"
)

// A machine without a TPM keeps its account closed, unless somebody asked for
// developer mode, which then nobody can overlook.
func TestTheApplianceStartsWithoutATPMInDeveloperModeOnly(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	built := machine(t, ctx, emulator.AMD64)
	for _, c := range []struct {
		name, commandLine string
		says              []string // on the serial line, in this order
		then              string   // the command after that
		answer            string
		banner            bool // on the panel
	}{
		{
			name: "it refuses",
			says: []string{"tpm: FAILED: no TPM found", "run: not started, it needs: ", "poweroff switches off"},
			then: "setup 271828", answer: "The messenger is not running yet",
		},
		{
			name: "a word that is not clear is not enough", commandLine: "hearth.developer=no",
			says: []string{"hearth.developer=no: developer mode is off", "tpm: FAILED: no TPM found", "poweroff switches off"},
			then: "setup 271828", answer: "The messenger is not running yet",
		},
		{
			name: "developer mode", commandLine: "hearth.developer",
			says: []string{"console: DEVELOPER MODE", "tpm: none found: DEVELOPER MODE", "DEVELOPER MODE: no TPM protects the keys"},
			then: "setup 271828", answer: "Your account is ready", banner: true,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
			defer cancel()
			o := built
			o.CommandLine = c.commandLine
			m, err := emulator.Start(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Stop()
			screen := viewer.New(viewer.Unix(o.Panel), slog.New(slog.DiscardHandler))
			go screen.Run(ctx)

			type step struct {
				wait string
				do   func()
			}
			send := func(line string) func() { return func() { io.WriteString(m.Serial, line+"\r") } }
			var steps []step
			for _, text := range c.says {
				steps = append(steps, step{wait: text})
			}
			steps = append(steps,
				step{"hearth>", send(c.then)},
				step{c.answer, func() { lookAt(t, ctx, screen, c.banner) }},
				step{"hearth>", send("poweroff")},
				step{"Type yes:", send("yes")},
				step{"power: off", func() {}})
			for text := range pieces(m.Serial) {
				t.Log(text)
				for len(steps) > 0 && strings.Contains(text, steps[0].wait) {
					if steps[0].do != nil {
						steps[0].do()
						text = "" // what follows answers to that
					}
					steps = steps[1:]
				}
			}
			<-m.Done()
			if err := m.Err(); err != nil || len(steps) > 0 {
				t.Fatalf("the machine ended (%v) and did not come to %q", err, steps[0].wait)
			}
		})
	}
}

// lookAt waits for a picture on the panel with, or without, the banner that a
// device in developer mode has at the foot of every screen.
func lookAt(t *testing.T, ctx context.Context, screen *viewer.Viewer, banner bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for version := uint64(0); ; {
		picture, state, err := screen.Wait(ctx, version)
		if err != nil {
			t.Errorf("the panel does not show what it should (banner: %v): %v", banner, err)
			return
		}
		version = state.Version
		size := picture.Bounds().Size()
		with := panel.Draw(size, false, panel.View{Device: &api.DeviceStatus{Developer: true}})
		if slices.Equal(foot(picture), foot(with)) == banner {
			return
		}
	}
}

// foot is the lowest rows of a picture, fewer than the banner has, in the colours
// that the panel has.
func foot(p *image.RGBA) (pixels []color.Color) {
	const rows = 10
	b := p.Bounds()
	for y := b.Max.Y - rows; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			pixels = append(pixels, hw.RGB565Model.Convert(p.At(x, y)))
		}
	}
	return pixels
}
