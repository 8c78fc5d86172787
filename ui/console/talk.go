package console

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hearth/node/account"
	"hearth/node/api"
)

const messenger = "messenger"

// MaxMessage is the longest message that Session clients send, in characters.
const MaxMessage = 2000

func (c *Console) send(ctx context.Context, rest string) error {
	to, text, err := c.cutName(ctx, rest)
	if err != nil {
		return err
	}
	if to == "" || strings.TrimSpace(text) == "" {
		return usageError("Say to whom and what: send ID|NAME TEXT")
	}
	return c.sendText(ctx, &api.SendRequest{To: to, Text: text})
}

// readLimit is how many messages of a conversation read shows.
const readLimit = 50

func (c *Console) read(ctx context.Context, rest string) error {
	if with := unquote(rest); with != "" {
		return c.readOne(ctx, with)
	}
	contacts, err := c.cfg.Messenger.Contacts(ctx, &api.ContactsRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	shown := false
	for _, who := range append(contacts.GetContacts(), c.unreadGroups(ctx)...) {
		if who.GetUnread() == 0 {
			continue
		}
		limit := min(who.GetUnread()+readLimit, 1000) // own answers may stand between
		reply, err := c.cfg.Messenger.Messages(ctx, &api.MessagesRequest{With: who.GetSessionId(), Limit: limit, MarkRead: true})
		if err != nil {
			return serviceError{messenger, err}
		}
		var fresh []*api.Message
		for _, m := range reply.GetMessages() {
			if !m.GetOutgoing() && !m.GetRead() {
				fresh = append(fresh, m)
			}
		}
		if len(fresh) > 0 {
			shown = true
			c.printConversation(who.GetName(), who.GetSessionId(), fresh)
		}
	}
	if !shown {
		c.term.print("No unread messages. `read NAME` shows a conversation.")
	}
	return nil
}

func (c *Console) readOne(ctx context.Context, with string) error {
	reply, err := c.cfg.Messenger.Messages(ctx, &api.MessagesRequest{With: with, Limit: readLimit, MarkRead: true})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetMessages()) == 0 {
		c.term.print("No messages with " + with + " yet.")
		return nil
	}
	id := reply.GetMessages()[0].GetSessionId()
	c.printConversation(c.nameOf(ctx, id), id, reply.GetMessages())
	if len(reply.GetMessages()) == readLimit {
		c.term.print(before(with, reply.GetMessages()))
	}
	return nil
}

// older shows the messages before one, page by page.
func (c *Console) older(ctx context.Context, rest string) error {
	with, number, _, err := c.cutNumber(ctx, rest, "older NAME N")
	if err != nil {
		return err
	}
	reply, err := c.cfg.Messenger.Messages(ctx, &api.MessagesRequest{With: with, Limit: readLimit, Before: number})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetMessages()) == 0 {
		c.term.print(fmt.Sprintf("Nothing is before #%d; `read %s` shows the latest.", number, quoted(with)))
		return nil
	}
	id := reply.GetMessages()[0].GetSessionId()
	c.printConversation(c.nameOf(ctx, id), id, reply.GetMessages())
	if len(reply.GetMessages()) < readLimit {
		c.term.print("This is the beginning.")
	} else {
		c.term.print(before(with, reply.GetMessages()))
	}
	return nil
}

// before says how to see what was before messages.
func before(with string, messages []*api.Message) string {
	first := slices.MinFunc(messages, func(a, b *api.Message) int { return cmp.Compare(a.GetId(), b.GetId()) })
	return fmt.Sprintf("`older %s %d` shows what was before.", quoted(with), first.GetId())
}

// quoted is a name as it can be typed.
func quoted(name string) string {
	if strings.Contains(name, " ") {
		return `"` + name + `"`
	}
	return name
}

