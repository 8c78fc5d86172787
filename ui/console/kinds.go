package console

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"hearth/node/api"
)

// These commands are about messages that are there already, and about who may
// write. A message is named by the number that read shows.
func messageCommands() []*command {
	const numbered = "N is the number that `read` shows."
	return []*command{
		{name: "reply", arguments: "NAME N TEXT", summary: "answers a message, which is quoted", slow: true, run: (*Console).reply,
			more: []string{numbered}},
		{name: "react", arguments: "NAME N EMOJI", summary: "puts an emoji on a message", run: (*Console).react,
			more: []string{numbered + " With the word off behind it the emoji is taken away: react Bob 3 👍 off", "20 reactions a minute are allowed."}},
		{name: "sendfile", arguments: "NAME PATH", summary: "sends a file of this machine", slow: true, leaves: true, run: (*Console).sendFile,
			more: []string{"At most 10,000,000 bytes. JPEG, PNG, GIF and WebP pictures lose what they say about place, time and camera.",
				"HEIC, AVIF, TIFF and JPEG XL pictures have to be converted first: that cannot be taken out of them here."}},
		{name: "sendvoice", arguments: "NAME PATH", summary: "sends a sound file as a voice message", slow: true, leaves: true, run: (*Console).sendVoice,
			more: []string{"What it is, its ending says: .mp3 and .m4a, which Session's apps record themselves, or .aac, .ogg, .opus, .webm, .wav."}},
		{name: "save", arguments: "NAME N PATH", summary: "keeps a file that came with a message", slow: true, leaves: true, run: (*Console).save,
			more: []string{numbered + " Of several files 3.2 is the second one of message 3.",
				"PATH is a new file, or a folder. Files are fetched when you ask for them, never by themselves.",
				"Between two people the other side is told that you have kept it, as Session's apps do.",
				"What breaks off goes on where it was. The picture of a contact: save NAME picture PATH"}},
		{name: "picture", arguments: "[PATH]", summary: "shows whether you have a picture, or sets it", slow: true, leaves: true, run: (*Console).picture,
			more: []string{"It goes out with your messages, at most 600 pixels each way. The path - is none."}},
		{name: "find", arguments: "TEXT", summary: "finds messages that hold a text", run: (*Console).find,
			more: []string{"The latest 50 of all conversations, whatever the case of the letters. `older NAME N` shows what was before one."}},
		{name: "older", arguments: "NAME N", summary: "shows what was before a message", run: (*Console).older,
			more: []string{numbered + " 50 messages are shown at a time, and the number with which to go on."}},
		{name: "unsend", arguments: "NAME N", summary: "deletes a message of yours, for both sides", run: (*Console).unsend,
			more: []string{numbered, "It is deleted here and in the network at once. Their device is asked to do the same; it may have been read."}},
		{name: "timer", arguments: "NAME [TIMER]", summary: "lets messages disappear: off, read 12h, send 1d", run: (*Console).timer,
			more: []string{"read counts from when the other side has read a message, send from when it was sent. For your notes there is only send.",
				"From 10s to 2w, in s, m, h, d or w. It counts for what is written from then on, for both sides."}},
		{name: "requests", summary: "lists the strangers who wrote", run: (*Console).requests,
			more: []string{"`read ID` shows what they wrote, which tells them nothing. Writing to them accepts."}},
		{name: "accept", arguments: "ID|NAME", summary: "makes a contact of a stranger, and tells them", run: (*Console).accept},
		{name: "decline", arguments: "ID|NAME", summary: "deletes a request; nothing is sent", run: (*Console).decline},
		{name: "block", arguments: "ID|NAME", summary: "takes nothing from somebody any more; nothing is sent", run: (*Console).block},
		{name: "unblock", arguments: "ID|NAME", summary: "ends that", run: (*Console).unblock},
		{name: "name", arguments: "[NAME]", summary: "shows or sets what you call yourself", run: (*Console).displayName,
			more: []string{"It goes out with your messages. The name - is none."}},
		{name: "settings", arguments: "[X on|off]", summary: "shows the settings, or sets receipts, typing or lock", run: (*Console).settings,
			more: []string{"settings receipts on|off: tell others that you have read their messages, and be told.",
				"settings typing on|off: tell others that you are writing, and be told.",
				"settings lock MINUTES: close the account when nobody has used it for 1 to 1440 minutes; settings lock off: never by itself."}},
	}
}

