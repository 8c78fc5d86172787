package messenger

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/rpc"
	"hearth/node/wire"
)

// kept is what a node of the account's swarm has for it.
func kept(t testing.TB, n *swarmtest.Network, a *account.Account) int {
	t.Helper()
	most := 0
	for _, node := range n.Swarm(a.ID()) {
		most = max(most, len(retrieve(t, n, node, a)))
	}
	return most
}

func mustOpen(t testing.TB, st *api.MessengerState, err error, id account.ID) {
	t.Helper()
	if err != nil || st.Account != api.MessengerState_OPEN || st.SessionId != id.String() {
		t.Fatalf("state %v, %v; want %v open", st, err, id)
	}
}

func TestAnAccountIsLockedAndOpenedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		vault := &fakeVault{up: true, tries: 8, seed: make([]byte, 16), pin: "123456"}
		m, _ := start(t, n, Config{Vault: vault})
		if st, err := m.Lock(t.Context(), nil); err != nil || st.Account != api.MessengerState_LOCKED {
			t.Errorf("locking what is locked: %v, %v", st, err)
		}
		own := account.New(account.Seed{})
		for range 3 {
			st, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"})
			mustOpen(t, st, err, own.ID())
			m.send(person(2).ID(), "hello")
			session := m.session
			// A request that is under way ends with the lock.
			stuck := make(chan error)
			for _, node := range n.Nodes {
				n.Answer(node.Ed25519, func(ctx context.Context, _ pathtest.Node, _ []byte) (int, any) { <-ctx.Done(); return 500, "" })
			}
			go func() {
				_, err := m.Send(t.Context(), &api.SendRequest{To: person(2).ID().String(), Text: "stuck"})
				stuck <- err
			}()
			synctest.Wait()
			if st, err = m.Lock(t.Context(), nil); err != nil || st.Account != api.MessengerState_LOCKED || st.SessionId != "" || st.TriesLeft != 8 {
				t.Fatalf("locked: %v, %v", st, err)
			}
			if err := <-stuck; err == nil {
				t.Error("a request outlived the lock")
			}
			for _, node := range n.Nodes {
				n.Answer(node.Ed25519, nil)
			}
			if session.own.Keys().Seed() != [32]byte{} {
				t.Error("the keys are still in memory")
			}
			if _, err := m.Contacts(t.Context(), nil); !errors.Is(err, ErrLocked) {
				t.Errorf("contacts of a locked account: %v", err)
			}
		}
		// What came while it was locked is there after the next opening.
		put(t, n, own.ID(), seal(t, person(3), own.ID(), wire.Text("meanwhile", uint64(time.Now().UnixMilli()))))
		time.Sleep(time.Minute)
		if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}); err != nil {
			t.Fatal(err)
		}
		got := m.next()
		for got.Outgoing { // what was stuck is in the outbox
			got = m.next()
		}
		if got.Text != "meanwhile" {
			t.Errorf("got %v", got)
		}
	})
}

func TestAMessengerWithoutAVaultIsNeitherLockedNorWiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, _ := start(t, swarmtest.New(t, 9, time.Now), Config{Account: person(1)})
		for name, call := range map[string]func() error{
			"Lock": func() error { _, err := m.Lock(t.Context(), nil); return err },
			"Wipe": func() error { _, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456", Anyway: true}); return err },
			"ChangePIN": func() error {
				_, err := m.ChangePIN(t.Context(), &api.ChangePINRequest{Pin: "123456", NewPin: "654321"})
				return err
			},
		} {
			if err := call(); !errors.Is(err, ErrNoVault) {
				t.Errorf("%s: %v", name, err)
			}
		}
		m.send(person(2).ID(), "still here")
	})
}

func TestThePINIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		vault := &fakeVault{up: true, tries: 8, seed: make([]byte, 16), pin: "123456"}
		m, _ := start(t, n, Config{Vault: vault})
		change := func(pin, fresh string) error {
			_, err := m.ChangePIN(t.Context(), &api.ChangePINRequest{Pin: pin, NewPin: fresh})
			return err
		}
		if err := change("123456", "short"); !errors.Is(err, ErrPIN) {
			t.Error(err)
		}
		if err := change("123456", "123456"); !errors.Is(err, ErrSamePIN) {
			t.Error(err)
		}
		if err := change("000000", "654321"); status.Code(err) != codes.PermissionDenied || m.now().TriesLeft != 7 {
			t.Errorf("%v, %v", err, m.now())
		}
		if err := change("short", ""); !errors.Is(err, ErrPIN) {
			t.Error(err)
		}
		if err := change("000000", ""); status.Code(err) != codes.PermissionDenied || m.now().TriesLeft != 6 {
			t.Errorf("a wrong PIN alone: %v, %v", err, m.now())
		}
		if err := change("123456", ""); err != nil || m.now().Account != api.MessengerState_LOCKED {
			t.Errorf("the PIN alone: %v, %v", err, m.now())
		}
		if err := change("123456", "654321"); err != nil { // while it is locked
			t.Fatal(err)
		}
		if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("the old PIN: %v", err)
		}
		if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "654321"}); err != nil {
			t.Fatal(err)
		}
		if err := change("654321", "äöüäöü"); err != nil || m.now().Account != api.MessengerState_OPEN { // and open
			t.Errorf("%v, %v", err, m.now())
		}
	})
}

func TestARestoredAccountGetsWhatItsSwarmKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		seed := account.Seed{9: 9}
		own := account.New(seed)
		bob, _ := start(t, n, Config{Account: person(2), DisplayName: "Bob"})
		var want []string
		for _, text := range []string{"one", "two", "three"} {
			bob.send(own.ID(), text)
			want = append(want, text)
		}
		// Each member has a message that the two others lack.
		for i, node := range n.Swarm(own.ID()) {
			time.Sleep(time.Second)
			text := "only at member " + string(rune('a'+i))
			want = append(want, text)
			for _, other := range n.Swarm(own.ID()) {
				if other.Ed25519 != node.Ed25519 {
					n.Kill(other.Ed25519)
				}
			}
			body := storeBody(own.ID(), seal(t, person(2), own.ID(), wire.Text(text, uint64(time.Now().UnixMilli()))))
			if status, reply := n.Honest(t.Context(), node, body); status != 200 {
				t.Fatalf("storing: %d %v", status, reply)
			}
			for _, other := range n.Swarm(own.ID()) {
				n.Revive(other.Ed25519)
			}
		}
		for _, form := range []string{seed.Phrase(), strings.ToUpper(hex.EncodeToString(seed[:]))} {
			m, stop := start(t, n, Config{Vault: &fakeVault{up: true, tries: 8}, PollInterval: time.Hour})
			st, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: form})
			mustOpen(t, st, err, own.ID())
			time.Sleep(time.Minute) // less than a second round
			got := m.texts(person(2).ID())
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			if _, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: form}); !errors.Is(err, ErrOpen) {
				t.Errorf("restored twice: %v", err)
			}
			stop()
			if said := m.log.String(); strings.Contains(said, form) || strings.Contains(said, strings.Fields(form)[0]) {
				t.Error("the log has the phrase")
			}
		}
	})
}

func TestAPhraseThatIsWrongRestoresNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		file := filepath.Join(t.TempDir(), "messenger.db")
		vault := &fakeVault{up: true, tries: 8}
		m, stop := start(t, n, Config{Vault: vault, DBPath: file})
		words := strings.Fields(account.Seed{1}.Phrase())
		words[4] = "qqsecret"
		for _, c := range []struct{ pin, phrase, says string }{
			{"123456", "", "needs 13"},
			{"123456", strings.Join(words, " "), "word 5: the word is not in the list"},
			{"12345", account.Seed{1}.Phrase(), "6 to 32"},
		} {
			_, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: c.pin, Phrase: c.phrase})
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", c.says, err)
			}
		}
		if vault.seed != nil || m.now().Account != api.MessengerState_NONE {
			t.Error("an account came of it")
		}

		// The database of another account is noticed before anything is sealed.
		stop()
		other, stop := start(t, n, Config{Account: person(7), DBPath: file})
		other.send(person(2).ID(), "hello")
		stop()
		m, _ = start(t, n, Config{Vault: vault, DBPath: file})
		if _, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: account.Seed{1}.Phrase()}); !errors.Is(err, ErrDisk) || vault.seed != nil {
			t.Errorf("over another's database: %v", err)
		}
		// Its own account's database is taken up again.
		st, err := m.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: account.Seed{7}.Phrase()})
		mustOpen(t, st, err, person(7).ID())
		if got := m.texts(person(2).ID()); !slices.Equal(got, []string{"hello"}) {
			t.Errorf("the conversation is %q", got)
		}
	})
}