// find shows messages with a text, one conversation after the other.
func (c *Console) find(ctx context.Context, rest string) error {
	text := unquote(rest)
	if text == "" {
		return usageError("Say which text: find TEXT")
	}
	reply, err := c.cfg.Messenger.Search(ctx, &api.SearchRequest{Text: text, Limit: readLimit})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetMessages()) == 0 {
		c.term.print(fmt.Sprintf("No message has %q in it. Looked through are the texts, names of files and links of all contacts and groups, whatever the case.", clip(text, 60)))
		return nil
	}
	var order []string
	found := make(map[string][]*api.Message)
	for _, m := range reply.GetMessages() { // the latest first
		id := m.GetSessionId()
		if found[id] == nil {
			order = append(order, id)
		}
		found[id] = append(found[id], m)
	}
	for _, id := range order {
		slices.Reverse(found[id])
		c.printConversation(c.nameOf(ctx, id), id, found[id])
	}
	if n := len(reply.GetMessages()); n < readLimit {
		c.term.print(count(n, "message") + " found. `older NAME N` shows what was before one.")
	} else {
		c.term.print(fmt.Sprintf("These are the latest %d; there may be more: say more of the text. `older NAME N` shows what was before one.", n))
	}
	return nil
}

func (c *Console) printConversation(name, id string, messages []*api.Message) {
	head, short := "With "+id, account.ShortID(id)
	if name != "" && name != id {
		head, short = "With "+name+" ("+id+")", clip(name, 24)
	}
	lines := []string{head}
	for _, m := range messages {
		lines = append(lines, messageLines(short, m)...)
	}
	c.term.print(lines...)
}

func (c *Console) contacts(ctx context.Context, _ string) error {
	reply, err := c.cfg.Messenger.Contacts(ctx, &api.ContactsRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetContacts()) == 0 {
		c.term.print("Nobody yet. `add ID NAME` names somebody, `send ID TEXT` writes to them.")
		return nil
	}
	var lines []string
	for _, who := range reply.GetContacts() {
		name := who.GetName()
		if name == "" {
			name = "(no name)"
		}
		line := fmt.Sprintf("%s  %s", who.GetSessionId(), clip(name, 60))
		if n := who.GetUnread(); n > 0 {
			line += fmt.Sprintf(", %d unread", n)
		} else if who.GetMarkedUnread() {
			line += ", marked unread"
		}
		if who.GetBlocked() {
			line += ", blocked"
		}
		lines = append(lines, line)
		if who.GetLastTime() > 0 {
			lines = append(lines, fmt.Sprintf("    %s  %s", stamp(who.GetLastTime()), clip(who.GetLastText(), 60)))
		}
	}
	c.term.print(lines...)
	return nil
}

func (c *Console) add(ctx context.Context, rest string) error {
	id, name := cutWord(rest)
	name = unquote(name)
	if id == "" || name == "" {
		return usageError("Say whose ID and which name: add ID NAME")
	}
	who, err := c.cfg.Messenger.AddContact(ctx, &api.AddContactRequest{SessionId: id, Name: name})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.term.print(who.GetName() + " is " + who.GetSessionId() + ".")
	return nil
}

// unquote takes a whole rest of a line as one word.
func unquote(rest string) string {
	rest = strings.TrimSpace(rest)
	if inner, ok := strings.CutPrefix(rest, `"`); ok {
		if inner, ok := strings.CutSuffix(inner, `"`); ok {
			return strings.TrimSpace(inner)
		}
	}
	return rest
}

// nameOf gives the name of a Session ID, empty when it has none.
func (c *Console) nameOf(ctx context.Context, id string) string {
	if isGroup(id) {
		return c.groupName(ctx, id)
	}
	reply, err := c.cfg.Messenger.Contacts(ctx, &api.ContactsRequest{})
	if err != nil {
		return ""
	}
	for _, who := range reply.GetContacts() {
		if who.GetSessionId() == id {
			return who.GetName()
		}
	}
	return ""
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02 15:04") }

func unreadText(n uint32) string {
	if n == 1 {
		return "1 unread message"
	}
	return fmt.Sprintf("%d unread messages", n)
}
