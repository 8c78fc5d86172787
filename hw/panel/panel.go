// Package panel is the little screen with buttons: what a display with keys
// offers to the code that draws on it, and a virtual one that needs no
// hardware.
//
// A Panel takes pictures through periph.io's display.Drawer and gives button
// events through a channel. NewVirtual makes one that speaks a framed protocol
// (package link) over a byte stream: a virtio serial port inside an emulated
// machine (OpenVirtual with a port name), or a Unix socket on any Linux
// machine (OpenVirtual with a path). Package viewer is the other end of that
// stream: it keeps the picture and shows it on a local web page.
package panel

import (
	"fmt"

	"periph.io/x/conn/v3/display"
)

// Panel is a display with buttons beside it.
type Panel interface {
	display.Drawer
	// Buttons gives every press and every release, in order. The channel is
	// buffered; a panel nobody reads from drops events rather than wait.
	Buttons() <-chan Event
}

// Event is one change of one button.
type Event struct {
	Button  Button
	Pressed bool // false = released
}

// Button names a key as the display boards print it: a five-way stick and
// three keys.
type Button uint8

// The buttons of the Waveshare display boards, which the other boards have a
// part of.
const (
	Up Button = iota + 1
	Down
	Left
	Right
	Press
	Key1
	Key2
	Key3
)

var buttonNames = [...]string{Up: "UP", Down: "DOWN", Left: "LEFT", Right: "RIGHT", Press: "PRESS", Key1: "KEY1", Key2: "KEY2", Key3: "KEY3"}

// Known tells whether b is one of the named buttons.
func (b Button) Known() bool { return b >= Up && b <= Key3 }

func (b Button) String() string {
	if !b.Known() {
		return fmt.Sprintf("Button(%d)", uint8(b))
	}
	return buttonNames[b]
}

// ParseButton finds a button by its name, such as "KEY1".
func ParseButton(name string) (Button, bool) {
	for b := Up; b <= Key3; b++ {
		if buttonNames[b] == name {
			return b, true
		}
	}
	return 0, false
}
