package messenger

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/messenger/mailbox/swarmtest"
)

// fakeVault keeps one seed under one PIN.
type fakeVault struct {
	mu     sync.Mutex
	up     bool
	seed   []byte
	pin    string
	tries  uint32
	duress string // the PIN that puts another account in the place of this one

	generation uint64 // of the account, 0 = it tells none

	broken bool     // the account does not open on this device
	given  [][]byte // the seeds that went out, to see whether they are wiped
}

func (v *fakeVault) set(up bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.up = up
}

func (v *fakeVault) enter() (func(), error) {
	v.mu.Lock()
	if !v.up {
		v.mu.Unlock()
		return nil, status.Error(codes.Unavailable, `connection error: desc = "transport: dial unix /run/x: no such file"`)
	}
	return v.mu.Unlock, nil
}

func (v *fakeVault) Status(context.Context, *api.VaultStatusRequest, ...grpc.CallOption) (*api.VaultStatus, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	return &api.VaultStatus{HasAccount: v.seed != nil, TriesLeft: v.tries, Developer: true, Generation: v.generation}, nil
}

func (v *fakeVault) CreateAccount(_ context.Context, req *api.CreateAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if v.seed != nil {
		return nil, status.Error(codes.AlreadyExists, "there is an account")
	}
	v.seed, v.pin = bytes.Repeat([]byte{7}, 16), req.Pin
	return v.give(), nil
}

func (v *fakeVault) OpenAccount(_ context.Context, req *api.OpenAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := v.check(req.Pin); err != nil {
		return nil, err
	}
	return v.give(), nil
}

func (v *fakeVault) RestoreAccount(_ context.Context, req *api.RestoreAccountRequest, _ ...grpc.CallOption) (*api.AccountSeed, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if v.seed != nil {
		return nil, status.Error(codes.AlreadyExists, "there is an account")
	}
	v.seed, v.pin = bytes.Clone(req.Seed), req.Pin
	v.given = append(v.given, req.Seed)
	return v.give(), nil
}

func (v *fakeVault) ResealAccount(_ context.Context, req *api.ResealAccountRequest, _ ...grpc.CallOption) (*api.ResealAccountReply, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := v.check(req.Pin); err != nil {
		return nil, err
	}
	v.pin = req.NewPin
	return &api.ResealAccountReply{}, nil
}

func (v *fakeVault) SealDuress(_ context.Context, req *api.SealDuressRequest, _ ...grpc.CallOption) (*api.SealDuressReply, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := v.check(req.Pin); err != nil {
		return nil, err
	}
	v.duress = req.DuressPin
	return &api.SealDuressReply{}, nil
}

func (v *fakeVault) RemoveAccount(_ context.Context, req *api.RemoveAccountRequest, _ ...grpc.CallOption) (*api.RemoveAccountReply, error) {
	leave, err := v.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := v.check(req.Pin); err != nil && !v.broken {
		return nil, err
	}
	v.seed, v.pin = nil, ""
	return &api.RemoveAccountReply{}, nil
}

// check is how the vault judges a PIN.
func (v *fakeVault) check(pin string) error {
	switch {
	case v.seed == nil:
		return status.Error(codes.NotFound, "there is no account on this device yet")
	case v.broken:
		return status.Error(codes.FailedPrecondition, "the account cannot be opened on this device")
	case pin == v.duress && pin != "":
		v.seed, v.pin, v.duress = bytes.Repeat([]byte{9}, 16), pin, ""
		v.generation++
	case pin != v.pin:
		v.tries--
		return status.Errorf(codes.PermissionDenied, "wrong PIN, %d tries left", v.tries)
	}
	return nil
}

func (v *fakeVault) NodeSeed(context.Context, *api.NodeSeedRequest, ...grpc.CallOption) (*api.NodeSeedReply, error) {
	return nil, status.Error(codes.PermissionDenied, "not for the messenger")
}

func (v *fakeVault) give() *api.AccountSeed {
	v.given = append(v.given, bytes.Clone(v.seed))
	return &api.AccountSeed{Seed: v.given[len(v.given)-1]}
}

func TestTheLifeOfAnAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		n := swarmtest.New(t, 9, time.Now)
		vault := &fakeVault{tries: 8}
		file := filepath.Join(t.TempDir(), "messenger.db")
		m, stop := start(t, n, Config{Vault: vault, DBPath: file})

		// The vault is not there yet.
		time.Sleep(10 * time.Second)
		if st := m.now(); st.Account != api.MessengerState_STARTING || !strings.Contains(st.Trouble, "vault") {
			t.Errorf("without a vault: %v", st)
		}
		if _, err := m.Create(ctx, &api.CreateRequest{Pin: "123456"}); !errors.Is(err, ErrNoVault) || strings.Contains(err.Error(), "/run") {
			t.Errorf("creating without a vault: %v", err)
		}

		// It comes, and has no account.
		vault.set(true)
		time.Sleep(time.Second)
		if st := m.now(); st.Account != api.MessengerState_NONE || !st.Developer || st.TriesLeft != 8 || st.Trouble != "" {
			t.Errorf("with an empty vault: %v", st)
		}
		if _, err := m.Send(ctx, &api.SendRequest{}); !errors.Is(err, ErrNoAccount) {
			t.Errorf("sending without an account: %v", err)
		}
		for _, pin := range []string{"", "12345", strings.Repeat("1", 33), "12345\xff"} {
			if _, err := m.Create(ctx, &api.CreateRequest{Pin: pin}); !errors.Is(err, ErrPIN) {
				t.Errorf("PIN %q: %v", pin, err)
			}
		}
		st, err := m.Create(ctx, &api.CreateRequest{Pin: "äöüäöü"})
		if err != nil || st.Account != api.MessengerState_OPEN || len(st.SessionId) != 66 || !st.Developer {
			t.Fatalf("created %v, %v", st, err)
		}
		id := st.SessionId
		if _, err := m.Create(ctx, &api.CreateRequest{Pin: "123456"}); !errors.Is(err, ErrOpen) {
			t.Errorf("created twice: %v", err)
		}
		m.send(person(2).ID(), "hello")
		own := m.session.own

		// The phrase needs the PIN although the account is open.
		if _, err := m.Phrase(ctx, &api.PhraseRequest{Pin: "123456"}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "7 tries left") {
			t.Errorf("phrase with a wrong PIN: %v", err)
		}
		if st := m.now(); st.TriesLeft != 7 {
			t.Errorf("%d tries left", st.TriesLeft)
		}
		reply, err := m.Phrase(ctx, &api.PhraseRequest{Pin: "äöüäöü"})
		if err != nil {
			t.Fatal(err)
		}
		if seed, err := account.ParsePhrase(reply.Phrase); err != nil || account.New(seed).ID().String() != id {
			t.Errorf("the phrase is not that of the account: %v", err)
		}
		stop()
		if own.Keys().Seed() != [32]byte{} {
			t.Error("the keys are still there after the end")
		}
		for _, seed := range vault.given {
			if !bytes.Equal(seed, make([]byte, 16)) {
				t.Error("a seed from the vault was not wiped")
			}
		}

		// The next start: locked.
		m, _ = start(t, n, Config{Vault: vault, DBPath: file})
		if st := m.now(); st.Account != api.MessengerState_LOCKED || st.SessionId != "" || st.TriesLeft != 7 || st.Trouble != "" {
			t.Errorf("after a restart: %v", st)
		}
		if _, err := m.Contacts(ctx, nil); !errors.Is(err, ErrLocked) {
			t.Errorf("contacts of a locked account: %v", err)
		}
		if _, err := m.Unlock(ctx, &api.UnlockRequest{Pin: "654321"}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("wrong PIN: %v", err)
		}
		if st := m.now(); st.TriesLeft != 6 {
			t.Errorf("%d tries left", st.TriesLeft)
		}
		// Tries come back with time, and the screen hears of it.
		vault.mu.Lock()
		vault.tries = 8
		vault.mu.Unlock()
		time.Sleep(2 * vaultWatch)
		if st := m.now(); st.TriesLeft != 8 {
			t.Errorf("%d tries left after a while", st.TriesLeft)
		}
		if st, err := m.Unlock(ctx, &api.UnlockRequest{Pin: "äöüäöü"}); err != nil || st.SessionId != id {
			t.Fatalf("unlocked %v, %v", st, err)
		}
		if got := m.texts(person(2).ID()); len(got) != 1 || got[0] != "hello" {
			t.Errorf("conversation after the restart: %q", got)
		}
	})
}

func TestTheDatabaseOfAnotherAccountIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := swarmtest.New(t, 9, time.Now)
		file := filepath.Join(t.TempDir(), "messenger.db")
		_, stop := start(t, n, Config{Account: person(1), DBPath: file})
		stop()
		m, _ := start(t, n, Config{Vault: &fakeVault{up: true, tries: 8}, DBPath: file})
		if _, err := m.Create(t.Context(), &api.CreateRequest{Pin: "123456"}); !errors.Is(err, ErrDisk) || !strings.Contains(err.Error(), "another account") {
			t.Errorf("created over another's database: %v", err)
		}
		if st := m.now(); st.Account != api.MessengerState_LOCKED || !strings.Contains(st.Trouble, "another account") {
			t.Errorf("state %v", st)
		}
		if _, err := New(Config{Account: person(2), DBPath: file}); !errors.Is(err, ErrDisk) {
			t.Errorf("opened by another account: %v", err)
		}
	})
}

func TestTheAPIWorksOverItsSocket(t *testing.T) {
	n := swarmtest.New(t, 9, time.Now)
	m, stop := start(t, n, Config{Account: person(1)})
	socket := filepath.Join(t.TempDir(), "m.sock")
	listener, err := api.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	server := api.NewServer()
	api.RegisterMessengerServer(server, m)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { server.Stop(); <-served }()
	conn, err := api.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewMessengerClient(conn)

	events, err := client.Events(t.Context(), &api.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := events.Recv(); err != nil || e.GetState().GetAccount() != api.MessengerState_OPEN {
		t.Fatalf("first event %v, %v", e, err)
	}
	to := person(2).ID().String()
	for _, c := range []struct {
		text string
		code codes.Code
		says string
	}{
		{strings.Repeat("x", 2001), codes.InvalidArgument, "2001 characters of at most 2000"},
		{"", codes.InvalidArgument, "empty"},
		{"hello", codes.OK, ""},
	} {
		_, err := client.Send(t.Context(), &api.SendRequest{To: to, Text: c.text})
		if status.Code(err) != c.code || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d characters: %v", len(c.text), err)
		}
	}
	for {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetSent() != nil {
			break
		}
	}
	if _, err := client.Phrase(t.Context(), &api.PhraseRequest{Pin: "123456"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("phrase without a vault: %v", err)
	}
	stop()
	for err = nil; err == nil; {
		_, err = events.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}
