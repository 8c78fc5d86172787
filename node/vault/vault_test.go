package vault

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

const pin = "482915"

// sealer is a Sealer in memory that can be told to fail.
type sealer struct {
	mu      sync.Mutex
	busy    int // calls at work; never more than one
	clashes int

	secrets  map[string]string // blob → PIN, a zero byte, secret
	failed   int
	pins     []string
	released int
	damage   bool // sealing under another PIN gives another secret

	sealErr, unsealErr, randErr, triesErr error
	onUnseal                              func() // called while at work
	other                                 bool   // gives back another secret

	generation  int
	generations map[string]int // of the blobs with a PIN
}

func newSealer() *sealer {
	return &sealer{secrets: map[string]string{}, generations: map[string]int{}, generation: 1}
}

func (s *sealer) work() func() {
	s.mu.Lock()
	if s.busy++; s.busy > 1 {
		s.clashes++
	}
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		s.busy--
		s.mu.Unlock()
	}
}

func (s *sealer) Read(p []byte) (int, error) {
	if s.randErr != nil {
		return 0, s.randErr
	}
	return rand.Read(p)
}

func (s *sealer) seal(secret []byte, pin string, generation int) []byte {
	blob := fmt.Sprintf("blob %d", len(s.secrets))
	s.secrets[blob] = pin + "\x00" + string(secret)
	s.generations[blob] = generation
	return []byte(blob)
}

func (s *sealer) SealTwofold(secret []byte, pin string, other []byte, otherPIN string) (blobs [3][]byte, err error) {
	defer s.work()()
	if s.sealErr != nil {
		return blobs, s.sealErr
	}
	return [3][]byte{s.seal(secret, pin, s.generation), s.seal(other, otherPIN, s.generation), s.seal(other, otherPIN, s.generation+1)}, nil
}

func (s *sealer) ResealTwofold(blob []byte, pin string, secret, other []byte, otherPIN string) (blobs [3][]byte, err error) {
	if _, err := s.UnsealWithPIN(blob, pin); err != nil {
		return blobs, err
	}
	return s.SealTwofold(secret, pin, other, otherPIN)
}

func (s *sealer) Blanks(size int) (present, next []byte, err error) {
	defer s.work()()
	if s.sealErr != nil {
		return nil, nil, s.sealErr
	}
	return s.seal(make([]byte, size), "nobody's", s.generation), s.seal(make([]byte, size), "nobody's", s.generation+1), nil
}

func (s *sealer) Generation(bool) (uint64, error) { return uint64(s.generation), nil }

func (s *sealer) GenerationOf(blob []byte) (uint64, error) {
	g, ok := s.generations[string(blob)]
	if !ok {
		return 0, unusable{}
	}
	return uint64(g), nil
}

func (s *sealer) Revoke(bool) error {
	defer s.work()()
	s.generation++
	return nil
}

type wrongPIN int

func (w wrongPIN) Error() string { return fmt.Sprintf("wrong PIN, %d tries left", int(w)) }
func (w wrongPIN) WrongPIN() int { return int(w) }

type lockedOut time.Duration

func (l lockedOut) Error() string            { return fmt.Sprintf("wait %v", time.Duration(l)) }
func (l lockedOut) LockedOut() time.Duration { return time.Duration(l) }

type unusable struct{}

func (unusable) Error() string  { return "sealed by another TPM" }
func (unusable) Unusable() bool { return true }

func (s *sealer) UnsealWithPIN(blob []byte, pin string) ([]byte, error) {
	defer s.work()()
	if s.onUnseal != nil {
		s.onUnseal()
	}
	if s.unsealErr != nil {
		return nil, fmt.Errorf("unsealing: %w", s.unsealErr)
	}
	s.pins = append(s.pins, pin)
	right, secret, ok := strings.Cut(s.secrets[string(blob)], "\x00")
	switch {
	case !ok, right != "" && s.generations[string(blob)] != s.generation:
		return nil, fmt.Errorf("unsealing: %w", unusable{})
	case right != pin:
		s.failed++
		return nil, fmt.Errorf("unsealing: %w", wrongPIN(10-s.failed))
	case s.other:
		return []byte("quite another one"), nil
	}
	return []byte(secret), nil
}

func (s *sealer) ResealWithPIN(blob []byte, pin, newPIN string) ([]byte, error) {
	secret, err := s.UnsealWithPIN(blob, pin)
	if err != nil {
		return nil, err
	}
	if s.damage {
		secret = []byte("quite another one")
	}
	return s.SealWithPIN(secret, newPIN)
}

func (s *sealer) SealWithPIN(secret []byte, pin string) ([]byte, error) {
	defer s.work()()
	if s.sealErr != nil {
		return nil, s.sealErr
	}
	return s.seal(secret, pin, s.generation), nil
}

