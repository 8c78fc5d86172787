package messenger

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/bt"
	"hearth/node/messenger/mailbox/swarmtest"
	"hearth/node/wire"
)

func TestACodeIsReadHoweverItIsTyped(t *testing.T) {
	s, err := drawLink(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	code := s.code()
	if len(code) != 29 || strings.Count(code, "-") != 5 {
		t.Errorf("the code is %d characters long", len(code))
	}
	for name, typed := range map[string]string{
		"as it is shown":     code,
		"in small letters":   strings.ToLower(code),
		"without dashes":     strings.ReplaceAll(code, "-", ""),
		"with blanks around": "  " + strings.ReplaceAll(code, "-", " ") + "\t",
		"with O for zero":    strings.ReplaceAll(code, "0", "O"),
		"with I for one":     strings.ReplaceAll(code, "1", "I"),
		"with l for one":     strings.ReplaceAll(code, "1", "l"),
	} {
		if got, err := parseLink(typed); err != nil || got != s {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%#v", s), fmt.Sprintf("%v", &s)} {
		if strings.Contains(text, code[:4]) {
			t.Errorf("it prints as %q", text)
		}
	}
}

// Every single mistake and every swap of two neighbours but those that happen to
// give the same check.
func TestAMistypedCodeIsNoticed(t *testing.T) {
	s, err := drawLink(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	code := strings.ReplaceAll(s.code(), "-", "")
	missed, tried := 0, 0
	try := func(typed string) {
		if tried++; typed == code {
			return
		}
		switch _, err := parseLink(typed); {
		case err == nil:
			missed++
		case !errors.Is(err, ErrLinkCode) || strings.Contains(err.Error(), typed):
			t.Fatal(err)
		}
	}
	for i := range code {
		for _, c := range linkAlphabet {
			try(code[:i] + string(c) + code[i+1:])
		}
		try(code[:i] + code[i+1:])
		try(code[:i] + "0" + code[i:])
		if i > 0 {
			try(code[:i-1] + code[i:i+1] + code[i-1:i] + code[i+1:])
		}
	}
	if missed > 2 {
		t.Errorf("%d of %d mistakes are not noticed", missed, tried)
	}
	for _, typed := range []string{"", "-", "U" + code[1:], "ü" + code[1:], code + code, strings.Repeat("0", 1<<20)} {
		if _, err := parseLink(typed); !errors.Is(err, ErrLinkCode) {
			t.Errorf("%.30q: %v", typed, err)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	f.Add("7QK2-M9TX-W3AR-B6DH-4NEC-PV8S")
	f.Fuzz(func(t *testing.T, typed string) {
		s, err := parseLink(typed)
		if err != nil {
			return
		}
		if again, err := parseLink(s.code()); err != nil || again != s {
			t.Errorf("%q is read as another code: %v", typed, err)
		}
	})
}

// meetingOf makes a meeting and what an honest device leaves there.
func meetingOf(t testing.TB) (meeting *account.Account, key [32]byte, what bt.Dict, own *account.Account) {
	t.Helper()
	meeting, key, err := linkSecret([]byte(strings.Repeat("0", linkDrawn))).derive()
	if err != nil {
		t.Fatal(err)
	}
	seed := account.Seed{7}
	own = account.New(seed)
	expires := time.Now().Add(time.Minute).Unix()
	return meeting, key, bt.Dict{"v": int64(linkVersion), "e": expires, "s": seed[:], "p": own.Keys().Sign(linkProof(own.ID(), meeting.ID(), expires))}, own
}

func left(t testing.TB, meeting *account.Account, key [32]byte, what any) []byte {
	t.Helper()
	content, err := bt.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := wire.SealPayload(rand.Reader, key, content)
	if err != nil {
		t.Fatal(err)
	}
	data, err := wire.Seal(rand.Reader, meeting, meeting.ID(), wire.Text(base64.StdEncoding.EncodeToString(sealed), uint64(time.Now().UnixMilli())))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestOnlyWhatTheOtherDeviceLeftIsTaken(t *testing.T) {
	meeting, key, what, own := meetingOf(t)
	if l, ok := readLink(meeting, key, left(t, meeting, key, what)); !ok || !l.has || l.seed != (account.Seed{7}) {
		t.Fatalf("what the other device left: %v", ok)
	}
	change := func(f func(bt.Dict)) bt.Dict {
		d := bt.Dict{}
		for k, v := range what {
			d[k] = v
		}
		f(d)
		return d
	}
	if l, ok := readLink(meeting, key, left(t, meeting, key, change(func(d bt.Dict) { delete(d, "s"); delete(d, "p") }))); !ok || l.has || l.expires != what["e"] {
		t.Error("the notice is not read")
	}
	stranger := account.New(account.Seed{8})
	content, err := bt.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := wire.SealPayload(rand.Reader, key, content)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := wire.Seal(rand.Reader, stranger, meeting.ID(), wire.Text(base64.StdEncoding.EncodeToString(sealed), uint64(time.Now().UnixMilli())))
	if err != nil {
		t.Fatal(err)
	}
	otherSeed := account.Seed{9}
	for name, data := range map[string][]byte{
		"garbage":                      []byte("garbage"),
		"nothing":                      nil,
		"from another account":         foreign,
		"under another key":            left(t, meeting, [32]byte{1}, what),
		"no dictionary":                left(t, meeting, key, "text"),
		"of another version":           left(t, meeting, key, change(func(d bt.Dict) { d["v"] = int64(2) })),
		"without an end":               left(t, meeting, key, change(func(d bt.Dict) { delete(d, "e") })),
		"with another end than signed": left(t, meeting, key, change(func(d bt.Dict) { d["e"] = d["e"].(int64) + 1 })),
		"with another seed":            left(t, meeting, key, change(func(d bt.Dict) { d["s"] = otherSeed[:] })),
		"with half a seed":             left(t, meeting, key, change(func(d bt.Dict) { d["s"] = otherSeed[:8] })),
		"without a proof":              left(t, meeting, key, change(func(d bt.Dict) { delete(d, "p") })),
		"for another meeting":          left(t, meeting, key, change(func(d bt.Dict) { d["p"] = own.Keys().Sign(linkProof(own.ID(), own.ID(), d["e"].(int64))) })),
	} {
		if l, ok := readLink(meeting, key, data); ok {
			t.Errorf("%s is taken: %v", name, l.has)
		}
	}
	if text := fmt.Sprintf("%v %+v", linkSecret{}, what["v"]); strings.Contains(text, "\x00") {
		t.Error(text)
	}
}

// A code is good for one device and ten minutes, by the network's clock.
func TestACodeThatIsOverUsedOrGuessedLinksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		n.Push()
		ctx := t.Context()
		first, _ := start(t, n, Config{Vault: &fakeVault{up: true, tries: 8}})
		st, err := first.Create(ctx, &api.CreateRequest{Pin: "123456"})
		if err != nil {
			t.Fatal(err)
		}
		code := func() string {
			t.Helper()
			link, err := first.Link(ctx, &api.LinkRequest{Pin: "123456"})
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(time.UnixMilli(link.Expires)); left > linkTime || left < linkTime-time.Minute {
				t.Errorf("a code for %v", left)
			}
			return link.Code
		}
		join := func(code string, clock func() time.Time) error {
			t.Helper()
			vault := &fakeVault{up: true, tries: 8}
			device, stop := start(t, n, Config{Vault: vault, Now: clock})
			defer stop()
			_, err := device.Join(ctx, &api.JoinRequest{Code: code, Pin: "654321"})
			switch now := device.now(); {
			case err != nil && (vault.seed != nil || now.Account != api.MessengerState_NONE || now.SessionId != ""):
				t.Errorf("the device has an account after %v: %v", err, now)
			case err == nil && (now.SessionId != st.SessionId || now.Account != api.MessengerState_OPEN):
				t.Errorf("joined %v", now)
			case err == nil:
				time.Sleep(10 * time.Second) // until the others can know of it
			}
			return err
		}
		refused := func(why, code string, clock func() time.Time, want *Error) {
			t.Helper()
			err := join(code, clock)
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", why, err, want)
			}
			if text := status.Convert(err).Message(); err != nil && (text != want.text || strings.Contains(text, code[:4])) {
				t.Errorf("%s: people read %q", why, text)
			}
		}

		good := code()
		time.Sleep(linkTime - time.Minute)
		if err := join(good, nil); err != nil {
			t.Fatalf("a code of nine minutes ago: %v", err)
		}
		refused("used already", good, nil, ErrLinkUsed)

		late := code()
		time.Sleep(linkTime + 2*time.Second)
		refused("shown long ago", late, nil, ErrLinkOver)
		refused("shown long ago, to a device whose clock is slow", late, func() time.Time { return time.Now().Add(-time.Hour) }, ErrLinkOver)

		before, latest := code(), code()
		refused("replaced by a later one", before, nil, ErrLinkUsed)
		guess, err := drawLink(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		refused("guessed", guess.code(), nil, ErrLinkNothing)

		// Nothing of that has harmed the code that is good, nor added a device.
		if err := join(latest, nil); err != nil {
			t.Errorf("the latest code: %v", err)
		}
		time.Sleep(time.Minute)
		if list, err := first.Devices(ctx, nil); err != nil || len(list.Devices) != 3 {
			t.Errorf("devices %v, %v; want the first and two that were linked", list, err)
		}
		if _, err := first.Link(ctx, &api.LinkRequest{Pin: "000000"}); err == nil {
			t.Error("a code without the PIN")
		}
		for _, m := range n.Nodes {
			n.Kill(m.Ed25519)
		}
		if _, err := first.Link(ctx, &api.LinkRequest{Pin: "123456"}); !errors.Is(err, ErrLinkStore) {
			t.Errorf("a code without a network: %v", err)
		}
	})
}

func FuzzReadLink(f *testing.F) {
	meeting, key, what, _ := meetingOf(f)
	content, err := bt.Marshal(what)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add([]byte("d1:ei1e1:vi1ee"))
	f.Fuzz(func(t *testing.T, content []byte) {
		sealed, err := wire.SealPayload(rand.Reader, key, content)
		if err != nil {
			t.Fatal(err)
		}
		l, ok := parseLinked(meeting.ID(), key, wire.Text(base64.StdEncoding.EncodeToString(sealed), 1_700_000_000_000))
		if ok && l.has && string(l.seed[:]) != string(what["s"].([]byte)) {
			t.Error("a seed without its account's signature")
		}
	})
}