// cutNumber reads whom a command is about and which message.
func (c *Console) cutNumber(ctx context.Context, rest, usage string) (with string, number uint64, left string, err error) {
	if with, rest, err = c.cutName(ctx, rest); err != nil {
		return "", 0, "", err
	}
	return numberOf(with, rest, usage)
}

// numberOf reads which message of a conversation a command is about.
func numberOf(with, rest, usage string) (_ string, number uint64, left string, err error) {
	text, left := cutWord(rest)
	number, parseErr := strconv.ParseUint(strings.TrimPrefix(text, "#"), 10, 64)
	if with == "" || parseErr != nil || number == 0 {
		return "", 0, "", usageError("Say with whom and which message: " + usage)
	}
	return with, number, left, nil
}

func (c *Console) reply(ctx context.Context, rest string) error {
	const usage = "reply NAME N TEXT"
	to, number, text, err := c.cutNumber(ctx, rest, usage)
	if err != nil {
		return err
	}
	if strings.TrimSpace(text) == "" {
		return usageError("Say what: " + usage)
	}
	return c.sendText(ctx, &api.SendRequest{To: to, Text: text, ReplyTo: number})
}

// sendText sends a message and says how far it got.
func (c *Console) sendText(ctx context.Context, r *api.SendRequest) error {
	if n := utf8.RuneCountInString(r.GetText()); n > MaxMessage {
		return usageError(fmt.Sprintf("A message has at most 2,000 characters; this one has %d.", n))
	}
	reply, err := c.cfg.Messenger.Send(ctx, r)
	if err != nil {
		return c.notWaitedFor(ctx, err, r.GetTo(), func(m *api.Message) bool { return m.GetText() == r.GetText() })
	}
	c.sent(reply)
	return nil
}

// afterwards is how long is looked for what became of a message that was not waited
// for.
const afterwards = 5 * time.Second

// notWaitedFor explains the error of a message that was to be sent. When it is only
// that nobody waited, the message is most often in the outbox already, which is said,
// and told again when it has gone out.
func (c *Console) notWaitedFor(ctx context.Context, err error, to string, isIt func(*api.Message) bool) error {
	if ctx.Err() == nil {
		return serviceError{messenger, err}
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), afterwards)
	defer cancel()
	reply, lookErr := c.cfg.Messenger.Messages(look, &api.MessagesRequest{With: to, Limit: recent})
	if lookErr != nil {
		return usageError("Not waited for. Whether it was written down cannot be seen now; `read` shows it if so.")
	}
	for _, m := range slices.Backward(reply.GetMessages()) {
		if !m.GetOutgoing() || !isIt(m) {
			continue
		}
		if m.GetState() == api.Message_WAITING {
			c.wait(m.GetId())
			return usageError("Not waited for. It is kept in the outbox and goes out as soon as the network takes it; `unsend` takes it back.")
		}
		return usageError("Not waited for, but it has gone out" + stateText(m) + ".")
	}
	return usageError("Not sent: nothing was written down yet.")
}

// recent is how many messages of a conversation are looked at for one that was just
// written.
const recent = 10

func (c *Console) sent(reply *api.SendReply) {
	if reply.GetState() == api.Message_WAITING {
		c.wait(reply.GetId())
		c.term.print("Written down; it goes out as soon as the network takes it.")
		return
	}
	c.term.print(fmt.Sprintf("Sent; %d of the %d nodes of their swarm keep it.", reply.GetStored(), reply.GetSwarm()))
}

// wait remembers that the user was told of a message that waits. Numbers of
// different conversations may be the same; then one is told once too often.
func (c *Console) wait(number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = make(map[uint64]bool)
	}
	c.waiting[number] = true
}

