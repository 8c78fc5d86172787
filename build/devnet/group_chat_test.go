package devnet_test

import (
	"context"
	"testing"
	"time"

	"hearth/build/devnet"
)

// A group by what people type, over the whole program.
func TestThreeChatsInAGroup(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	folder := t.TempDir()
	n, err := devnet.Start(ctx, devnet.Config{Dir: folder})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	file := program(t)
	sit := func(name string) (*chatter, string) {
		c := chat(t, file, false, "-dir", shortDir(t), "-developer", "-devnet", folder, "-poll", "300ms", "-name", name)
		c.line("setup 271828")
		return c, c.shows(`Your Session ID is\s+(05[0-9a-f]{64})`)[1]
	}
	alice, aliceID := sit("Alice")
	bob, bobID := sit("Bob")
	carol, carolID := sit("Carol")
	bob.line("add " + aliceID + " Alice")
	bob.shows(`Alice is 05`)
	alice.line("add " + bobID + " Bob")
	alice.line("add " + carolID + " Carol")
	alice.shows(`Carol is 05`)

	alice.line(`group new "Tea at five" Bob Carol`)
	alice.shows(`Tea at five is 03[0-9a-f]{64}; 2 invitations on the way`)
	bob.shows(`you are in the group Tea at five now`)
	carol.shows(`invitation to a group from ` + aliceID)
	carol.line("groups")
	carol.shows(`Tea at five, Alice \(` + aliceID + `\) invites you`)
	carol.line("group accept Tea at five")
	carol.shows(`You take part in Tea at five`)
	alice.shows(`Tea at five: Carol accepted the invitation`)

	alice.line(`send "Tea at five" who comes?`)
	bob.shows(`message from Alice in Tea at five: who comes\?`)
	carol.shows(`message from Alice in Tea at five: who comes\?`)
	bob.line("read")
	bob.shows(`With Tea at five \(03`)
	bob.shows(`#(\d+) Alice: who comes\?`)
	carol.line(`send "Tea at five" I do`)
	bob.shows(`message from .* in Tea at five: I do`)
	bob.line(`group rename "Tea at five" Coffee`)
	bob.shows(`Only an admin of the group can do that`)
	alice.line(`group rename "Tea at five" Coffee`)
	alice.shows(`The group is called Coffee now`)
	bob.shows(`Coffee: Alice named the group Coffee`)
	alice.line("group promote Coffee Bob")
	alice.shows(`They will be admins`)
	bob.shows(`made you an admin`)
	bob.line("group Coffee")
	bob.shows(`3 members, you are an admin`)
	bob.line("group remove Coffee " + carolID)
	bob.shows(`Removed\. They get no key`)
	carol.shows(`Coffee: You were removed from the group`)
	bob.line("group leave Coffee")
	bob.shows(`You have left Coffee`)
	alice.shows(`Coffee: Bob left the group`)
	alice.line("group destroy Coffee")
	alice.shows(`This ends Coffee for everybody`)
	alice.line("yes")
	alice.shows(`The group has ended`)
	for _, c := range []*chatter{alice, bob, carol} {
		c.line("exit")
		if err := c.ends(); err != nil {
			t.Errorf("leaving: %v\n%s", err, c.all())
		}
	}
}
