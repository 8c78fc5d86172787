package devnet_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hearth/build/devnet"
	"hearth/hw/tpm"
	"hearth/hw/tpm/swtpmtest"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger"
	"hearth/node/rpc"
	"hearth/node/swarm"
	"hearth/node/vault"
)

// withTPM gives a messenger a vault of its own, on a chip that outlives it.
func withTPM(t *testing.T, chip *swtpmtest.TPM, dir string) func(*messenger.Config) {
	t.Helper()
	device, err := tpm.Open(chip.Socket, tpm.WithLog(slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close() })
	keeper, err := vault.New(vault.Config{Dir: filepath.Join(dir, "vault"), Sealer: device, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *messenger.Config) {
		c.Account, c.Vault = nil, keeper.Client()
		c.DBPath = filepath.Join(dir, "messenger.db")
	}
}

// ask sends one storage request straight to a node, as the account's owner.
func ask(t *testing.T, node swarm.Node, own *account.Account, method string, text []byte, now int64, more map[string]any) []byte {
	t.Helper()
	params := map[string]any{
		"pubkey": own.ID().String(), "pubkey_ed25519": fmt.Sprintf("%x", own.Keys().Ed25519()), "timestamp": now,
		"signature": base64.StdEncoding.EncodeToString(own.Keys().Sign(text)),
	}
	for k, v := range more {
		params[k] = v
	}
	body, err := json.Marshal(map[string]any{"method": method, "params": params})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Post("https://"+node.Address.String()+"/storage_rpc/v1", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%s: %d %s, %v", method, resp.StatusCode, answer, err)
	}
	return answer
}

// kept counts what each member of the account's swarm keeps in some namespaces.
func kept(t *testing.T, n *devnet.Network, own *account.Account) (counts []int) {
	t.Helper()
	_, members := n.List().Of(own.ID())
	for _, m := range members {
		count := 0
		for _, namespace := range []int16{0, 2, 3} {
			now := time.Now().UnixMilli()
			var reply struct{ Messages []json.RawMessage }
			answer := ask(t, m, own, "retrieve", rpc.RetrieveText(namespace, now), now, map[string]any{"namespace": namespace, "last_hash": ""})
			if err := json.Unmarshal(answer, &reply); err != nil {
				t.Fatalf("%s: %v", answer, err)
			}
			count += len(reply.Messages)
		}
		counts = append(counts, count)
	}
	return counts
}

func TestAnAccountIsRestoredWipedAndGoneFromItsSwarm(t *testing.T) {
	n := messengerNetwork(t)
	seed := account.Seed{77}
	own := account.New(seed)
	bob := talk(t, n, 2, nil)
	to := own.ID().String()
	for i := range 3 { // while nobody is there
		if _, err := bob.Send(t.Context(), &api.SendRequest{To: to, Text: fmt.Sprint("waiting ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	// Something in a namespace that the messenger does not read.
	_, members := n.List().Of(own.ID())
	now := time.Now().UnixMilli()
	ask(t, members[0], own, "store", rpc.StoreText(2, now), now, map[string]any{"namespace": 2, "ttl": 3_600_000, "data": "AAAA"})

	// A device that was never used: the phrase, and everything comes back.
	chip, dir := swtpmtest.New(t), t.TempDir()
	alice := talk(t, n, 77, withTPM(t, chip, dir))
	st, err := alice.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: seed.Phrase()})
	if err != nil || st.SessionId != to || st.Account != api.MessengerState_OPEN {
		t.Fatalf("restored %v, %v", st, err)
	}
	for i := range 3 {
		alice.hears(bob, fmt.Sprint("waiting ", i))
	}
	if _, err := alice.ChangePIN(t.Context(), &api.ChangePINRequest{Pin: "123456", NewPin: "654321"}); err != nil {
		t.Fatal(err)
	}
	if st, err := alice.Lock(t.Context(), nil); err != nil || st.Account != api.MessengerState_LOCKED {
		t.Fatalf("locked: %v, %v", st, err)
	}
	bob.says(alice, "are you there?")

	// The power goes, and the new PIN opens.
	alice.stop()
	chip.PowerCut()
	chip.PowerOn(t)
	alice = talk(t, n, 77, withTPM(t, chip, dir))
	if _, err := alice.Unlock(t.Context(), &api.UnlockRequest{Pin: "654321"}); err != nil {
		t.Fatal(err)
	}
	alice.hears(bob, "are you there?")
	alice.says(bob, "only to say goodbye")
	bob.hears(alice, "only to say goodbye")

	// Every member has something, and afterwards none has anything.
	for i, count := range kept(t, n, own) {
		if count < 5 {
			t.Errorf("member %d keeps %d messages, want the four of Bob and the configuration", i, count)
		}
	}
	bobs := kept(t, n, account.New(account.Seed{2}))
	r, err := alice.Wipe(t.Context(), &api.WipeRequest{Pin: "654321"})
	if err != nil || !r.Wiped || r.Confirmed != 3 || r.Swarm != 3 || r.Deleted < 5 {
		t.Fatalf("wiped %v, %v", r, err)
	}
	for i, count := range kept(t, n, own) {
		if count != 0 {
			t.Errorf("member %d still keeps %d messages", i, count)
		}
	}
	if left := kept(t, n, account.New(account.Seed{2})); fmt.Sprint(left) != fmt.Sprint(bobs) {
		t.Errorf("what is kept for somebody else: %v, before: %v", left, bobs)
	}
	for _, file := range []string{"messenger.db", "vault/account.sealed"} {
		if _, err := os.Stat(filepath.Join(dir, file)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", file, err)
		}
	}

	// As on the first day: another account, on the same chip.
	st, err = alice.Create(t.Context(), &api.CreateRequest{Pin: "123456"})
	if err != nil || st.SessionId == to || st.TriesLeft != tpm.MaxTries || st.Unread != 0 {
		t.Fatalf("the next account: %v, %v", st, err)
	}
	alice.id = st.SessionId
	alice.says(bob, "somebody else now")
	bob.hears(alice, "somebody else now")

	// The old one can come back, without its messages.
	again := talk(t, n, 77, withTPM(t, swtpmtest.New(t), t.TempDir()))
	if _, err := again.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: seed.Phrase()}); err != nil {
		t.Fatal(err)
	}
	bob.says(again, "welcome back")
	again.hears(bob, "welcome back")
	if reply, err := again.Messages(t.Context(), &api.MessagesRequest{With: bob.id}); err != nil || len(reply.Messages) != 1 {
		t.Errorf("%d messages after a wipe and a restoration, %v", len(reply.GetMessages()), err)
	}
}
