package console

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// command is one word that the console knows.
type command struct {
	name      string
	arguments string // as help shows them
	summary   string
	more      []string // further lines of "help command"
	secret    bool     // the line may hold a PIN
	slow      bool     // goes over the network
	leaves    bool     // only where the user may leave, that is on a machine with files of theirs
	service   string   // node, ledger or device: only where there is one
	run       func(c *Console, ctx context.Context, rest string) error
}

// Limits of one command, people included: a question may wait this long for
// its answer.
const (
	quickly = 2 * time.Minute
	slowly  = 5 * time.Minute
)

func (cmd *command) timeout() time.Duration {
	if cmd.slow {
		return slowly
	}
	return quickly
}

// order is the order of help; commands finds a command by its name.
var (
	order    []*command
	commands = map[string]*command{}
)

// The table is filled at start, because help, which it holds, looks into it.
func init() {
	order = []*command{
		{name: "help", arguments: "[COMMAND]", summary: "lists the commands, or explains one", run: (*Console).help},
		{name: "status", summary: "how the device, the account and the node are", run: (*Console).status},
		{name: "setup", arguments: "[PIN]", summary: "makes your account and chooses its PIN", secret: true, run: (*Console).setup,
			more: []string{"The PIN has 6 to 32 characters. Without one in the line it is asked for and not shown.",
				"The account is sealed with it; nobody can give you another PIN. `phrase` shows what to keep instead."}},
		{name: "unlock", arguments: "[PIN]", summary: "opens the account after a start", secret: true, run: (*Console).unlock,
			more: []string{"After a few wrong PINs the device makes you wait. Without a PIN in the line it is asked for and not shown."}},
		{name: "id", summary: "shows your Session ID, also as a QR code", run: (*Console).id,
			more: []string{"The Session ID is your address. It may be given to anybody you want to hear from."}},
		{name: "phrase", arguments: "[PIN]", summary: "shows the recovery phrase of 13 words", secret: true, run: (*Console).phrase,
			more: []string{"Whoever has the words has the account. Write them on paper and show them to nobody."}},
		{name: "restore", arguments: "[WORDS]", summary: "brings an account back from its recovery phrase", secret: true, slow: true, run: (*Console).restore,
			more: []string{"The phrase is the 13 words, or the 32 digits that a recovery QR code holds. Then the PIN is asked for, twice.",
				"Afterwards everything arrives that the network still keeps for the account."}},
		{name: "pin", summary: "changes the PIN", run: (*Console).changePIN},
		{name: "lock", summary: "closes the account until the next unlock", run: (*Console).lock},
		{name: "duress", summary: "chooses a PIN that wipes the account", run: (*Console).duress,
			more: []string{"Where this device asks for the PIN, that one wipes the account for good and shows an empty one.",
				"`pin` keeps it. Nobody can ask the device whether there is one."}},
		{name: "wipe", arguments: "[everything]", summary: "leaves the account for good, after a question", slow: true, run: (*Console).wipe,
			more: []string{"First the network deletes what it keeps for the account, and says so; then this device forgets it.",
				"Write down what `phrase` shows if you may want to come back.",
				"`wipe everything` is for the day on which the device changes hands: nothing that it keeps can be read again."}},
		{name: "send", arguments: "ID|NAME TEXT", summary: "sends a message", slow: true, run: (*Console).send,
			more: []string{"A message has 1 to 2,000 characters. A name with spaces may go in quotes: send \"Anna B\" good morning",
				"The name me is yourself: what is sent to it is a note, for all your devices."}},
		{name: "read", arguments: "[ID|NAME]", summary: "shows new messages, or one conversation", run: (*Console).read,
			more: []string{"What was shown counts as read. Signs that could fool a terminal are spelled out, such as ␛ for Escape."}},
		{name: "contacts", summary: "lists the people you know", run: (*Console).contacts},
		{name: "add", arguments: "ID NAME", summary: "gives a Session ID a name", run: (*Console).add,
			more: []string{"The name has at most 100 bytes and stays on your devices; it may have spaces. ID is also what a scanned QR code holds.",
				"A stranger who wrote is accepted with it, as `accept` does."}},
		{name: "node", service: "node", summary: "how this device's service node does", run: (*Console).node},
		{name: "peers", service: "node", summary: "lists the other service nodes", run: (*Console).peers},
		{name: "logs", service: "device", arguments: "[N]", summary: "shows the last N lines of the log, 50 unless told", run: (*Console).logs},
		{name: "restart", service: "device", summary: "restarts the device, after a question", run: (*Console).restart},
		{name: "poweroff", service: "device", summary: "switches the device off, after a question", run: (*Console).powerOff},
		{name: "exit", summary: "leaves the console", leaves: true, run: func(*Console, context.Context, string) error { return errLeave }},
	}
	at := slices.IndexFunc(order, func(cmd *command) bool { return cmd.name == "add" }) + 1
	order = slices.Insert(order, at, messageCommands()...)
	order = slices.Insert(order, at+len(messageCommands()), groupCommands()...)
	at = slices.IndexFunc(order, func(cmd *command) bool { return cmd.name == "peers" }) + 1
	order = slices.Insert(order, at, stakeCommands()...)
	at = slices.IndexFunc(order, func(cmd *command) bool { return cmd.name == "wipe" }) + 1
	order = slices.Insert(order, at, deviceCommands()...)
	for _, cmd := range order {
		commands[cmd.name] = cmd
	}
}

