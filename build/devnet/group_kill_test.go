package devnet_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"hearth/build/devnet"
	"hearth/node/api"
)

// Two people write in a group, and one of them names it again and again, while both
// of their messengers are killed at random moments.
func TestNothingOfAGroupIsLostOrDoubledWhenTheProgramIsKilled(t *testing.T) {
	t.Parallel() // it mostly waits
	total := kills(t) / 2
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Duration(total)*2*time.Second)
	defer cancel()
	n, err := devnet.Start(ctx, devnet.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	file := program(t)
	network := []string{"-seed", n.SeedURL(), "-seed-pin", fmt.Sprintf("%x", n.Pin())}
	people := []*victim{newVictim(t, "alice", file, network, 3), newVictim(t, "bob", file, network, 4)}
	lives := make([]*life, 2)
	for i, v := range people {
		lives[i] = v.start()
		st, err := lives[i].client.Create(ctx, &api.CreateRequest{Pin: v.pin}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		v.id = st.SessionId
	}
	if _, err := lives[1].client.AddContact(ctx, &api.AddContactRequest{SessionId: people[0].id}); err != nil {
		t.Fatal(err)
	}
	made, err := lives[0].client.GroupCreate(ctx, &api.GroupCreateRequest{Name: "name 0", Members: []string{people[1].id}})
	if err != nil {
		t.Fatal(err)
	}
	groupIs := func(l *life, what string, wanted func(*api.Group) bool) {
		t.Helper()
		for {
			reply, err := l.client.Groups(ctx, &api.GroupsRequest{Group: made.Id})
			if err == nil && wanted(reply.Groups[0]) {
				return
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("waiting for %s: %v, %v\n%s", what, reply, err, l.said.String())
			}
		}
	}
	groupIs(lives[1], "the invitation", joined)
	for _, l := range lives {
		l.leave(t)
	}

	naming, stopNaming := context.WithCancel(ctx)
	defer stopNaming()
	conn, err := api.Dial(filepath.Join(people[0].dir, "messenger.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var wait, names sync.WaitGroup
	var promised atomic.Int64
	tried := 0
	names.Go(func() {
		client := api.NewMessengerClient(conn)
		for naming.Err() == nil {
			call, done := context.WithTimeout(naming, 30*time.Second)
			_, err := client.GroupRename(call, &api.GroupTextRequest{Group: made.Id, Text: fmt.Sprintf("name %d", tried+1)})
			done()
			tried++
			if err == nil {
				promised.Store(int64(tried))
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-naming.Done():
			}
		}
	})
	for _, v := range people {
		wait.Go(func() {
			for k := 0; ctx.Err() == nil && (k < (total+1)/2 || promised.Load() == 0); k++ {
				v.live(ctx, made.Id)
			}
		})
	}
	wait.Wait()
	stopNaming()
	names.Wait()
	if ctx.Err() != nil {
		t.Fatal(context.Cause(ctx))
	}

	for i, v := range people {
		lives[i] = v.start()
		if err := v.open(ctx, lives[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range lives {
		settled(ctx, t, l)
		groupIs(l, "rest", func(g *api.Group) bool { return !g.Waiting && g.State == api.Group_JOINED })
	}
	sent, lost, doubled := 0, 0, 0
	for i, v := range people {
		wrote := make(map[string]int)
		for _, m := range v.all(ctx, lives[i], made.Id) {
			if m.Outgoing && m.Kind == api.Message_TEXT {
				wrote[m.Text]++
				if m.State != api.Message_STORED {
					t.Errorf("%q of %s: %v", m.Text, v.name, m.State)
				}
			}
		}
		other := people[1-i]
		got := make(map[string]int)
		for text, n := range received(ctx, other, lives[1-i], made.Id, wrote) {
			if wrote[text] > 0 || len(text) > len(v.name) && text[:len(v.name)] == v.name {
				got[text] = n
			}
		}
		for text := range v.promised {
			if wrote[text] == 0 {
				lost++
				t.Errorf("%q was shown to %s, and is gone", text, v.name)
			}
		}
		for text, n := range wrote {
			sent++
			if got[text] == 0 {
				lost++
				t.Errorf("%q never came to %s", text, other.name)
			}
			if n > 1 || got[text] > 1 || other.events[text] > 1 {
				doubled++
				t.Errorf("%q is %d times with %s and %d times with %s, who was told %d times", text, n, v.name, got[text], other.name, other.events[text])
			}
		}
	}
	var name string
	for _, l := range lives {
		groupIs(l, "one name", func(g *api.Group) bool {
			if name == "" {
				name = g.Name
			}
			return g.Name == name
		})
	}
	var at int
	if _, err := fmt.Sscanf(name, "name %d", &at); err != nil || at < int(promised.Load()) {
		t.Errorf("the group is called %q after %d was promised", name, promised.Load())
	}
	for _, l := range lives {
		l.leave(t)
	}
	t.Logf("%d kills, while %v and %v: %d messages, %d lost, %d doubled; %d names", total, people[0].struck, people[1].struck, sent, lost, doubled, tried)
	if sent < total/2 {
		t.Errorf("only %d messages were sent", sent)
	}
}