func (c *Console) waited(number uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.waiting[number]
	delete(c.waiting, number)
	return was
}

func (c *Console) react(ctx context.Context, rest string) error {
	with, number, rest, err := c.cutNumber(ctx, rest, "react NAME N EMOJI")
	if err != nil {
		return err
	}
	emoji, off := cutWord(rest)
	remove := strings.EqualFold(strings.TrimSpace(off), "off")
	if emoji == "" || off != "" && !remove {
		return usageError("Say which emoji: react NAME N EMOJI, or react NAME N EMOJI off")
	}
	if _, err := c.cfg.Messenger.React(ctx, &api.ReactRequest{With: with, Id: number, Emoji: emoji, Remove: remove}); err != nil {
		return serviceError{messenger, err}
	}
	if remove {
		c.term.print("Taken away.")
	} else {
		c.term.print("Done.")
	}
	return nil
}

func (c *Console) unsend(ctx context.Context, rest string) error {
	with, number, _, err := c.cutNumber(ctx, rest, "unsend NAME N")
	if err != nil {
		return err
	}
	m, err := c.cfg.Messenger.Unsend(ctx, &api.UnsendRequest{With: with, Id: number})
	if err != nil {
		return serviceError{messenger, err}
	}
	if isGroup(m.GetSessionId()) {
		c.term.print("Deleted here; the others' devices are asked to delete it.")
		return nil
	}
	c.term.print("Deleted here; the other side is asked to delete it.")
	return nil
}

func (c *Console) timer(ctx context.Context, rest string) error {
	const usage = usageError("Say with whom and when: timer NAME off, timer NAME read 12h, timer NAME send 1d; from 10s to 2w")
	with, rest, err := c.cutName(ctx, rest)
	if err != nil {
		return err
	}
	kind, rest := cutWord(rest)
	if with == "" {
		return usage
	}
	t := &api.Timer{}
	switch strings.ToLower(kind) {
	case "off":
	case "read":
		t.Type = api.Timer_AFTER_READ
	case "send":
		t.Type = api.Timer_AFTER_SEND
	case "":
		return c.showTimer(ctx, with)
	default:
		return usage
	}
	if t.Type != api.Timer_OFF {
		seconds, ok := parseSeconds(strings.TrimSpace(rest))
		switch {
		case !ok:
			return usage
		case seconds < minTimer || seconds > maxTimer:
			return usageError("Messages disappear after 10 seconds (10s) to 2 weeks (2w).")
		}
		t.Seconds = seconds
	}
	who, err := c.cfg.Messenger.SetTimer(ctx, &api.SetTimerRequest{With: with, Timer: t})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.term.print(sentence(timerText(who.GetTimer())))
	return nil
}