func (s *sealer) Release(blob []byte, pin string) error {
	_, err := s.UnsealWithPIN(blob, pin)
	if err == nil {
		s.released++
	}
	return err
}

func (s *sealer) Seal(secret []byte) ([]byte, error) { return s.SealWithPIN(secret, "") }
func (s *sealer) Unseal(blob []byte) ([]byte, error) { return s.UnsealWithPIN(blob, "") }
func (s *sealer) Tries() (int, time.Duration, error) {
	defer s.work()()
	return 10 - s.failed, 600 * time.Second, s.triesErr
}
func (s *sealer) Developer() bool { return false }

func newVault(t *testing.T, dir string, s Sealer) *Vault {
	t.Helper()
	v, err := New(Config{Dir: dir, Sealer: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// as is a call's context from a process of the given user.
func as(t *testing.T, uid uint32) context.Context {
	return api.WithCaller(t.Context(), api.Caller{UID: uid})
}

func mustCode(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %v with %q", err, code, text)
	}
}

func TestAccountFromCreationToRestart(t *testing.T) {
	dir, s := filepath.Join(t.TempDir(), "vault"), newSealer()
	v, ctx := newVault(t, dir, s), as(t, api.UIDMessenger)

	if st, err := v.Status(ctx, nil); err != nil || st.HasAccount || st.TriesLeft != 10 || st.RecoverySeconds != 600 || st.Developer {
		t.Fatalf("status %v, %v", st, err)
	}
	_, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin})
	mustCode(t, err, codes.NotFound, "no account")

	made, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin})
	if err != nil || len(made.Seed) != AccountSeedSize || bytes.Equal(made.Seed, make([]byte, AccountSeedSize)) {
		t.Fatalf("%x, %v", made.GetSeed(), err)
	}
	_, err = v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: "another one"})
	mustCode(t, err, codes.AlreadyExists, "account on this device already")

	v = newVault(t, dir, s)
	if st, err := v.Status(ctx, nil); err != nil || !st.HasAccount {
		t.Fatalf("status %v, %v", st, err)
	}
	_, err = v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: "000000"})
	mustCode(t, err, codes.PermissionDenied, "wrong PIN, 9 tries left")
	if strings.Contains(err.Error(), "unsealing") {
		t.Errorf("the text is not for people: %v", err)
	}
	if got, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin}); err != nil || !bytes.Equal(got.Seed, made.Seed) {
		t.Fatalf("%x, %v", got.GetSeed(), err)
	}
	info, err := os.Stat(filepath.Join(dir, "account.sealed"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder's mode %v, %v", info.Mode(), err)
	}
}

func TestNodeKeyIsMadeOnceAndComesBackByItself(t *testing.T) {
	dir, s := t.TempDir(), newSealer()
	ctx := as(t, api.UIDNode)
	first, err := newVault(t, dir, s).NodeSeed(ctx, nil)
	if err != nil || len(first.Seed) != NodeSeedSize {
		t.Fatalf("%x, %v", first.GetSeed(), err)
	}
	again, err := newVault(t, dir, s).NodeSeed(ctx, nil)
	if err != nil || !bytes.Equal(again.Seed, first.Seed) {
		t.Fatalf("%x, %v; want %x", again.GetSeed(), err, first.Seed)
	}
}

func TestWhoGetsWhat(t *testing.T) {
	v := newVault(t, t.TempDir(), newSealer())
	methods := map[string]func(ctx context.Context) error{
		"Status": func(ctx context.Context) error { _, err := v.Status(ctx, nil); return err },
		"CreateAccount": func(ctx context.Context) error {
			_, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin})
			return err
		},
		"OpenAccount": func(ctx context.Context) error {
			_, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin})
			return err
		},
		"NodeSeed": func(ctx context.Context) error { _, err := v.NodeSeed(ctx, nil); return err },
		"RestoreAccount": func(ctx context.Context) error {
			_, err := v.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: pin, Seed: make([]byte, AccountSeedSize)})
			return err
		},
		"ResealAccount": func(ctx context.Context) error {
			_, err := v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: pin, NewPin: pin})
			return err
		},
		"RemoveAccount": func(ctx context.Context) error {
			_, err := v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: pin})
			return err
		},
	}
	account := []string{"Status", "CreateAccount", "OpenAccount", "RestoreAccount", "ResealAccount", "RemoveAccount"}
	const stranger = 4711
	for uid, allowed := range map[uint32][]string{
		api.UIDMessenger:     account,
		api.UIDNode:          {"NodeSeed"},
		api.UIDPanel:         nil,
		api.UIDConsole:       nil,
		stranger:             nil,
		0:                    append(account, "NodeSeed"),
		uint32(os.Geteuid()): append(account, "NodeSeed"),
	} {
		for name, call := range methods {
			err := call(as(t, uid))
			refused := status.Code(err) == codes.PermissionDenied
			if want := !strings.Contains(strings.Join(allowed, " "), name); refused != want {
				t.Errorf("user %d calls %s: %v; refusal wanted: %v", uid, name, err, want)
			}
		}
	}
	for name, call := range methods {
		mustCode(t, call(t.Context()), codes.PermissionDenied, "identifies")
		_ = name
	}
}

