package devnet_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	"hearth/build/devnet"
	"hearth/hw/tpm/swtpmtest"
	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/messenger"
	"hearth/node/rpc"
)

func TestARestoredAccountHasItsProfileContactsAndReadState(t *testing.T) {
	n := messengerNetwork(t)
	seed := account.Seed{78}
	bob := talk(t, n, 2, nil)
	old := device(t, n, 78, "old", "").lively()
	old.settings(&api.SettingsRequest{DisplayName: proto.String("Ada")})
	old.adds(bob.id, "Bobby")
	old.adds(somebody(1), "Mallory")
	if _, err := old.Block(t.Context(), &api.WhoRequest{Who: "Mallory"}); err != nil {
		t.Fatal(err)
	}
	bob.knows(old)
	bob.says(old, "read long ago")
	old.hears(bob, "read long ago")
	if _, err := old.Messages(t.Context(), &api.MessagesRequest{With: "Bobby", MarkRead: true}); err != nil {
		t.Fatal(err)
	}
	witness := device(t, n, 78, "witness", "").lively()
	witness.sees("all of it", func() bool {
		p := witness.people()
		return p[bob.id].GetLastText() != "" && p[bob.id].GetUnread() == 0 && p[somebody(1)].GetBlocked()
	})
	old.stop()
	witness.stop()
	bob.says(old, "news")

	// A device that was never used. When it says that all is well, it is.
	fresh := talk(t, n, 78, withTPM(t, swtpmtest.New(t), t.TempDir()))
	if _, err := fresh.Restore(t.Context(), &api.RestoreRequest{Pin: "123456", Phrase: seed.Phrase()}); err != nil {
		t.Fatal(err)
	}
	e := fresh.await("a state in which all is well", func(e *api.Event) bool {
		return e.GetRequest() != nil || e.GetState().GetAccount() == api.MessengerState_OPEN && !e.GetState().GetConnecting()
	})
	if e.GetRequest() != nil {
		t.Fatalf("a friend is a stranger: %v", e)
	}
	p := fresh.people()
	if c := p[bob.id]; c.GetName() != "Bobby" || !c.GetApproved() || !c.GetApprovedMe() || !p[somebody(1)].GetBlocked() {
		t.Errorf("contacts %v", p)
	}
	if s := fresh.settings(&api.SettingsRequest{}); s.DisplayName != "Ada" {
		t.Errorf("settings %v", s)
	}
	fresh.sees("one unread message of two", func() bool {
		reply, err := fresh.Messages(context.Background(), &api.MessagesRequest{With: "Bobby"})
		texts := make(map[string]bool) // and whether it was read
		for _, m := range reply.GetMessages() {
			texts[m.Text] = m.Read
		}
		news, there := texts["news"]
		return err == nil && texts["read long ago"] && there && !news && fresh.people()[bob.id].GetUnread() == 1
	})
	// Those that were there before are no news.
	if st, err := fresh.State(t.Context(), nil); err != nil || st.NewDevices != 0 {
		t.Errorf("state %v, %v", st, err)
	}
}

