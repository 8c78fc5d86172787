package devnet_test

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/build/devnet"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger"
)

// A person with three devices is in a group of twenty, on a network whose swarms the
// ledger chose. All of them write, the devices change what they share, one of them is
// away for a while, and all the time nodes of the person's swarm and of the group's
// are killed, and come back later.
func TestThreeDevicesAndAGroupOfTwentyConvergeWhileNodesAreKilled(t *testing.T) {
	const (
		others = 19 // members besides the person with the devices
		each   = 3  // messages of everybody
	)
	n, trust := provenNetwork(t, 9)
	sit := func(seed byte, device, file string) *talker {
		return onLedger(t, n, seed, trust, func(c *messenger.Config) {
			c.DeviceName, c.DeviceKind, c.PollInterval = device, "test", 500*time.Millisecond
			if file != "" {
				c.DBPath = file
			}
		})
	}
	file := filepath.Join(t.TempDir(), "tablet.db")
	phone := sit(1, "phone", "").lively()
	desk, tablet := sit(1, "desk", "").lively(), sit(1, "tablet", file).lively()
	var members []*talker
	for i := range others {
		members = append(members, sit(byte(10+i), "", ""))
	}
	bob := members[0]
	began := time.Now()
	group := circleOf(t, phone, members...)
	for _, w := range []*talker{desk, tablet} {
		w.inGroup(group, "the group and its seed on another device", func(g *api.Group) bool { return joined(g) && g.Admin })
	}
	t.Logf("%d members are in after %v", others+1, time.Since(began).Round(time.Millisecond))

	began = time.Now()
	troubleEnded := killMembers(t, n, account.New(account.Seed{1}).ID(), groupID(t, group))
	var all sync.WaitGroup
	writes := func(w *talker, to, name string) {
		all.Go(func() {
			for k := range each {
				if _, err := w.Send(t.Context(), &api.SendRequest{To: to, Text: fmt.Sprintf("%d of %s", k, name)}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	in, between := make(map[string]bool), make(map[string]bool)
	expect := func(texts map[string]bool, name string) string {
		for k := range each {
			texts[fmt.Sprintf("%d of %s", k, name)] = true
		}
		return name
	}
	for i, w := range members {
		writes(w, group, expect(in, fmt.Sprint("member ", i)))
	}
	writes(phone, group, expect(in, "the phone"))
	writes(desk, group, expect(in, "the desk"))
	writes(bob, phone.id, expect(between, "Bob"))
	writes(phone, bob.id, expect(between, "the phone to Bob"))
	writes(desk, bob.id, expect(between, "the desk to Bob"))
	// The tablet goes away, is used without a network, and comes back to what
	// the others have done meanwhile.
	tablet.stop()
	lonely, err := messenger.New(messenger.Config{Account: account.New(account.Seed{1}), DBPath: file})
	if err != nil {
		t.Fatal(err)
	}
	_, err = lonely.AddContact(t.Context(), &api.AddContactRequest{SessionId: somebody(1), Name: "from the tablet"})
	lonely.Close()
	if err != nil {
		t.Fatal(err)
	}
	phone.settings(&api.SettingsRequest{DisplayName: proto.String("Ada")})
	for k := byte(2); k < 9; k++ {
		phone.adds(somebody(k), fmt.Sprint("from the phone ", k))
		desk.adds(somebody(10+k), fmt.Sprint("from the desk ", k))
		if k == 5 {
			if _, err := desk.Block(t.Context(), &api.WhoRequest{Who: somebody(12)}); err != nil {
				t.Fatal(err)
			}
			if _, err := desk.GroupRename(t.Context(), &api.GroupTextRequest{Group: group, Text: "from the desk"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tablet = sit(1, "tablet", file)
	writes(tablet, group, expect(in, "the tablet"))
	writes(tablet, bob.id, expect(between, "the tablet to Bob"))
	all.Wait()
	devices := []*talker{phone, desk, tablet}
	// A node that was away compares what it has with the others about once a minute.
	deadline := time.Now().Add(4 * time.Minute)
	converges := func(what string, so func() error) {
		t.Helper()
		for err := so(); err != nil; err = so() {
			if time.Now().After(deadline) {
				t.Fatalf("waiting for %s: %v", what, err)
			}
			time.Sleep(50 * time.Millisecond) // real nodes are the other side
		}
	}
	converges("the tablet to describe the group", func() error {
		_, err := tablet.GroupDescribe(t.Context(), &api.GroupTextRequest{Group: group, Text: "from the tablet"})
		return err
	})
	hasAll := func(w *talker, with string, texts map[string]bool) {
		t.Helper()
		want := slices.Sorted(maps.Keys(texts))
		converges("all messages, each of them once", func() error {
			if got := w.texts(with); !slices.Equal(got, want) {
				return fmt.Errorf("%.8s has %q with %.8s, want %q", w.id, got, with, want)
			}
			return nil
		})
	}
	for _, w := range devices {
		hasAll(w, bob.id, between)
	}
	if _, err := desk.Messages(t.Context(), &api.MessagesRequest{With: bob.id, MarkRead: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := tablet.MarkUnread(t.Context(), &api.WhoRequest{Who: members[1].id}); err != nil {
		t.Fatal(err)
	}
	kills := troubleEnded()

	for _, w := range append(slices.Clone(devices), members...) {
		hasAll(w, group, in)
		converges("the group as the devices made it", func() error {
			reply, err := w.Groups(t.Context(), &api.GroupsRequest{Group: group})
			if err != nil {
				return err
			}
			if g := reply.Groups[0]; g.Name != "from the desk" || g.Description != "from the tablet" || len(g.Members) != others+1 || g.Waiting {
				return fmt.Errorf("%.8s has %v", w.id, g)
			}
			return nil
		})
	}
	hasAll(bob, phone.id, between)
	for _, w := range devices {
		converges("what the devices share", func() error {
			p := w.people()
			named := p[somebody(1)].GetName() == "from the tablet"
			for k := byte(2); k < 9; k++ {
				named = named && p[somebody(k)].GetName() == fmt.Sprint("from the phone ", k) && p[somebody(10+k)].GetName() == fmt.Sprint("from the desk ", k)
			}
			if !named || !p[somebody(12)].GetBlocked() || p[bob.id].GetUnread() != 0 || !p[members[1].id].GetMarkedUnread() ||
				len(p) != 15+others || w.settings(&api.SettingsRequest{}).DisplayName != "Ada" || len(w.devices()) != 3 {
				return fmt.Errorf("name %q, devices %v, contacts %v", w.settings(&api.SettingsRequest{}).DisplayName, w.devices(), p)
			}
			return nil
		})
	}
	t.Logf("%d messages at %d people with %d devices, and all that they share, after %v and %d kills",
		len(in)+len(between), others+1, others+3, time.Since(began).Round(time.Millisecond), kills)
}

// texts are all texts of a conversation, in ascending order.
func (w *talker) texts(with string) (texts []string) {
	w.t.Helper()
	reply, err := w.Messages(context.Background(), &api.MessagesRequest{With: with, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range reply.Messages {
		if m.Kind == api.Message_TEXT {
			texts = append(texts, m.Text)
		}
	}
	slices.Sort(texts)
	return texts
}

func groupID(t testing.TB, text string) account.ID {
	t.Helper()
	id, err := account.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// killMembers kills the nodes of the owners' swarms, one after the other and each of
// them twice: it is away for a moment, and the next is killed when it is back. No swarm
// is made anew for it. ended waits until that is over.
func killMembers(t *testing.T, n *devnet.LedgerNetwork, owners ...account.ID) (ended func() (kills int)) {
	t.Helper()
	list, err := n.ListOf(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var numbers []int
	for _, id := range owners {
		_, nodes := list.Of(id)
		for _, m := range nodes {
			if k := n.Number(m.Address); !slices.Contains(numbers, k) {
				numbers = append(numbers, k)
			}
		}
	}
	numbers = append(numbers, numbers...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, k := range numbers {
			if err := n.Kill(k); err != nil {
				t.Error(err)
				return
			}
			time.Sleep(time.Second) // so long it is away
			if err := n.Launch(k); err != nil {
				t.Error(err)
				return
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			err := n.Until(ctx, "the killed node to be back", func(s map[int]*api.NodeStatus) bool { return s[k].GetReady() })
			cancel()
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	ended = func() int { <-done; return len(numbers) }
	t.Cleanup(func() { ended() })
	return ended
}