func (c *Console) showTimer(ctx context.Context, with string) error {
	reply, err := c.cfg.Messenger.Contacts(ctx, &api.ContactsRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	for _, who := range reply.GetContacts() {
		if strings.EqualFold(who.GetName(), with) || who.GetSessionId() == with {
			c.term.print(sentence(timerText(who.GetTimer())))
			return nil
		}
	}
	if g, err := c.oneGroup(ctx, with); err == nil {
		c.term.print(sentence(timerText(g.GetTimer())))
		return nil
	}
	return usageError(fmt.Sprintf("Nobody is called %q.", clip(with, 66)))
}

func timerText(t *api.Timer) string {
	when := "after sending"
	switch t.GetType() {
	case api.Timer_OFF:
		return "messages stay"
	case api.Timer_AFTER_READ:
		when = "after reading"
	}
	return "messages disappear " + spell(t.GetSeconds()) + " " + when
}

// Bounds of a timer in seconds, as service nodes have them.
const (
	minTimer = 10
	maxTimer = 14 * 24 * 60 * 60
)

// units are what people write durations in, the longest first.
var units = []struct {
	letter  string
	name    string
	seconds uint32
}{{"w", "week", 7 * 86400}, {"d", "day", 86400}, {"h", "hour", 3600}, {"m", "minute", 60}, {"s", "second", 1}}

func parseSeconds(text string) (uint32, bool) {
	for _, u := range units {
		if digits, ok := strings.CutSuffix(strings.ToLower(text), u.letter); ok {
			n, err := strconv.ParseUint(digits, 10, 16)
			return uint32(n) * u.seconds, err == nil && n > 0
		}
	}
	return 0, false
}

func spell(seconds uint32) string {
	for _, u := range units {
		if n := seconds / u.seconds; n > 0 && seconds%u.seconds == 0 {
			if n == 1 {
				return "1 " + u.name
			}
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "at once"
}

func (c *Console) requests(ctx context.Context, _ string) error {
	reply, err := c.cfg.Messenger.Requests(ctx, &api.RequestsRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	invitations := c.invitationLines(ctx)
	if len(reply.GetContacts()) == 0 {
		if len(invitations) == 0 {
			invitations = []string{"No requests."}
		}
		c.term.print(invitations...)
		return nil
	}
	lines := invitations
	for _, who := range reply.GetContacts() {
		name := "gives no name"
		if who.GetProfileName() != "" {
			name = "calls itself " + clip(who.GetProfileName(), 60)
		}
		lines = append(lines, who.GetSessionId()+"  "+name,
			fmt.Sprintf("    %s  %s", stamp(who.GetLastTime()), clip(who.GetLastText(), 60)))
	}
	c.term.print(append(lines, "`accept`, `decline` or `block` decides.")...)
	return nil
}

// about runs a command that has nothing but a person.
func (c *Console) about(ctx context.Context, name, rest, done string, call func(context.Context, *api.WhoRequest) (*api.Contact, error)) error {
	who := unquote(rest)
	if who == "" {
		return usageError("Say who: " + name + " ID|NAME")
	}
	contact, err := call(ctx, &api.WhoRequest{Who: who})
	if err != nil {
		return serviceError{messenger, err}
	}
	shown := person(contact.GetName(), contact.GetSessionId())
	if shown == "" {
		shown = who
	}
	text := clip(shown, 66) + " " + done
	if n := contact.GetUnread(); n > 0 && contact.GetApproved() && !contact.GetBlocked() {
		text += " " + unreadText(n) + ", see `read`."
	}
	c.term.print(text)
	return nil
}

func (c *Console) accept(ctx context.Context, rest string) error {
	return c.about(ctx, "accept", rest, "is a contact now and will be told.", func(ctx context.Context, r *api.WhoRequest) (*api.Contact, error) {
		return c.cfg.Messenger.Accept(ctx, r)
	})
}

func (c *Console) decline(ctx context.Context, rest string) error {
	return c.about(ctx, "decline", rest, "and the request are deleted.", func(ctx context.Context, r *api.WhoRequest) (*api.Contact, error) {
		_, err := c.cfg.Messenger.Decline(ctx, r)
		return nil, err
	})
}

func (c *Console) block(ctx context.Context, rest string) error {
	return c.about(ctx, "block", rest, "is blocked.", func(ctx context.Context, r *api.WhoRequest) (*api.Contact, error) {
		return c.cfg.Messenger.Block(ctx, r)
	})
}

func (c *Console) unblock(ctx context.Context, rest string) error {
	return c.about(ctx, "unblock", rest, "is not blocked.", func(ctx context.Context, r *api.WhoRequest) (*api.Contact, error) {
		return c.cfg.Messenger.Unblock(ctx, r)
	})
}

func (c *Console) displayName(ctx context.Context, rest string) error {
	r := &api.SettingsRequest{}
	if name := unquote(rest); name == "-" {
		r.DisplayName = proto.String("")
	} else if name != "" {
		r.DisplayName = proto.String(name)
	}
	reply, err := c.cfg.Messenger.Settings(ctx, r)
	if err != nil {
		return serviceError{messenger, err}
	}
	if reply.GetDisplayName() == "" {
		c.term.print("You go by your Session ID only. `name NAME` sets a name.")
	} else {
		c.term.print("You call yourself " + reply.GetDisplayName() + ".")
	}
	return nil
}

func (c *Console) settings(ctx context.Context, rest string) error {
	r := &api.SettingsRequest{}
	what, rest := cutWord(rest)
	value := strings.ToLower(strings.TrimSpace(rest))
	if strings.ToLower(what) == "lock" {
		minutes, err := strconv.ParseUint(value, 10, 32)
		if value == "off" {
			minutes, err = 0, nil
		}
		if err != nil {
			return usageError("Say after how many minutes without use, 1 to 1440, the account locks: settings lock 10, settings lock off")
		}
		r.LockMinutes = proto.Uint32(uint32(minutes))
	} else if what != "" {
		if value != "on" && value != "off" {
			return usageError("Say what and how: settings receipts on, settings typing off")
		}
		switch strings.ToLower(what) {
		case "receipts":
			r.ReadReceipts = proto.Bool(value == "on")
		case "typing":
			r.Typing = proto.Bool(value == "on")
		default:
			return usageError("There is no such setting; there are receipts, typing and lock. `help settings` explains them.")
		}
	}
	reply, err := c.cfg.Messenger.Settings(ctx, r)
	if err != nil {
		return serviceError{messenger, err}
	}
	name := reply.GetDisplayName()
	if name == "" {
		name = "none"
	}
	c.term.print("name      "+name, "receipts  "+onOff(reply.GetReadReceipts()), "typing    "+onOff(reply.GetTyping()), "lock      "+lockText(reply.GetLockMinutes()))
	return nil
}

func lockText(minutes uint32) string {
	if minutes == 0 {
		return "off"
	}
	return "after " + count(minutes, "minute") + " without use"
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// messageLines shows one line of a conversation with somebody, and below it what
// belongs to it.
func messageLines(with string, m *api.Message) []string {
	const indent = "                  " // as wide as a time and two spaces
	who := byline(with, m.GetFrom(), m.GetFromName())
	if m.GetOutgoing() {
		who = "you"
	}
	switch m.GetKind() {
	case api.Message_GROUP_KICKED, api.Message_GROUP_DESTROYED:
		return []string{stamp(m.GetTimestamp()) + "  * " + m.GetText()} // nobody is named
	}
	if m.GetKind() != api.Message_TEXT {
		return []string{stamp(m.GetTimestamp()) + "  * " + who + " " + m.GetText()}
	}
	prefix := stamp(m.GetTimestamp()) + "  "
	if m.GetId() != 0 {
		prefix += fmt.Sprintf("#%d ", m.GetId())
	}
	prefix += who + ": "
	text := visibleLines(m.GetText())
	if m.GetDeleted() {
		text = []string{"(deleted by its writer)"}
		if m.GetByAdmin() {
			text[0] = "(deleted by an admin)"
		}
	}
	var lines []string
	for i, part := range text {
		if i == 1 {
			prefix = indent
		}
		lines = append(lines, prefix+part)
	}
	lines[len(lines)-1] += stateText(m)
	add := func(text string) { lines = append(lines, indent+text) }
	if q := m.GetQuote(); q.GetFound() {
		add(fmt.Sprintf("answers #%d: %s", q.GetId(), clip(q.GetText(), 60)))
	} else if q != nil {
		add("answers a message that is not here")
	}
	for _, f := range m.GetAttachments() {
		name, kind := f.GetName(), "file"
		if name == "" {
			name = "without a name"
		}
		if f.GetVoice() {
			kind = "voice message"
		}
		add(fmt.Sprintf("%s %s, %s, %d bytes", kind, name, f.GetType(), f.GetSize()))
	}
	if p := m.GetPreview(); p != nil {
		add("link " + p.GetUrl() + ": " + clip(p.GetTitle(), 60))
	}
	if i := m.GetInvitation(); i != nil {
		add("invitation to " + clip(i.GetName(), 60) + ": " + i.GetUrl())
	}
	if len(m.GetReactions()) > 0 {
		add(reactionText(with, m))
	}
	if m.GetExpires() > 0 {
		add("disappears " + stamp(m.GetExpires()))
	}
	return lines
}

// reactionText says who put what on a message of a conversation with somebody.
func reactionText(with string, m *api.Message) string {
	var parts []string
	for _, r := range m.GetReactions() {
		by := byline(with, r.GetFrom(), r.GetFromName())
		if r.GetOutgoing() {
			by = "you"
		}
		parts = append(parts, r.GetEmoji()+" "+by)
	}
	return strings.Join(parts, ", ")
}

// stateText says how far an own message is.
func stateText(m *api.Message) string {
	switch m.GetState() {
	case api.Message_WAITING:
		return " (waiting)"
	case api.Message_STORED:
		if m.GetSwarm() > 0 {
			return fmt.Sprintf(" (stored at %d of %d)", m.GetStored(), m.GetSwarm())
		}
	case api.Message_SEEN:
		return " (read)"
	case api.Message_FAILED:
		return " (not sent: " + m.GetFailure() + ")"
	}
	return ""
}

// happened tells what came in besides messages of contacts.
func (c *Console) happened(ctx context.Context, event *api.Event) {
	who := func(id string) string { return person(c.nameOf(ctx, id), id) }
	switch e := event.GetEvent().(type) {
	case *api.Event_Request:
		// What strangers write is not put before anybody's eyes.
		c.term.print("* message request from " + e.Request.GetSessionId() + "; `requests` lists them")
	case *api.Event_Info:
		if isGroup(e.Info.GetSessionId()) {
			c.groupInfo(e.Info, who(e.Info.GetSessionId()))
		} else if !e.Info.GetOutgoing() {
			c.term.print("* " + who(e.Info.GetSessionId()) + " " + e.Info.GetText())
		}
	case *api.Event_Group:
		if e.Group.GetState() == api.Group_INVITED {
			// As with strangers: not a word of it is put before anybody's eyes.
			c.term.print("* invitation to a group from " + who(e.Group.GetInvitedBy()) + "; `groups` lists it")
		}
	case *api.Event_Device:
		c.newDevice(e.Device)
	case *api.Event_Transfer:
		c.progress(ctx, e.Transfer)
	case *api.Event_Typing:
		if !e.Typing.GetStopped() {
			c.term.print("* " + who(e.Typing.GetSessionId()) + " is writing")
		}
	case *api.Event_Updated:
		m := e.Updated.GetMessage()
		name := who(m.GetSessionId())
		switch e.Updated.GetChange() {
		case api.Update_STATE:
			switch {
			case m.GetState() == api.Message_FAILED:
				c.term.print("* not sent to " + name + ": " + m.GetFailure())
			case m.GetState() == api.Message_STORED && c.waited(m.GetId()):
				c.term.print(fmt.Sprintf("* sent to %s; %d of the %d nodes of their swarm keep it", name, m.GetStored(), m.GetSwarm()))
			}
		case api.Update_REACTION:
			for _, r := range m.GetReactions() {
				if !r.GetOutgoing() {
					of := "of"
					if isGroup(m.GetSessionId()) {
						of = "in"
					}
					c.term.print(fmt.Sprintf("* reactions %s %s to %q: %s", of, name, clip(m.GetText(), 60), reactionText(name, m)))
					return
				}
			}
		case api.Update_UNSENT:
			switch {
			case m.GetByAdmin():
				c.term.print(fmt.Sprintf("* an admin of %s deleted a message, #%d", name, m.GetId()))
			case isGroup(m.GetSessionId()) && !m.GetOutgoing():
				c.term.print(fmt.Sprintf("* %s in %s deleted a message, #%d", byline("", m.GetFrom(), m.GetFromName()), name, m.GetId()))
			case !m.GetOutgoing():
				c.term.print(fmt.Sprintf("* %s deleted a message, #%d", name, m.GetId()))
			}
		}
	}
}