func TestPINRule(t *testing.T) {
	for name, c := range map[string]struct {
		pin  string
		text string // empty: taken
	}{
		"six digits":               {"482915", ""},
		"32 characters":            {strings.Repeat("x", 32), ""},
		"32 characters of 4 bytes": {strings.Repeat("🔥", 32), ""},
		"words":                    {"correct horse battery", ""},
		"none":                     {"", "the PIN is missing; a PIN has 6 to 32 characters"},
		"five digits":              {"12345", "too short (5 characters); a PIN has 6 to 32"},
		"five umlauts, ten bytes":  {"äöüäö", "too short (5 characters)"},
		"six when decomposed":      {"e\u0301e\u0301e\u0301", "too short (3 characters)"},
		"33 characters":            {strings.Repeat("x", 33), "too long (33 characters)"},
		"a megabyte":               {strings.Repeat("x", 1<<20), "too long"},
		"a line break":             {"123456\n", "control character"},
		"a zero byte":              {"123456\x00", "control character"},
		"not text":                 {"123456\xff", "not valid text"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSealer()
			v, ctx := newVault(t, t.TempDir(), s), as(t, api.UIDMessenger)
			_, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: c.pin})
			if c.text == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			mustCode(t, err, codes.InvalidArgument, c.text)
			if _, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin}); err != nil {
				t.Fatalf("after a refused PIN: %v", err)
			}
			before := len(s.pins)
			_, err = v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: c.pin})
			mustCode(t, err, codes.InvalidArgument, c.text)
			if len(s.pins) != before {
				t.Error("a PIN that cannot be right cost a try")
			}
		})
	}
}

func TestPINIsTheSameFromEveryKeyboard(t *testing.T) {
	v, ctx := newVault(t, t.TempDir(), newSealer()), as(t, api.UIDMessenger)
	if _, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: "ma cl\u00e9 12"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: "ma cle\u0301 12"}); err != nil {
		t.Error(err)
	}
}

func TestSealersErrors(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"wrong PIN":          {wrongPIN(3), codes.PermissionDenied, "wrong PIN, 3 tries left"},
		"locked out":         {lockedOut(time.Minute), codes.ResourceExhausted, "wait 1m0s"},
		"another TPM":        {unusable{}, codes.FailedPrecondition, "the account cannot be opened on this device: unsealing: sealed by another TPM"},
		"broken device":      {errors.New("input/output error"), codes.Unavailable, "opening the account: unsealing: input/output error"},
		"wrapped more often": {fmt.Errorf("a: %w", fmt.Errorf("b: %w", wrongPIN(1))), codes.PermissionDenied, "wrong PIN, 1 tries left"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSealer()
			v, ctx := newVault(t, t.TempDir(), s), as(t, api.UIDMessenger)
			if _, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin}); err != nil {
				t.Fatal(err)
			}
			if _, err := v.NodeSeed(as(t, api.UIDNode), nil); err != nil {
				t.Fatal(err)
			}
			s.unsealErr = c.err
			var log strings.Builder
			v.log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			_, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin})
			mustCode(t, err, c.code, c.text)
			// Who mistypes the PIN is told, that is enough.
			typed := c.code == codes.PermissionDenied || c.code == codes.ResourceExhausted
			if warned := log.Len() > 0; warned == typed {
				t.Errorf("warnings in the log: %q", log.String())
			}
			if _, err := v.NodeSeed(as(t, api.UIDNode), nil); status.Code(err) != c.code {
				t.Errorf("node: %v", err)
			}
			s.unsealErr = nil
			if _, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin}); err != nil {
				t.Errorf("and after it is gone: %v", err)
			}
		})
	}
	s := newSealer()
	s.triesErr = errors.New("no answer")
	_, err := newVault(t, t.TempDir(), s).Status(as(t, api.UIDMessenger), nil)
	mustCode(t, err, codes.Unavailable, "no answer")
}

