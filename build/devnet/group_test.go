package devnet_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"image/color"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/node/api"
	"hearth/node/messenger"
)

// inGroup waits until somebody's view of a group is as wanted.
func (w *talker) inGroup(group, what string, wanted func(*api.Group) bool) *api.Group {
	w.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; {
		reply, err := w.Groups(context.Background(), &api.GroupsRequest{Group: group})
		if err == nil && wanted(reply.Groups[0]) {
			return reply.Groups[0]
		}
		if time.Now().After(end) {
			w.t.Fatalf("waiting for %s: %v, %v", what, reply, err)
		}
		time.Sleep(50 * time.Millisecond) // real nodes are the other side
	}
}

func (w *talker) writes(group, text string) *api.SendReply {
	w.t.Helper()
	sent, err := w.Send(context.Background(), &api.SendRequest{To: group, Text: text})
	if err != nil {
		w.t.Fatalf("writing %q: %v", text, err)
	}
	return sent
}

// reads waits for a text of somebody in a group.
func (w *talker) reads(group string, from *talker, text string) *api.Message {
	w.t.Helper()
	return w.await(text, func(e *api.Event) bool {
		m := e.GetReceived()
		return m.GetText() == text && m.GetSessionId() == group && m.GetFrom() == from.id
	}).GetReceived()
}