// offers tells whether a command is of use here.
func (c *Console) offers(cmd *command) bool {
	switch {
	case cmd.leaves:
		return c.cfg.MayLeave
	case cmd.service == "node":
		return c.cfg.Node != nil
	case cmd.service == "ledger":
		return c.cfg.Ledger != nil
	case cmd.service == "device":
		return c.cfg.Device != nil
	}
	return true
}

func (c *Console) help(_ context.Context, rest string) error {
	if name, _ := cutWord(rest); name != "" {
		cmd, ok := commands[strings.ToLower(name)]
		if !ok || !c.offers(cmd) {
			c.unknown(name)
			return nil
		}
		c.term.print(append([]string{strings.TrimSpace(cmd.name+" "+cmd.arguments) + ": " + cmd.summary + "."}, cmd.more...)...)
		return nil
	}
	var lines []string
	for _, cmd := range order {
		if c.offers(cmd) {
			lines = append(lines, fmt.Sprintf("  %-19s %s", strings.TrimSpace(cmd.name+" "+cmd.arguments), cmd.summary))
		}
	}
	lines = append(lines, "Ctrl-C drops the line or stops waiting, Ctrl-U clears the line, the arrow up brings back an older one.")
	c.term.print(lines...)
	return nil
}

// unknown says that there is no such command and which was probably meant.
func (c *Console) unknown(word string) {
	text := fmt.Sprintf("There is no command %q.", clip(word, 40))
	if best := c.nearest(strings.ToLower(word)); best != "" {
		text += fmt.Sprintf(" Did you mean `%s`?", best)
	} else {
		text += " `help` lists the commands."
	}
	c.term.print(text)
}

// nearest gives the command that word is most likely a misspelling of, empty
// when none is near.
func (c *Console) nearest(word string) string {
	best, bestDistance := "", 3
	for _, cmd := range order {
		if cmd.name == "exit" || !c.offers(cmd) {
			continue
		}
		d := distance(word, cmd.name)
		if len(word) >= 2 && strings.HasPrefix(cmd.name, word) {
			d = min(d, 1)
		}
		if d < bestDistance && d < len(cmd.name) {
			best, bestDistance = cmd.name, d
		}
	}
	return best
}

// distance counts the single-character changes between two words: one put in,
// left out or replaced, or two neighbours swapped. Long words are far from
// everything.
func distance(a, b string) int {
	if len(a) > 20 || len(b) > 20 {
		return max(len(a), len(b))
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = slices.Min([]int{rows[i-1][j] + 1, rows[i][j-1] + 1, replace})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
