package console

import (
	"context"
	"fmt"
	"strings"

	"hearth/node/account"
	"hearth/node/api"
)

// These commands are about closed groups. Messages of groups are written, read and
// answered with the commands for people: a group's name stands where theirs does.
func groupCommands() []*command {
	return []*command{
		{name: "groups", summary: "lists your groups, and those that invite you", run: (*Console).groups,
			more: []string{"`send`, `read`, `reply`, `react`, `unsend`, `timer`, `sendfile` and `save` take the name of a group, too."}},
		{name: "group", arguments: "WHAT NAME …", summary: "makes, shows and changes a group, see `help group`", slow: true, run: (*Console).group,
			more: groupHelp()},
	}
}

// groupAction is one thing that can be done to a group.
type groupAction struct {
	name      string
	arguments string
	summary   string
	run       func(c *Console, ctx context.Context, group, rest string) error
}

// The table is filled at start, because what is in it looks into it.
var groupActions []groupAction

func groupHelp() []string {
	groupActions = []groupAction{
		{"new", "NAME PERSON…", "makes a group and invites people", (*Console).groupNew},
		{"show", "NAME", "shows a group and its members; so does group NAME", (*Console).groupShow},
		{"accept", "NAME", "takes part in a group that invites you, and tells it", (*Console).groupAccept},
		{"decline", "NAME", "deletes an invitation; nothing is sent", (*Console).groupDecline},
		{"invite", "NAME PERSON…", "invites people, or again; with history at the end they may read what was before", (*Console).groupInvite},
		{"remove", "NAME PERSON…", "removes members; with messages at the end what they wrote goes, too", (*Console).groupRemove},
		{"promote", "NAME PERSON…", "makes admins of members; nobody can take that back", (*Console).groupPromote},
		{"rename", "NAME NEW", "names the group", (*Console).groupRename},
		{"describe", "NAME TEXT", "describes it; the text - is none", (*Console).groupDescribe},
		{"picture", "NAME PATH", "sets its picture from a file of this machine; the path - is none", (*Console).groupPicture},
		{"delete", "NAME N", "deletes a message for everybody", (*Console).groupDelete},
		{"leave", "NAME", "leaves the group and deletes it here", (*Console).groupLeave},
		{"destroy", "NAME", "ends the group for everybody, after a question", (*Console).groupDestroy},
	}
	lines := []string{"PERSON is a Session ID or a name, in quotes if it has spaces. Most of this only admins can do; whoever makes a group is one."}
	for _, a := range groupActions {
		lines = append(lines, fmt.Sprintf("  %-28s %s", "group "+a.name+" "+a.arguments, a.summary))
	}
	return lines
}

func (c *Console) group(ctx context.Context, rest string) error {
	word, left := cutWord(rest)
	if word == "" {
		return c.groups(ctx, "")
	}
	for _, a := range groupActions {
		if strings.EqualFold(word, a.name) {
			name, args, err := c.cutGroup(ctx, a, left)
			if err != nil {
				return err
			}
			if name == "" {
				// A group can have the name of an action.
				if g, err := c.oneGroup(ctx, word); err == nil {
					c.showGroup(g)
					return nil
				}
				return usageError("Say which group: group " + a.name + " " + a.arguments)
			}
			return a.run(c, ctx, name, strings.TrimSpace(args))
		}
	}
	g, err := c.oneGroup(ctx, unquote(rest))
	if err != nil {
		if strings.Contains(strings.TrimSpace(rest), " ") && !strings.HasPrefix(strings.TrimSpace(rest), `"`) {
			return usageError(fmt.Sprintf("There is no group and no action %q; `help group` lists what can be done.", clip(word, 40)))
		}
		return err
	}
	c.showGroup(g)
	return nil
}

// cutGroup cuts the name of a group off a line; a new one has none yet that could be
// looked for.
func (c *Console) cutGroup(ctx context.Context, a groupAction, line string) (name, rest string, err error) {
	if a.name == "new" {
		name, rest = cutWord(line)
		return name, rest, nil
	}
	return c.cutName(ctx, line)
}

func (c *Console) oneGroup(ctx context.Context, name string) (*api.Group, error) {
	reply, err := c.cfg.Messenger.Groups(ctx, &api.GroupsRequest{Group: name})
	if err != nil {
		return nil, serviceError{messenger, err}
	}
	if len(reply.GetGroups()) != 1 {
		return nil, usageError("There is no such group.")
	}
	return reply.GetGroups()[0], nil
}

