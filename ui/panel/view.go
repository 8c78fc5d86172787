package panel

import (
	"fmt"
	"strings"

	hw "hearth/hw/panel"
	"hearth/node/api"
)

// View is what a screen shows: the last answers of the services, nil for one
// that has not answered or does not any more, and the page.
type View struct {
	Messenger *api.MessengerState
	Node      *api.NodeStatus
	Device    *api.DeviceStatus
	Page      Page
}

// Page is one of the screens that the buttons lead to.
type Page int

// The pages.
const (
	Home   Page = iota // name, QR code, unread count, node state
	FullID             // the Session ID as large text
	Node               // the node's figures
)

func (p Page) after(b hw.Button) Page {
	switch {
	case b == hw.Key1 && p == FullID, b == hw.Key3:
		return Home
	case b == hw.Key1:
		return FullID
	case b == hw.Key2:
		return Node
	}
	return p
}

func (v View) developer() bool { return v.Messenger.GetDeveloper() || v.Device.GetDeveloper() }

// level is how good news a line is.
type level int

const (
	waiting level = iota
	good
	bad
)

// nodeState says how the node is, for a place that says it is the node.
func (v View) nodeState() (string, level) {
	switch n := v.Node; {
	case n == nil:
		return "starting", waiting
	case n.GetTrouble() != "":
		return n.GetTrouble(), bad
	case !n.GetReady():
		return "not ready", bad
	case n.GetReachTrouble() != "":
		return n.GetReachTrouble(), bad
	case n.GetSwarmMembers() > 0:
		return fmt.Sprintf("ready, swarm of %d", n.GetSwarmMembers()), good
	}
	return "ready", good
}

// nodeLine says how the node is.
func (v View) nodeLine() (string, level) {
	text, l := v.nodeState()
	if v.Node.GetTrouble() != "" || v.Node.GetReachTrouble() != "" && v.Node.GetReady() {
		return "Node: " + text, l
	}
	return "Node " + text, l
}

// messengerLine says how the messenger is.
func (v View) messengerLine() (string, level) {
	switch m := v.Messenger; {
	case m == nil, m.GetAccount() == api.MessengerState_STARTING:
		return "Messenger starting", waiting
	case m.GetTrouble() != "":
		return m.GetTrouble(), bad
	case m.GetAccount() == api.MessengerState_NONE:
		return "No account yet", waiting
	case m.GetAccount() == api.MessengerState_LOCKED:
		if n := m.GetTriesLeft(); n > 0 {
			return fmt.Sprintf("Locked, %d tries left", n), waiting
		}
		return "Locked", waiting
	case m.GetPaths() == 0:
		return "Building paths", waiting
	}
	return fmt.Sprintf("%s, %s", count(v.Messenger.GetPaths(), "path"), count(v.Messenger.GetKnownNodes(), "node")), good
}

func (v View) unread() string {
	n := v.Messenger.GetUnread()
	if n > 999 {
		return "999+"
	}
	return fmt.Sprint(n)
}

// row is a line of the node's page.
type row struct {
	label, value string
	short        string // where value does not fit beside the label; empty = value without the label
}

func (v View) nodeRows() []row {
	n := v.Node
	text := func(s string) string {
		if s == "" {
			return "none yet"
		}
		return s
	}
	rows := []row{{label: "Address", value: text(n.GetAddress())}, {label: "Swarm", value: text(n.GetSwarm())}}
	rows = append(rows,
		row{label: "Members", value: fmt.Sprint(n.GetSwarmMembers())},
		row{label: "Peers", value: fmt.Sprint(n.GetKnownNodes())},
		row{"Kept", fmt.Sprintf("%s, %s", count(n.GetMessages(), "message"), size(n.GetBytes())), fmt.Sprint(n.GetMessages())},
		row{"Relayed", count(n.GetOnions(), "layer"), fmt.Sprint(n.GetOnions())},
		row{"Served", count(n.GetRequests(), "request"), fmt.Sprint(n.GetRequests())},
	)
	if n.GetReachable()+n.GetFailing() > 0 {
		rows = append(rows, row{label: "Answer", value: fmt.Sprintf("%d of %d", n.GetReachable(), n.GetReachable()+n.GetFailing())})
	}
	if v.Device != nil {
		rows = append(rows, row{label: "Network", value: text(v.Device.GetAddress())})
	}
	return rows
}

func count[N uint32 | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func size(n uint64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// groups cuts an ID into pieces of six characters, which the eye can hold.
func groups(id string) []string {
	var all []string
	for len(id) > 6 {
		all = append(all, id[:6])
		id = id[6:]
	}
	return append(all, id)
}

// printable leaves out what a font has no picture for anyway.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
}
