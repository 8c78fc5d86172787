package messenger

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hearth/node/api"
	"hearth/node/messenger/mailbox/swarmtest"
)

const (
	ownPIN    = "482915"
	duressPIN = "under duress"
)

func TestTheDuressPINLeavesAnEmptyMessenger(t *testing.T) {
	for name, use := range map[string]func(m *running) error{
		"unlocking": func(m *running) error {
			if _, err := m.Lock(m.t.Context(), nil); err != nil {
				return err
			}
			_, err := m.Unlock(m.t.Context(), &api.UnlockRequest{Pin: duressPIN})
			return err
		},
		"asking for the phrase": func(m *running) error {
			_, err := m.Phrase(m.t.Context(), &api.PhraseRequest{Pin: duressPIN})
			return err
		},
		"changing the PIN": func(m *running) error {
			_, err := m.ChangePIN(m.t.Context(), &api.ChangePINRequest{Pin: duressPIN, NewPin: "another one"})
			return err
		},
		"asking whether it is the PIN": func(m *running) error {
			_, err := m.ChangePIN(m.t.Context(), &api.ChangePINRequest{Pin: duressPIN})
			return err
		},
		"choosing another duress PIN": func(m *running) error {
			_, err := m.SetDuress(m.t.Context(), &api.SetDuressRequest{Pin: duressPIN, DuressPin: "another one"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				n := swarmtest.New(t, 9, time.Now)
				vault := &fakeVault{tries: 8, up: true, generation: 4}
				file := filepath.Join(t.TempDir(), "messenger.db")
				m, stop := start(t, n, Config{Vault: vault, DBPath: file})
				st, err := m.Create(ctx, &api.CreateRequest{Pin: ownPIN})
				if err != nil {
					t.Fatal(err)
				}
				m.send(person(2).ID(), "something secret")
				if _, err := m.SetDuress(ctx, &api.SetDuressRequest{Pin: "000000", DuressPin: duressPIN}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("with a wrong PIN: %v", err)
				}
				if _, err := m.SetDuress(ctx, &api.SetDuressRequest{Pin: ownPIN, DuressPin: duressPIN}); err != nil {
					t.Fatal(err)
				}
				if now := m.now(); now.Account != api.MessengerState_OPEN || now.SessionId != st.SessionId {
					t.Errorf("choosing it changed %v", now)
				}
				kept, err := os.Open(file) // so that no other file gets its number
				if err != nil {
					t.Fatal(err)
				}
				defer kept.Close()
				old, err := kept.Stat()
				if err != nil {
					t.Fatal(err)
				}

				if err := use(m); err != nil {
					t.Fatal(err)
				}
				if now, err := os.Stat(file); err == nil && os.SameFile(old, now) {
					t.Error("the database is the old one")
				}
				pin := vault.pin
				if now := m.now(); now.Account == api.MessengerState_LOCKED {
					if _, err := m.Unlock(ctx, &api.UnlockRequest{Pin: pin}); err != nil {
						t.Fatal(err)
					}
				}
				empty := func() {
					t.Helper()
					now := m.now()
					if now.Account != api.MessengerState_OPEN || now.SessionId == st.SessionId {
						t.Errorf("it shows %v", now)
					}
					if c, err := m.Contacts(ctx, nil); err != nil || len(c.Contacts) != 0 {
						t.Errorf("contacts %v, %v", c, err)
					}
				}
				empty()
				stop()
				m, _ = start(t, n, Config{Vault: vault, DBPath: file})
				if _, err := m.Unlock(ctx, &api.UnlockRequest{Pin: ownPIN}); status.Code(err) != codes.PermissionDenied {
					t.Errorf("the old PIN: %v", err)
				}
				if _, err := m.Unlock(ctx, &api.UnlockRequest{Pin: pin}); err != nil {
					t.Fatal(err)
				}
				empty()
			})
		})
	}
}

// After a power cut in the middle, or with an old copy of the card, the database is
// still there when the account is another one already.
func TestADatabaseWhoseAccountIsGoneIsErasedAtTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		n := swarmtest.New(t, 9, time.Now)
		vault := &fakeVault{tries: 8, up: true, generation: 4}
		file := filepath.Join(t.TempDir(), "messenger.db")
		m, stop := start(t, n, Config{Vault: vault, DBPath: file})
		if _, err := m.Create(ctx, &api.CreateRequest{Pin: ownPIN}); err != nil {
			t.Fatal(err)
		}
		stop()
		vault.mu.Lock()
		vault.generation++
		vault.mu.Unlock()
		if _, err := os.Stat(file); err != nil {
			t.Fatal(err)
		}
		_, stop = start(t, n, Config{Vault: vault, DBPath: file})
		time.Sleep(2 * time.Second)
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
		stop()
	})
}

func TestTheAccountLocksAfterATimeWithoutUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		n := swarmtest.New(t, 9, time.Now)
		vault := &fakeVault{tries: 8, up: true}
		m, _ := start(t, n, Config{Vault: vault, DBPath: filepath.Join(t.TempDir(), "messenger.db")})
		if _, err := m.Create(ctx, &api.CreateRequest{Pin: ownPIN}); err != nil {
			t.Fatal(err)
		}
		locked := func() bool { return m.now().Account == api.MessengerState_LOCKED }
		time.Sleep(20 * time.Minute)
		if locked() {
			t.Fatal("it locks by itself although nobody wants that")
		}
		if _, err := m.Settings(ctx, &api.SettingsRequest{LockMinutes: proto.Uint32(1441)}); !errors.Is(err, ErrLockTime) {
			t.Errorf("a time that is too long: %v", err)
		}
		if s, err := m.Settings(ctx, &api.SettingsRequest{LockMinutes: proto.Uint32(5)}); err != nil || s.LockMinutes != 5 {
			t.Fatalf("%v, %v", s, err)
		}
		for range 3 { // somebody looks into it every now and then
			time.Sleep(4 * time.Minute)
			if _, err := m.Contacts(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(4 * time.Minute)
		if locked() {
			t.Error("it locks too early")
		}
		time.Sleep(time.Minute + time.Second)
		if !locked() {
			t.Error("it does not lock")
		}
		if _, err := m.Unlock(ctx, &api.UnlockRequest{Pin: ownPIN}); err != nil {
			t.Fatal(err)
		}
		if s, err := m.Settings(ctx, &api.SettingsRequest{}); err != nil || s.LockMinutes != 5 {
			t.Errorf("the setting is gone: %v, %v", s, err)
		}
	})
}