func (w *talker) groupLines(group string) []*api.Message {
	w.t.Helper()
	reply, err := w.Messages(context.Background(), &api.MessagesRequest{With: group, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.Messages
}

// memberIs reports whether a list of members shows somebody so.
func memberIs(g *api.Group, who *talker, status api.GroupMember_Status) bool {
	return slices.ContainsFunc(g.Members, func(m *api.GroupMember) bool { return m.SessionId == who.id && m.Status == status })
}

func joined(g *api.Group) bool { return g.State == api.Group_JOINED && len(g.Members) > 0 }

// circleOf makes a group of which all are members.
func circleOf(t testing.TB, admin *talker, others ...*talker) string {
	t.Helper()
	admin.knows(others...)
	var ids []string
	for _, w := range others {
		w.knows(admin)
		ids = append(ids, w.id)
	}
	g, err := admin.GroupCreate(t.Context(), &api.GroupCreateRequest{Name: "circle", Members: ids})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range others {
		w.inGroup(g.Id, "the invitation", joined)
		admin.inGroup(g.Id, "the answer", func(g *api.Group) bool { return memberIs(g, w, api.GroupMember_MEMBER) })
	}
	return g.Id
}

func TestThreePeopleInAGroup(t *testing.T) {
	t.Parallel() // it mostly waits for a message to disappear
	n := messengerNetwork(t)
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DisplayName = "Alice" })
	file := filepath.Join(t.TempDir(), "bob.db")
	asBob := func(c *messenger.Config) { c.DisplayName, c.DBPath = "Bob", file }
	bob := talk(t, n, 2, asBob)
	carol := talk(t, n, 3, func(c *messenger.Config) { c.DisplayName = "Carol" })
	ctx := t.Context()

	// Bob knows Alice; Carol does not, and is asked.
	bob.knows(alice)
	alice.knows(bob, carol)
	made, err := alice.GroupCreate(ctx, &api.GroupCreateRequest{Name: "Tea", Members: []string{bob.id, carol.id}, Description: "at five"})
	if err != nil {
		t.Fatal(err)
	}
	tea := made.Id
	if !made.Admin || made.Waiting || made.Name != "Tea" || len(made.Members) != 3 {
		t.Errorf("the new group: %v", made)
	}
	bob.inGroup(tea, "the group of a friend", joined)
	asked := carol.inGroup(tea, "the invitation of a stranger", func(g *api.Group) bool { return g.State == api.Group_INVITED })
	if asked.InvitedBy != alice.id || asked.InvitedByName != "Alice" || asked.Name != "Tea" {
		t.Errorf("the invitation: %v", asked)
	}
	if st, _ := carol.State(ctx, nil); st.Requests != 1 {
		t.Errorf("%d requests, want the invitation", st.Requests)
	}
	if _, err := carol.Send(ctx, &api.SendRequest{To: tea, Text: "too early"}); err == nil {
		t.Error("somebody who has not accepted can write")
	}
	if _, err := carol.GroupAccept(ctx, &api.GroupRequest{Group: "tea"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{bob, carol} {
		alice.inGroup(tea, "the answers", func(g *api.Group) bool { return memberIs(g, w, api.GroupMember_MEMBER) })
		g := w.inGroup(tea, "the description", func(g *api.Group) bool { return g.Description == "at five" })
		if g.Admin || !memberIs(g, alice, api.GroupMember_ADMIN) {
			t.Errorf("a member sees %v", g)
		}
	}

	// All talk.
	first := alice.writes("Tea", "who comes?")
	if first.State != api.Message_STORED || first.Stored == 0 || first.Swarm == 0 {
		t.Errorf("sent: %v", first)
	}
	got := bob.reads(tea, alice, "who comes?")
	if got.FromName != "Alice" {
		t.Errorf("the writer is called %q", got.FromName)
	}
	carol.reads(tea, alice, "who comes?")
	if _, err := bob.Send(ctx, &api.SendRequest{To: tea, Text: "I do", ReplyTo: got.Id}); err != nil {
		t.Fatal(err)
	}
	answer := carol.reads(tea, bob, "I do")
	if q := answer.Quote; !q.GetFound() || q.GetFrom() != alice.id || q.GetText() != "who comes?" {
		t.Errorf("quote: %v", q)
	}
	own := alice.reads(tea, bob, "I do")
	if !own.Quote.GetOutgoing() || !own.Quote.GetFound() {
		t.Errorf("quote of an own message: %v", own.Quote)
	}

	// Reactions of several people, one of whom changes their mind.
	for _, w := range []*talker{alice, carol} {
		for _, m := range w.groupLines(tea) {
			if m.Text == "I do" {
				if _, err := w.React(ctx, &api.ReactRequest{With: tea, Id: m.Id, Emoji: "🫖"}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	await := func(w *talker, what string, wanted func(m *api.Message) bool) {
		t.Helper()
		w.inGroup(tea, what, func(*api.Group) bool { return slices.ContainsFunc(w.groupLines(tea), wanted) })
	}
	await(bob, "both reactions", func(m *api.Message) bool {
		return m.Text == "I do" && len(m.Reactions) == 2 && m.Reactions[0].From != m.Reactions[1].From && m.Reactions[0].FromName != ""
	})

	// Unsent by its writer, for everybody.
	slip := bob.writes(tea, "a slip")
	carol.reads(tea, bob, "a slip")
	if _, err := bob.Unsend(ctx, &api.UnsendRequest{With: tea, Id: slip.Id}); err != nil {
		t.Fatal(err)
	}
	await(carol, "the deletion", func(m *api.Message) bool { return m.Deleted && m.From == bob.id && !m.ByAdmin })
	if _, err := carol.Unsend(ctx, &api.UnsendRequest{With: tea, Id: answer.Id}); err == nil {
		t.Error("a member can unsend another one's message")
	}

	// A restart in the middle: nothing is lost, and nothing twice.
	bob.stop()
	alice.writes(tea, "while Bob is away")
	bob = talk(t, n, 2, asBob)
	bob.reads(tea, alice, "while Bob is away")

	// Files.
	content := bytes.Repeat([]byte("tea "), 5000)
	if _, err := carol.SendFileFrom(ctx, &api.FileHead{To: tea, Name: "leaves.txt", Text: "leaves"}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	sent := bob.reads(tea, carol, "leaves")
	var fetched bytes.Buffer
	if err := bob.FetchFileTo(ctx, &api.FetchFileRequest{With: tea, Id: sent.Id}, &fetched, nil); err != nil || !bytes.Equal(fetched.Bytes(), content) {
		t.Errorf("the file: %v, %d bytes", err, fetched.Len())
	}

	// The group's picture.
	if _, err := alice.GroupSetPictureFrom(ctx, tea, bytes.NewReader(onePicture(t, color.RGBA{R: 255, A: 255}, 300, 300))); err != nil {
		t.Fatal(err)
	}
	bob.inGroup(tea, "the picture", func(g *api.Group) bool { return g.Picture })
	if reply, err := bob.Picture(ctx, &api.WhoRequest{Who: tea}); err != nil || len(reply.Jpeg) == 0 {
		t.Errorf("the picture: %v", err)
	}

	// Only admins rename; the others hear of it.
	if _, err := bob.GroupRename(ctx, &api.GroupTextRequest{Group: tea, Text: "Coffee"}); err == nil {
		t.Error("a member can rename")
	}
	if _, err := alice.GroupPromote(ctx, &api.GroupMembersRequest{Group: tea, Members: []string{"Bob"}}); err != nil {
		t.Fatal(err)
	}
	bob.inGroup(tea, "the promotion", func(g *api.Group) bool { return g.Admin })
	alice.inGroup(tea, "its end", func(g *api.Group) bool { return memberIs(g, bob, api.GroupMember_ADMIN) })
	if _, err := bob.GroupRename(ctx, &api.GroupTextRequest{Group: tea, Text: "Coffee"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{alice, carol} {
		w.inGroup(tea, "the name", func(g *api.Group) bool { return g.Name == "Coffee" })
		await(w, "its line", func(m *api.Message) bool {
			return m.Kind == api.Message_GROUP_NAME && m.From == bob.id && m.Text == "named the group Coffee"
		})
	}

	// An admin deletes somebody's message for all.
	for _, m := range alice.groupLines(tea) {
		if m.Text == "leaves" {
			if _, err := alice.GroupDelete(ctx, &api.GroupDeleteRequest{Group: tea, Id: m.Id}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range []*talker{bob, carol} {
		await(w, "the deletion by an admin", func(m *api.Message) bool { return m.Deleted && m.ByAdmin })
	}

	// The timer.
	if _, err := bob.SetTimer(ctx, &api.SetTimerRequest{With: tea, Timer: &api.Timer{Type: api.Timer_AFTER_SEND, Seconds: 12}}); err != nil {
		t.Fatal(err)
	}
	carol.inGroup(tea, "the timer", func(g *api.Group) bool { return g.Timer.GetSeconds() == 12 })
	carol.writes(tea, "gone in a moment")
	bob.reads(tea, carol, "gone in a moment")
	if _, err := bob.SetTimer(ctx, &api.SetTimerRequest{With: tea}); err != nil {
		t.Fatal(err)
	}

	// The promoted admin removes Carol, who is told, and gets nothing after it.
	if _, err := bob.GroupRemove(ctx, &api.GroupRemoveRequest{Group: tea, Members: []string{"carol"}}); err != nil {
		t.Fatal(err)
	}
	bob.writes(tea, "about Carol")
	alice.reads(tea, bob, "about Carol")
	carol.inGroup(tea, "the removal", func(g *api.Group) bool { return g.State == api.Group_REMOVED })
	lines := carol.groupLines(tea)
	if last := lines[len(lines)-1]; last.Kind != api.Message_GROUP_KICKED {
		t.Errorf("the last line is %v", last)
	}
	for _, m := range lines {
		if m.Text == "about Carol" {
			t.Error("who was removed reads what comes after")
		}
	}
	if _, err := carol.Send(ctx, &api.SendRequest{To: tea, Text: "hello?"}); err == nil {
		t.Error("who was removed can write")
	}
	alice.inGroup(tea, "the list without Carol", func(g *api.Group) bool { return len(g.Members) == 2 })

	// She comes back, and reads what is written from then on.
	if _, err := alice.GroupInvite(ctx, &api.GroupInviteRequest{Group: tea, Members: []string{carol.id}}); err != nil {
		t.Fatal(err)
	}
	carol.inGroup(tea, "the new invitation", func(g *api.Group) bool { return g.State == api.Group_INVITED })
	if _, err := carol.GroupAccept(ctx, &api.GroupRequest{Group: tea}); err != nil {
		t.Fatal(err)
	}
	carol.inGroup(tea, "the group once more", joined)
	bob.inGroup(tea, "her answer", func(g *api.Group) bool { return memberIs(g, carol, api.GroupMember_MEMBER) })
	alice.writes(tea, "welcome back")
	carol.reads(tea, alice, "welcome back")

	// Carol leaves by herself, and at last the group ends.
	if _, err := carol.GroupLeave(ctx, &api.GroupRequest{Group: tea}); err != nil {
		t.Fatal(err)
	}
	if reply, err := carol.Groups(ctx, &api.GroupsRequest{}); err != nil || len(reply.Groups) != 0 {
		t.Errorf("after leaving: %v, %v", reply, err)
	}
	alice.inGroup(tea, "the list without Carol", func(g *api.Group) bool { return len(g.Members) == 2 })
	await(alice, "the line about it", func(m *api.Message) bool { return m.Kind == api.Message_GROUP_LEFT && m.From == carol.id })
	if _, err := alice.GroupDestroy(ctx, &api.GroupRequest{Group: tea}); err != nil {
		t.Fatal(err)
	}
	bob.inGroup(tea, "the end", func(g *api.Group) bool { return g.State == api.Group_DESTROYED })
	bob.inGroup(tea, "the end of what disappears", func(*api.Group) bool {
		return !slices.ContainsFunc(bob.groupLines(tea), func(m *api.Message) bool { return m.Text == "gone in a moment" })
	})
	count := make(map[string]int)
	for _, m := range bob.groupLines(tea) {
		if m.Kind == api.Message_TEXT && m.Text != "" {
			count[m.Text]++
		}
	}
	for _, text := range []string{"who comes?", "I do", "while Bob is away", "about Carol", "welcome back"} {
		if count[text] != 1 {
			t.Errorf("%q is there %d times", text, count[text])
		}
	}
}

func TestTwoAdminsChangeAGroupAtOnce(t *testing.T) {
	n := messengerNetwork(t)
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DisplayName = "Alice" })
	bob := talk(t, n, 2, func(c *messenger.Config) { c.DisplayName = "Bob" })
	carol := talk(t, n, 3, func(c *messenger.Config) { c.DisplayName = "Carol" })
	dave := talk(t, n, 4, func(c *messenger.Config) { c.DisplayName = "Dave" })
	group := circleOf(t, alice, bob, carol)
	ctx := t.Context()
	if _, err := alice.GroupPromote(ctx, &api.GroupMembersRequest{Group: group, Members: []string{bob.id}}); err != nil {
		t.Fatal(err)
	}
	bob.inGroup(group, "the promotion", func(g *api.Group) bool { return g.Admin })
	alice.inGroup(group, "its end", func(g *api.Group) bool { return memberIs(g, bob, api.GroupMember_ADMIN) })

	carol.writes(group, "before Dave")
	bob.reads(group, carol, "before Dave")
	dave.knows(alice)
	errs := make(chan error, 3)
	go func() {
		_, err := alice.GroupInvite(ctx, &api.GroupInviteRequest{Group: group, Members: []string{dave.id}, History: true})
		errs <- err
	}()
	go func() {
		_, err := bob.GroupRename(ctx, &api.GroupTextRequest{Group: group, Text: "both"})
		errs <- err
	}()
	go func() {
		_, err := bob.GroupDescribe(ctx, &api.GroupTextRequest{Group: group, Text: "of us"})
		errs <- err
	}()
	for range 3 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	dave.inGroup(group, "the invitation", joined)
	for _, w := range []*talker{alice, bob, carol, dave} {
		w.inGroup(group, "both changes", func(g *api.Group) bool {
			return g.Name == "both" && g.Description == "of us" && len(g.Members) == 4 && !g.Waiting
		})
	}
	for _, w := range []*talker{alice, bob, carol, dave} {
		w.writes(group, "from "+w.id)
	}
	for _, w := range []*talker{alice, bob, carol, dave} {
		w.inGroup(group, "all that was said", func(*api.Group) bool {
			said := make(map[string]int)
			for _, m := range w.groupLines(group) {
				if m.Kind == api.Message_TEXT {
					said[m.Text]++
				}
			}
			// Dave was invited with the history.
			return len(said) == 5 && said["from "+alice.id] == 1 && said["from "+dave.id] == 1 && said["before Dave"] == 1
		})
	}

	// He goes again, with all that he wrote.
	if _, err := bob.GroupRemove(ctx, &api.GroupRemoveRequest{Group: group, Members: []string{dave.id}, WithMessages: true}); err != nil {
		t.Fatal(err)
	}
	dave.inGroup(group, "the removal", func(g *api.Group) bool { return g.State == api.Group_REMOVED })
	for _, w := range []*talker{alice, bob, carol} {
		w.inGroup(group, "the deletion of what he wrote", func(g *api.Group) bool {
			return len(g.Members) == 3 && !slices.ContainsFunc(w.groupLines(group), func(m *api.Message) bool {
				return m.From == dave.id && m.Kind == api.Message_TEXT && !m.ByAdmin
			})
		})
	}
}

func TestMessagesOfAGroupArriveWithoutPolling(t *testing.T) {
	n := messengerNetwork(t)
	alice, bob := talk(t, n, 1, rarely), talk(t, n, 2, rarely)
	group := circleOf(t, alice, bob)
	// When a member of the swarm has answered once, somebody waits there.
	for i := range 3 {
		began := time.Now()
		alice.writes(group, fmt.Sprint(i))
		bob.reads(group, alice, fmt.Sprint(i))
		t.Logf("shown after %v", time.Since(began).Round(time.Millisecond))
	}
}

// many talks in a group of so many members, of which each writes so often, while
// nodes are killed and come back. All converge, and every message is there once.
func many(t *testing.T, members, messages int, trouble func(n *devnet.Network, step int)) {
	n := messengerNetwork(t)
	var all []*talker
	for i := range members {
		all = append(all, talk(t, n, byte(10+i), func(c *messenger.Config) { c.PollInterval = 500 * time.Millisecond }))
	}
	began := time.Now()
	group := circleOf(t, all[0], all[1:]...)
	t.Logf("%d members are in after %v", members, time.Since(began).Round(time.Millisecond))
	began = time.Now()
	errs := make(chan error, members)
	for i, w := range all {
		go func() {
			for k := range messages {
				if _, err := w.Send(t.Context(), &api.SendRequest{To: group, Text: fmt.Sprintf("%d of %d", k, i)}); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for step := range 3 {
		trouble(n, step)
	}
	for range members {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	want := members * messages
	for _, w := range all {
		w.inGroup(group, "all messages", func(*api.Group) bool {
			said, lines := make(map[string]bool), 0
			for _, m := range w.groupLines(group) {
				if m.Kind == api.Message_TEXT {
					said[m.Text] = true
					lines++
				}
			}
			if lines > want {
				t.Fatalf("%d lines of %d messages", lines, want)
			}
			return len(said) == want && lines == want
		})
	}
	t.Logf("%d messages at %d members after %v", want, members, time.Since(began).Round(time.Millisecond))
}

var groupSize = flag.Int("group", 20, "how many members the group has under which nodes are killed")

func TestAGroupUnderWhichNodesAreKilledLosesNothing(t *testing.T) {
	t.Parallel() // it mostly waits
	many(t, *groupSize, 3, func(n *devnet.Network, step int) {
		k := 1 + 3*step
		if err := n.StopNode(k); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // so long the node is away
		if err := n.StartNode(k); err != nil {
			t.Error(err)
		}
	})
}

func TestAGroupIsOnAllDevicesOfItsMembers(t *testing.T) {
	n := messengerNetwork(t)
	alice := talk(t, n, 1, func(c *messenger.Config) { c.DisplayName = "Alice" })
	phone := talk(t, n, 1, nil)
	bob := talk(t, n, 2, func(c *messenger.Config) { c.DisplayName = "Bob" })
	laptop := talk(t, n, 2, nil)
	group := circleOf(t, alice, bob)
	for _, w := range []*talker{phone, laptop} {
		w.inGroup(group, "the group on another device", joined)
	}
	phone.inGroup(group, "the seed on another device", func(g *api.Group) bool { return g.Admin })
	bob.writes(group, "from the desk")
	for _, w := range []*talker{alice, phone} {
		w.reads(group, bob, "from the desk")
	}
	laptop.await("the own message", func(e *api.Event) bool {
		return e.GetSent().GetText() == "from the desk" && e.GetSent().GetSessionId() == group
	})
	// The other device of the admin changes it, and what it says is there once.
	if _, err := phone.GroupRename(t.Context(), &api.GroupTextRequest{Group: group, Text: "from the phone"}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{alice, bob, laptop} {
		w.inGroup(group, "the name", func(g *api.Group) bool { return g.Name == "from the phone" })
	}
	phone.writes(group, "and this")
	for _, w := range []*talker{bob, laptop} {
		w.reads(group, alice, "and this")
	}
	for _, w := range []*talker{alice, phone, bob, laptop} {
		w.inGroup(group, "both messages, once", func(*api.Group) bool {
			texts := 0
			for _, m := range w.groupLines(group) {
				if m.Kind == api.Message_TEXT {
					texts++
				}
			}
			return texts == 2
		})
	}
	// A second device is told of a promotion, too, and a group that one of them
	// leaves is gone from both.
	if _, err := alice.GroupPromote(t.Context(), &api.GroupMembersRequest{Group: group, Members: []string{bob.id}}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*talker{bob, laptop} {
		w.inGroup(group, "the promotion", func(g *api.Group) bool { return g.Admin })
	}
	alice.inGroup(group, "its end", func(g *api.Group) bool { return memberIs(g, bob, api.GroupMember_ADMIN) })
	if _, err := bob.GroupLeave(t.Context(), &api.GroupRequest{Group: group}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		reply, err := laptop.Groups(t.Context(), &api.GroupsRequest{})
		if err == nil && len(reply.Groups) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("left on one device, on the other: %v, %v", reply, err)
		}
	}
	alice.inGroup(group, "the list without Bob", func(g *api.Group) bool { return len(g.Members) == 1 })
}