func (c *Console) groups(ctx context.Context, _ string) error {
	reply, err := c.cfg.Messenger.Groups(ctx, &api.GroupsRequest{})
	if err != nil {
		return serviceError{messenger, err}
	}
	if len(reply.GetGroups()) == 0 {
		c.term.print("No groups yet. `group new NAME PERSON…` makes one.")
		return nil
	}
	var lines []string
	for _, g := range reply.GetGroups() {
		lines = append(lines, groupLine(g))
		if g.GetLastText() != "" {
			lines = append(lines, fmt.Sprintf("    %s  %s", stamp(g.GetLastTime()), clip(g.GetLastText(), 60)))
		}
	}
	c.term.print(lines...)
	return nil
}

// groupLine is one group in a list.
func groupLine(g *api.Group) string {
	line := g.GetId() + "  " + groupTitle(g)
	switch g.GetState() {
	case api.Group_JOINED:
		line += ", " + count(uint64(len(g.GetMembers())), "member")
		if g.GetAdmin() {
			line += ", you are an admin"
		}
	case api.Group_INVITED:
		by := g.GetInvitedBy()
		if name := g.GetInvitedByName(); name != "" {
			by = clip(name, 40) + " (" + by + ")"
		}
		line += ", " + by + " invites you: `group accept` or `group decline`"
	case api.Group_REMOVED:
		line += ", you were removed"
	case api.Group_DESTROYED:
		line += ", ended"
	case api.Group_LEAVING:
		line += ", being left"
	}
	if n := g.GetUnread(); n > 0 {
		line += fmt.Sprintf(", %d unread", n)
	}
	return line
}

func groupTitle(g *api.Group) string {
	if g.GetName() == "" {
		return "(no name yet)"
	}
	return clip(g.GetName(), 60)
}

func (c *Console) showGroup(g *api.Group) {
	lines := []string{groupLine(g)}
	if g.GetDescription() != "" {
		for _, part := range visibleLines(g.GetDescription()) {
			lines = append(lines, "  "+part)
		}
	}
	if g.GetState() == api.Group_JOINED {
		lines = append(lines, "  "+timerText(g.GetTimer()))
	}
	if g.GetWaiting() {
		lines = append(lines, "  not all changes are stored in the network yet")
	}
	if g.GetTrouble() != "" {
		lines = append(lines, "  "+g.GetTrouble())
	}
	for _, m := range g.GetMembers() {
		name := clip(m.GetName(), 60)
		if m.GetOwn() {
			name = "you"
		} else if name == "" {
			name = "(no name)"
		}
		if status := memberText(m.GetStatus()); status != "" {
			name += ", " + status
		}
		lines = append(lines, "  "+m.GetSessionId()+"  "+name)
	}
	c.term.print(lines...)
}

func memberText(s api.GroupMember_Status) string {
	switch s {
	case api.GroupMember_INVITED:
		return "invited"
	case api.GroupMember_INVITE_WAITING:
		return "to be invited"
	case api.GroupMember_INVITE_FAILED:
		return "could not be invited"
	case api.GroupMember_ADMIN:
		return "admin"
	case api.GroupMember_PROMOTED:
		return "to be an admin"
	case api.GroupMember_REMOVED:
		return "being removed"
	}
	return ""
}

// changed tells what a change of a group has led to.
func (c *Console) changed(g *api.Group, err error, done string) error {
	if err != nil {
		return serviceError{messenger, err}
	}
	if g.GetWaiting() {
		done += " The network has yet to store it."
	}
	c.term.print(done)
	return nil
}

func (c *Console) groupNew(ctx context.Context, name, rest string) error {
	people, err := c.people(ctx, rest)
	if err != nil {
		return err
	}
	if len(people) == 0 {
		return usageError("Say whom to invite: group new NAME PERSON…")
	}
	g, err := c.cfg.Messenger.GroupCreate(ctx, &api.GroupCreateRequest{Name: name, Members: people})
	return c.changed(g, err, groupTitle(g)+" is "+g.GetId()+"; "+count(uint64(max(len(g.GetMembers())-1, 0)), "invitation")+" on the way.")
}