func TestWipingLeavesNothing(t *testing.T) {
	for name, locked := range map[string]bool{"an open account": false, "a locked account": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				seed := account.Seed{9: 9}
				own := account.New(seed)
				file := filepath.Join(t.TempDir(), "messenger.db")
				vault := &fakeVault{up: true, tries: 8, seed: seed[:], pin: "123456"}
				m, _ := start(t, n, Config{Vault: vault, DBPath: file})
				for range 3 {
					put(t, n, own.ID(), seal(t, person(2), own.ID(), wire.Text("hello", uint64(time.Now().UnixMilli()))))
					time.Sleep(time.Second)
				}
				if !locked {
					if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
				}
				if _, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "000000", Anyway: true}); status.Code(err) != codes.PermissionDenied {
					t.Fatalf("with a wrong PIN: %v", err)
				}
				vault.set(false)
				if _, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456", Anyway: true}); !errors.Is(err, ErrNoVault) {
					t.Fatalf("while the vault is away: %v", err)
				}
				vault.set(true)
				if _, err := os.Stat(file); !locked && err != nil || kept(t, n, own) != 3 || vault.seed == nil {
					t.Fatalf("a wipe that was refused deleted something: %v", err)
				}
				r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"})
				if err != nil || !r.Wiped || r.Confirmed != 3 || r.Swarm != 3 || r.Deleted < 3 || r.Deleted > 4 || r.Trouble != "" {
					t.Fatalf("%v, %v", r, err)
				}
				if left := kept(t, n, own); left != 0 {
					t.Errorf("%d messages are still in the swarm", left)
				}
				if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the database is still there: %v", err)
				}
				if st := m.now(); vault.seed != nil || st.Account != api.MessengerState_NONE || st.SessionId != "" || st.Trouble != "" {
					t.Errorf("state %v", st)
				}
				// As on the first day: another account begins.
				st, err := m.Create(t.Context(), &api.CreateRequest{Pin: "654321"})
				if err != nil || st.Account != api.MessengerState_OPEN || st.SessionId == own.ID().String() {
					t.Fatalf("the next account: %v, %v", st, err)
				}
				if _, err := m.Send(t.Context(), &api.SendRequest{To: person(2).ID().String(), Text: "hello from somebody else"}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestAWipeThatTheSwarmDoesNotConfirmAsksFirst(t *testing.T) {
	for name, c := range map[string]struct {
		do        func(n *swarmtest.Network, members []pathtest.Node)
		confirmed uint32
		left      int
		trouble   string
	}{
		"one member is away": {func(n *swarmtest.Network, members []pathtest.Node) { n.Kill(members[0].Ed25519) }, 2, 3, "only 2 of the 3"},
		"one member lies": {func(n *swarmtest.Network, members []pathtest.Node) {
			n.Answer(members[1].Ed25519, func(ctx context.Context, node pathtest.Node, body []byte) (int, any) {
				if strings.Contains(string(body), "delete_all") {
					return 200, `{"swarm":{"` + hex.EncodeToString(node.Ed25519[:]) + `":{"deleted":{},"signature":"AAAA"}}}`
				}
				return n.Honest(ctx, node, body)
			})
		}, 3, 0, ""}, // the others pass the request on to it, and it signs
		"nobody answers": {func(n *swarmtest.Network, _ []pathtest.Node) {
			for _, node := range n.Nodes {
				n.Kill(node.Ed25519)
			}
		}, 0, 3, "deleted their copies"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := swarmtest.New(t, 9, time.Now)
				seed := account.Seed{9: 9}
				own := account.New(seed)
				vault := &fakeVault{up: true, tries: 8, seed: seed[:], pin: "123456"}
				m, _ := start(t, n, Config{Vault: vault})
				if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}); err != nil {
					t.Fatal(err)
				}
				for range 3 {
					time.Sleep(time.Second)
					put(t, n, own.ID(), seal(t, person(2), own.ID(), wire.Text("hello", uint64(time.Now().UnixMilli()))))
					m.next()
				}
				members := n.Swarm(own.ID())
				c.do(n, members)
				r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"})
				if err != nil {
					t.Fatal(err)
				}
				if c.trouble == "" {
					if !r.Wiped || r.Confirmed != c.confirmed {
						t.Errorf("%v", r)
					}
					return
				}
				if r.Wiped || r.Confirmed != c.confirmed || !strings.Contains(r.Trouble, c.trouble) {
					t.Errorf("%v", r)
				}
				if st := m.now(); st.Account != api.MessengerState_OPEN || vault.seed == nil || len(m.texts(person(2).ID())) != 3 {
					t.Fatalf("something is gone already: %v", st)
				}
				// The owner says so, and leaves all the same.
				r, err = m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456", Anyway: true})
				if err != nil || !r.Wiped || r.Trouble == "" || vault.seed != nil || m.now().Account != api.MessengerState_NONE {
					t.Errorf("%v, %v, %v", r, err, m.now())
				}
				for _, node := range n.Nodes {
					n.Revive(node.Ed25519)
				}
				if left := kept(t, n, own); left != c.left {
					t.Errorf("%d messages are left, want %d", left, c.left)
				}
			})
		})
	}
}