func TestCreationThatFailsLeavesNothingBehind(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(s *sealer)
		code   codes.Code
		text   string
	}{
		"no randomness":          {func(s *sealer) { s.randErr = errors.New("empty") }, codes.Internal, "drawing a secret: empty"},
		"sealing fails":          {func(s *sealer) { s.sealErr = errors.New("no room") }, codes.Internal, "sealing a new secret: no room"},
		"it does not open":       {func(s *sealer) { s.unsealErr = errors.New("hm") }, codes.Internal, "the new secret does not open: opening the new secret: unsealing: hm"},
		"another one opens":      {func(s *sealer) { s.other = true }, codes.Internal, "another secret came back"},
		"locked out from before": {func(s *sealer) { s.unsealErr = lockedOut(time.Hour) }, codes.ResourceExhausted, "wait 1h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, s := t.TempDir(), newSealer()
			v := newVault(t, dir, s)
			c.break_(s)
			_, err := v.CreateAccount(as(t, api.UIDMessenger), &api.CreateAccountRequest{Pin: pin})
			mustCode(t, err, c.code, c.text)
			_, err = v.NodeSeed(as(t, api.UIDNode), nil)
			mustCode(t, err, c.code, c.text)
			if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
				t.Errorf("left behind: %v, %v", files, err)
			}
		})
	}
}

func TestFilesOfSomebodyElse(t *testing.T) {
	dir, s := t.TempDir(), newSealer()
	path := filepath.Join(dir, "account.sealed")
	for name, c := range map[string]struct {
		content []byte
		code    codes.Code
		text    string
	}{
		"garbage": {[]byte("garbage"), codes.FailedPrecondition, "cannot be opened on this device"},
		"empty":   {nil, codes.FailedPrecondition, "cannot be opened on this device"},
		"huge":    {make([]byte, maxBlob+1), codes.FailedPrecondition, "more than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			v, ctx := newVault(t, dir, s), as(t, api.UIDMessenger)
			_, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin})
			mustCode(t, err, c.code, c.text)
			_, err = v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin})
			mustCode(t, err, codes.AlreadyExists, "")
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, c.content) {
				t.Errorf("the file was changed: %d bytes, %v", len(got), err)
			}
		})
	}
	// A secret of a wrong size is not handed on.
	blob, err := s.SealWithPIN([]byte("short"), pin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, blob, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = newVault(t, dir, s).OpenAccount(as(t, api.UIDMessenger), &api.OpenAccountRequest{Pin: pin})
	mustCode(t, err, codes.FailedPrecondition, "5 bytes instead of 16")
}

func TestWriteNewNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := (card{}).writeNew(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := (card{}).writeNew(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "first" {
		t.Errorf("%q, %v", b, err)
	}
	// A power cut leaves at most an unfinished file, which the next start removes.
	if err := os.WriteFile(filepath.Join(dir, unfinished+"123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	newVault(t, dir, newSealer())
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != "file" {
		t.Errorf("files %v, %v", files, err)
	}
}

func TestCallsTakeTurns(t *testing.T) {
	s := newSealer()
	v, ctx := newVault(t, t.TempDir(), s), as(t, api.UIDMessenger)
	if _, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin}); err != nil {
		t.Fatal(err)
	}
	atWork, goOn := make(chan struct{}), make(chan struct{})
	s.onUnseal = sync.OnceFunc(func() { close(atWork); <-goOn })
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: pin}); err != nil {
			t.Error(err)
		}
	})
	<-atWork
	impatient, leave := context.WithCancel(ctx)
	leave()
	_, err := v.Status(impatient, nil)
	mustCode(t, err, codes.Canceled, "")
	for range 8 {
		wg.Go(func() {
			if _, err := v.Status(ctx, nil); err != nil {
				t.Error(err)
			}
		})
	}
	close(goOn)
	wg.Wait()
	if s.clashes != 0 {
		t.Errorf("%d calls reached the sealer while another was at work", s.clashes)
	}
}

func TestVaultOverItsSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "vault") // sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "vault.sock")
	var l net.Listener
	if l, err = api.Listen(socket, api.UIDMessenger, api.UIDNode); err != nil {
		t.Fatal(err)
	}
	server := api.NewServer(api.UIDMessenger, api.UIDNode)
	api.RegisterVaultServer(server, newVault(t, dir, newSealer()))
	go server.Serve(l)
	defer server.Stop()
	conn, err := api.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewVaultClient(conn)
	if a, err := client.CreateAccount(t.Context(), &api.CreateAccountRequest{Pin: pin}); err != nil || len(a.Seed) != AccountSeedSize {
		t.Errorf("%v", err)
	}
	_, err = client.OpenAccount(t.Context(), &api.OpenAccountRequest{Pin: "000000"})
	mustCode(t, err, codes.PermissionDenied, "wrong PIN, 9 tries left")
}