func (c *Console) groupShow(ctx context.Context, name, rest string) error {
	if rest != "" {
		name += " " + rest
	}
	g, err := c.oneGroup(ctx, name)
	if err != nil {
		return err
	}
	c.showGroup(g)
	return nil
}

func (c *Console) groupAccept(ctx context.Context, name, rest string) error {
	g, err := c.cfg.Messenger.GroupAccept(ctx, &api.GroupRequest{Group: joinWords(name, rest)})
	if err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("You take part in " + groupTitle(g) + ".")
	return nil
}

// joinWords is a name that ends the line and may have spaces without quotes.
func joinWords(name, rest string) string { return strings.TrimSpace(name + " " + rest) }

func (c *Console) groupDecline(ctx context.Context, name, rest string) error {
	if _, err := c.cfg.Messenger.GroupDecline(ctx, &api.GroupRequest{Group: joinWords(name, rest)}); err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("The invitation is deleted.")
	return nil
}

func (c *Console) groupInvite(ctx context.Context, name, rest string) error {
	people, history, err := c.peopleAnd(ctx, rest, "history")
	if err != nil {
		return err
	}
	if len(people) == 0 {
		return usageError("Say whom: group invite NAME PERSON…, or group invite NAME PERSON… history")
	}
	g, err := c.cfg.Messenger.GroupInvite(ctx, &api.GroupInviteRequest{Group: name, Members: people, History: history})
	done := "They will be invited."
	if history {
		done = "They will be invited, and may read what was written before."
	}
	return c.changed(g, err, done)
}

// exAdmin is what nobody can change: an admin is whoever holds the group's seed.
const exAdmin = " Somebody who was an admin still has the group's seed and could: begin a new group then."

func (c *Console) groupRemove(ctx context.Context, name, rest string) error {
	people, withMessages, err := c.peopleAnd(ctx, rest, "messages")
	if err != nil {
		return err
	}
	if len(people) == 0 {
		return usageError("Say whom: group remove NAME PERSON…, or group remove NAME PERSON… messages")
	}
	g, err := c.cfg.Messenger.GroupRemove(ctx, &api.GroupRemoveRequest{Group: name, Members: people, WithMessages: withMessages})
	done := "Removed. They get no key to what is written from now on." + exAdmin
	if withMessages {
		done = "Removed, with what they wrote. They get no key to what is written from now on." + exAdmin
	}
	return c.changed(g, err, done)
}

func (c *Console) groupPromote(ctx context.Context, name, rest string) error {
	people, err := c.people(ctx, rest)
	if err != nil {
		return err
	}
	if len(people) == 0 {
		return usageError("Say whom: group promote NAME PERSON…")
	}
	g, err := c.cfg.Messenger.GroupPromote(ctx, &api.GroupMembersRequest{Group: name, Members: people})
	return c.changed(g, err, "They will be admins, as soon as their device knows.")
}

func (c *Console) groupRename(ctx context.Context, name, rest string) error {
	text := unquote(rest)
	if text == "" {
		return usageError("Say the new name: group rename NAME NEW")
	}
	g, err := c.cfg.Messenger.GroupRename(ctx, &api.GroupTextRequest{Group: name, Text: text})
	return c.changed(g, err, "The group is called "+groupTitle(g)+" now.")
}

func (c *Console) groupDescribe(ctx context.Context, name, rest string) error {
	text := unquote(rest)
	switch text {
	case "":
		return usageError("Say what it is: group describe NAME TEXT")
	case "-":
		text = ""
	}
	g, err := c.cfg.Messenger.GroupDescribe(ctx, &api.GroupTextRequest{Group: name, Text: text})
	return c.changed(g, err, "Done.")
}