func TestAWipeThatWasInterruptedIsFinishedTheNextTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		seed := account.Seed{9: 9}
		file := filepath.Join(t.TempDir(), "messenger.db")
		vault := &fakeVault{up: true, tries: 8, seed: seed[:], pin: "123456"}
		m, stop := start(t, n, Config{Vault: vault, DBPath: file})
		if _, err := m.Unlock(t.Context(), &api.UnlockRequest{Pin: "123456"}); err != nil {
			t.Fatal(err)
		}
		stop()
		// The power went after the database and before the seed.
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		m, stop = start(t, n, Config{Vault: vault, DBPath: file})
		if r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"}); err != nil || !r.Wiped || vault.seed != nil {
			t.Errorf("%v, %v", r, err)
		}
		stop()
		// An account that another device's chip sealed, beside its database.
		vault.seed, vault.broken = seed[:], true
		if err := os.WriteFile(file, []byte("anything"), 0o600); err != nil {
			t.Fatal(err)
		}
		m, stop = start(t, n, Config{Vault: vault, DBPath: file})
		if r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456"}); err != nil || r.Wiped || !strings.Contains(r.Trouble, "cannot be opened on this device") {
			t.Errorf("%v, %v", r, err)
		}
		if r, err := m.Wipe(t.Context(), &api.WipeRequest{Pin: "123456", Anyway: true}); err != nil || !r.Wiped || vault.seed != nil {
			t.Errorf("%v, %v", r, err)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the database is still there: %v", err)
		}
		stop()
	})
}

func storeBody(to account.ID, data []byte) []byte {
	return fmt.Appendf(nil, `{"method":"store","params":{"pubkey":"%s","namespace":0,"timestamp":%d,"ttl":86400000,"data":"%s"}}`,
		to, time.Now().UnixMilli(), base64.StdEncoding.EncodeToString(data))
}

// retrieve reads an inbox as its owner does, at one node.
func retrieve(t testing.TB, n *swarmtest.Network, node pathtest.Node, a *account.Account) []mailbox.Message {
	t.Helper()
	return retrieveIn(t, n, node, a, inbox)
}

func retrieveIn(t testing.TB, n *swarmtest.Network, node pathtest.Node, a *account.Account, namespace int16) []mailbox.Message {
	t.Helper()
	now := time.Now().UnixMilli()
	pub := a.Keys().Ed25519()
	body := fmt.Appendf(nil, `{"method":"retrieve","params":{"pubkey":"%s","pubkey_ed25519":"%x","namespace":%d,"last_hash":"","timestamp":%d,"signature":"%s"}}`,
		a.ID(), pub, namespace, now, base64.StdEncoding.EncodeToString(a.Keys().Sign(rpc.RetrieveText(namespace, now))))
	status, reply := n.Honest(t.Context(), node, body)
	raw, err := json.Marshal(reply)
	if err != nil || status != 200 {
		t.Fatalf("reading an inbox: %d %s, %v", status, raw, err)
	}
	messages, _, err := mailbox.ParseRetrieve(raw)
	if err != nil {
		t.Fatal(err)
	}
	return messages
}