func TestADeviceIsLinkedWithACode(t *testing.T) {
	n := messengerNetwork(t)
	first := talk(t, n, 0, withTPM(t, swtpmtest.New(t), t.TempDir()))
	st, err := first.Create(t.Context(), &api.CreateRequest{Pin: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	first.id = st.SessionId
	first.lively()
	first.settings(&api.SettingsRequest{DisplayName: proto.String("Ada")})
	first.adds(somebody(1), "Bobby")

	if _, err := first.Link(t.Context(), &api.LinkRequest{Pin: "000000"}); err == nil {
		t.Fatal("a code without the PIN")
	}
	replaced, err := first.Link(t.Context(), &api.LinkRequest{Pin: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	link, err := first.Link(t.Context(), &api.LinkRequest{Pin: "123456"})
	if err != nil || time.Until(time.UnixMilli(link.Expires)) > 10*time.Minute || time.Until(time.UnixMilli(link.Expires)) < 8*time.Minute {
		t.Fatalf("until %v, %v", time.UnixMilli(link.GetExpires()), err)
	}

	second := talk(t, n, 0, withTPM(t, swtpmtest.New(t), t.TempDir()))
	mistyped := []byte(link.Code)
	mistyped[0], mistyped[5] = mistyped[5], mistyped[0]
	if mistyped[0] == mistyped[5] {
		mistyped[0] = "0A"[boolToInt(mistyped[0] == '0')]
	}
	for _, c := range []struct {
		name, code string
		want       error
	}{
		{"a mistyped one", string(mistyped), messenger.ErrLinkCode},
		{"half of it", link.Code[:12], messenger.ErrLinkCode},
		{"one that nobody gave out", "0000-0000-0000-0000-0000-" + checkOfZeros, messenger.ErrLinkNothing},
		{"one that a later one replaced", replaced.Code, messenger.ErrLinkUsed},
	} {
		if _, err := second.Join(t.Context(), &api.JoinRequest{Code: c.code, Pin: "654321"}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	began := time.Now()
	st, err = second.Join(t.Context(), &api.JoinRequest{Code: strings.ToLower(strings.ReplaceAll(link.Code, "-", " ")), Pin: "654321"})
	if err != nil || st.SessionId != first.id || st.Account != api.MessengerState_OPEN {
		t.Fatalf("joined: %v, %v", st, err)
	}
	second.id = first.id
	second.sees("name and contact", func() bool {
		return second.settings(&api.SettingsRequest{}).DisplayName == "Ada" && second.people()[somebody(1)].GetName() == "Bobby"
	})
	t.Logf("linked, with profile and contacts, after %v", time.Since(began).Round(time.Millisecond))
	e := first.await("word of the new device", func(e *api.Event) bool { return e.GetDevice() != nil })
	if d := e.GetDevice(); !d.Fresh || d.Own || d.Name != "Hearth" {
		t.Errorf("told of %v", d)
	}
	if st, err := first.State(t.Context(), nil); err != nil || st.NewDevices != 1 {
		t.Errorf("state %v, %v", st, err)
	}
	if list := first.devices(); len(list) != 2 {
		t.Errorf("devices %v", list)
	}
	if st, err := first.State(t.Context(), nil); err != nil || st.NewDevices != 0 {
		t.Errorf("after a look: state %v, %v", st, err)
	}

	// The code is used up, the account is there, and its PIN is the new device's own.
	third := talk(t, n, 0, withTPM(t, swtpmtest.New(t), t.TempDir()))
	if _, err := third.Join(t.Context(), &api.JoinRequest{Code: link.Code, Pin: "111111"}); !errors.Is(err, messenger.ErrLinkUsed) {
		t.Errorf("the same code again: %v", err)
	}
	if _, err := second.Join(t.Context(), &api.JoinRequest{Code: link.Code, Pin: "111111"}); !errors.Is(err, messenger.ErrOpen) {
		t.Errorf("a device with an account: %v", err)
	}
	if _, err := second.Phrase(t.Context(), &api.PhraseRequest{Pin: "654321"}); err != nil {
		t.Errorf("the new device's PIN: %v", err)
	}

	// A device whose clock stands a quarter of an hour later in the network's eyes
	// does not exist; the code's own time is moved instead, by one that is over.
	late := talk(t, n, 0, func(c *messenger.Config) {
		withTPM(t, swtpmtest.New(t), t.TempDir())(c)
		c.Now = func() time.Time { return time.Now().Add(11 * time.Minute) } // corrected by the network
	})
	again, err := first.Link(t.Context(), &api.LinkRequest{Pin: "123456"})
	if err != nil {
		t.Fatal(err)
	}
	if st, err := late.Join(t.Context(), &api.JoinRequest{Code: again.Code, Pin: "111111"}); err != nil || st.SessionId != first.id {
		t.Errorf("a device whose clock is wrong: %v, %v", st, err)
	}
}

// checkOfZeros goes with a code of twenty zeros.
var checkOfZeros = func() string {
	sum := sha256.Sum256([]byte("hearth link check 1" + strings.Repeat("0", 20)))
	check := ""
	for _, b := range sum[:4] {
		check += string("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[b&31])
	}
	return check
}()

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// stores puts something into a namespace of the account's swarm, as one of its
// devices could.
func stores(t *testing.T, n *devnet.Network, own *account.Account, namespace int16, data []byte) {
	t.Helper()
	_, members := n.List().Of(own.ID())
	now := time.Now().UnixMilli()
	ask(t, members[0], own, "store", rpc.StoreText(namespace, now), now, map[string]any{"namespace": namespace, "ttl": 3_600_000, "data": base64.StdEncoding.EncodeToString(data)})
}

func TestAHostileDeviceDoesNotHarmTheOthers(t *testing.T) {
	n := messengerNetwork(t)
	own := account.New(account.Seed{1})
	phone := device(t, n, 1, "phone", "").lively()
	phone.settings(&api.SettingsRequest{DisplayName: proto.String("Ada")})
	phone.adds(somebody(1), "Bobby")
	witness := device(t, n, 1, "witness", "").lively()
	witness.sees("the contact", func() bool { return witness.people()[somebody(1)] != nil })

	kinds := append([]config.Kind{config.DeviceList}, config.AccountKinds...)
	bomb := bytes.NewBufferString("z") // of half a gigabyte
	encoder, err := zstd.NewWriter(bomb, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 512 {
		if _, err := encoder.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := encoder.Close(); err != nil {
		t.Fatal(err)
	}
	for i, kind := range kinds {
		ns := kind.Namespace()
		stores(t, n, own, ns, []byte("garbage"))
		stores(t, n, own, ns, bytes.Repeat([]byte{byte(i)}, 76_000))
		for _, plain := range [][]byte{
			bomb.Bytes(),
			[]byte("d1:#i9e1:&d1:n7:hostilee1:<lli9e32:" + strings.Repeat("x", 32) + "deee1:=dee"), // its own ancestor
			[]byte("d1:#i-9e1:&d1:n7:hostilee1:<le1:=d1:n0:e"),
			[]byte(fmt.Sprintf("d1:#i%de1:&d1:n7:hostilee1:<le1:=d1:n0:ee", uint64(math.MaxInt64))),
			[]byte("d1:#i7e1:&" + strings.Repeat("d1:a", 15_000)),
		} {
			stores(t, n, own, ns, sealConfig(t, own, domains[kind], plain))
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	file := filepath.Join(t.TempDir(), "db")
	fresh := device(t, n, 1, "fresh", file).lively()
	fresh.sees("the good state", func() bool {
		return fresh.settings(&api.SettingsRequest{}).DisplayName == "Ada" && fresh.people()[somebody(1)].GetName() == "Bobby"
	})
	fresh.adds(somebody(2), "after it all")
	for _, w := range []*talker{phone, witness} {
		w.sees("what comes afterwards", func() bool { return w.people()[somebody(2)].GetName() == "after it all" })
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<20 {
		t.Errorf("%d bytes more are in use", grown)
	}
	for _, w := range []*talker{phone, witness, fresh} {
		if s := w.settings(&api.SettingsRequest{}); s.DisplayName != "Ada" {
			t.Errorf("settings %v", s)
		}
		if st, err := w.State(t.Context(), nil); err != nil || st.Trouble != "" {
			t.Errorf("state %v, %v", st, err)
		}
	}
}

var domains = map[config.Kind]string{config.UserProfile: "UserProfile", config.ContactList: "Contacts",
	config.ConvoVolatile: "ConvoInfoVolatile", config.UserGroups: "UserGroups", config.DeviceList: "HearthDevices"}

// sealConfig encrypts a config as a device does that knows no bounds.
func sealConfig(t *testing.T, own *account.Account, domain string, plain []byte) []byte {
	t.Helper()
	seed := own.Keys().Seed()
	text := binary.BigEndian.AppendUint64(bytes.Clone(seed[:]), uint64(len(plain)))
	key := blake2b.Sum256(append(text, domain...))
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		t.Fatal(err)
	}
	nonce := make([]byte, aead.NonceSize())
	return append(aead.Seal(nil, nonce, plain, nil), nonce...)
}