func (c *Console) groupPicture(ctx context.Context, name, rest string) error {
	path := unquote(rest)
	switch {
	case !c.cfg.MayLeave:
		return usageError("There are no files of yours on this device.")
	case path == "":
		return usageError("Say which file: group picture NAME PATH")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // takes back what was sent when the file cannot be read
	stream, err := c.cfg.Messenger.GroupSetPicture(ctx)
	if err != nil {
		return serviceError{messenger, err}
	}
	err = stream.Send(&api.GroupSetPictureRequest{Group: name})
	if err == nil && path != "-" {
		file, err := openFile(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := inPieces(file, func(b []byte) error { return stream.Send(&api.GroupSetPictureRequest{Data: b}) }); err != nil {
			return err
		}
	}
	g, err := stream.CloseAndRecv()
	return c.changed(g, err, "Done.")
}

func (c *Console) groupDelete(ctx context.Context, name, rest string) error {
	_, number, _, err := numberOf(name, rest, "group delete NAME N")
	if err != nil {
		return err
	}
	if _, err := c.cfg.Messenger.GroupDelete(ctx, &api.GroupDeleteRequest{Group: name, Id: number}); err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("Deleted here; the others' devices are asked to delete it.")
	return nil
}

func (c *Console) groupLeave(ctx context.Context, name, rest string) error {
	name = joinWords(name, rest)
	g, err := c.oneGroup(ctx, name)
	if err != nil {
		return err
	}
	if lastAdmin(g) {
		c.term.print("There is no other admin: when you leave, the group ends for everybody. `group promote` makes another one.")
		answer, err := c.ask(ctx, "Type yes to go on: ", false)
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != "yes" {
			return usageError("Nothing was done.")
		}
	}
	if _, err := c.cfg.Messenger.GroupLeave(ctx, &api.GroupRequest{Group: g.GetId()}); err != nil {
		return serviceError{messenger, err}
	}
	c.term.print("You have left " + groupTitle(g) + ".")
	return nil
}

// lastAdmin reports whether the owner is an admin, and nobody else is.
func lastAdmin(g *api.Group) bool {
	if g.GetState() != api.Group_JOINED || !g.GetAdmin() {
		return false
	}
	for _, m := range g.GetMembers() {
		if !m.GetOwn() && m.GetStatus() == api.GroupMember_ADMIN {
			return false
		}
	}
	return true
}

func (c *Console) groupDestroy(ctx context.Context, name, rest string) error {
	g, err := c.oneGroup(ctx, joinWords(name, rest))
	if err != nil {
		return err
	}
	c.term.print("This ends " + groupTitle(g) + " for everybody.")
	answer, err := c.ask(ctx, "Type yes to go on: ", false)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != "yes" {
		return usageError("Nothing was done.")
	}
	g, err = c.cfg.Messenger.GroupDestroy(ctx, &api.GroupRequest{Group: g.GetId()})
	return c.changed(g, err, "The group has ended.")
}

// isGroup tells a group's ID from a person's.
func isGroup(id string) bool { return strings.HasPrefix(id, "03") }

// groupName gives the name of a group, empty when it has none.
func (c *Console) groupName(ctx context.Context, id string) string {
	g, err := c.oneGroup(ctx, id)
	if err != nil {
		return ""
	}
	return g.GetName()
}

// unreadGroups are the conversations of groups in which something is new.
func (c *Console) unreadGroups(ctx context.Context) (list []*api.Contact) {
	reply, err := c.cfg.Messenger.Groups(ctx, &api.GroupsRequest{})
	if err != nil {
		return nil // whoever asks has just heard from the messenger
	}
	for _, g := range reply.GetGroups() {
		if g.GetUnread() > 0 {
			list = append(list, &api.Contact{SessionId: g.GetId(), Name: g.GetName(), Unread: g.GetUnread()})
		}
	}
	return list
}

// invitationLines are the groups that wait for an answer, for the list of requests.
func (c *Console) invitationLines(ctx context.Context) (lines []string) {
	reply, err := c.cfg.Messenger.Groups(ctx, &api.GroupsRequest{})
	if err != nil {
		return nil
	}
	for _, g := range reply.GetGroups() {
		if g.GetState() == api.Group_INVITED {
			lines = append(lines, groupLine(g))
		}
	}
	return lines
}

// byline is who wrote a message, in a conversation that is called with.
func byline(with, from, fromName string) string {
	switch {
	case from == "":
		return with
	case fromName != "":
		return clip(fromName, 24)
	}
	return account.ShortID(from)
}

// groupInfo tells what happened in a group.
func (c *Console) groupInfo(m *api.Message, group string) {
	switch {
	case m.GetKind() == api.Message_GROUP_KICKED, m.GetKind() == api.Message_GROUP_DESTROYED:
		c.term.print("* " + group + ": " + m.GetText())
	case m.GetKind() == api.Message_GROUP_JOINED && m.GetOutgoing():
		c.term.print("* you are in the group " + group + " now")
	case !m.GetOutgoing():
		c.term.print("* " + group + ": " + byline("somebody", m.GetFrom(), m.GetFromName()) + " " + m.GetText())
	}
}
