package vault

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"hearth/node/api"
)

const newPIN = "a longer one"

var ownSeed = []byte("sixteen byte key")

func restore(t *testing.T, v *Vault) {
	t.Helper()
	got, err := v.RestoreAccount(as(t, api.UIDMessenger), &api.RestoreAccountRequest{Pin: pin, Seed: bytes.Clone(ownSeed)})
	if err != nil || !bytes.Equal(got.Seed, ownSeed) {
		t.Fatalf("restored %x, %v", got.GetSeed(), err)
	}
}

func opensWith(t *testing.T, v *Vault, pin string) bool {
	t.Helper()
	got, err := v.OpenAccount(as(t, api.UIDMessenger), &api.OpenAccountRequest{Pin: pin})
	if err == nil && !bytes.Equal(got.Seed, ownSeed) {
		t.Errorf("another seed opens: %x", got.Seed)
	}
	return err == nil
}

func TestAnAccountIsRestored(t *testing.T) {
	s := newSealer()
	dir := t.TempDir()
	v, ctx := newVault(t, dir, s), as(t, api.UIDMessenger)
	for name, c := range map[string]struct {
		pin  string
		seed []byte
		text string
	}{
		"no seed":         {pin, nil, "an account seed has 16 bytes, not 0"},
		"a short seed":    {pin, ownSeed[:15], "16 bytes, not 15"},
		"a node's seed":   {pin, make([]byte, 32), "16 bytes, not 32"},
		"a PIN too short": {"12345", bytes.Clone(ownSeed), "too short"},
	} {
		_, err := v.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: c.pin, Seed: c.seed})
		mustCode(t, err, codes.InvalidArgument, c.text)
		if files, _ := os.ReadDir(dir); len(files) != 0 {
			t.Errorf("%s: left behind %v", name, files)
		}
	}
	given := bytes.Clone(ownSeed)
	if _, err := v.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: pin, Seed: given}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(given, make([]byte, 16)) {
		t.Error("the seed of the request was not wiped")
	}
	v = newVault(t, dir, s)
	if !opensWith(t, v, pin) {
		t.Error("it does not open after a restart")
	}
	_, err := v.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: pin, Seed: bytes.Clone(ownSeed)})
	mustCode(t, err, codes.AlreadyExists, "account on this device already")
	_, err = v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: pin})
	mustCode(t, err, codes.AlreadyExists, "")
}

func TestThePINChanges(t *testing.T) {
	s := newSealer()
	dir := t.TempDir()
	v, ctx := newVault(t, dir, s), as(t, api.UIDMessenger)
	_, err := v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: pin, NewPin: newPIN})
	mustCode(t, err, codes.NotFound, "no account")
	restore(t, v)
	_, err = v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: "000000", NewPin: newPIN})
	mustCode(t, err, codes.PermissionDenied, "wrong PIN, 9 tries left")
	_, err = v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: pin, NewPin: "short"})
	mustCode(t, err, codes.InvalidArgument, "too short")
	if !opensWith(t, v, pin) {
		t.Fatal("a change that was refused changed something")
	}
	if _, err := v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: pin, NewPin: newPIN}); err != nil {
		t.Fatal(err)
	}
	v = newVault(t, dir, s)
	if opensWith(t, v, pin) || !opensWith(t, v, newPIN) {
		t.Error("the old PIN opens, or the new one does not")
	}
}

func TestAChangeOfPINThatFailsLeavesTheOldOne(t *testing.T) {
	for name, break_ := range map[string]func(s *sealer){
		"sealing fails":          func(s *sealer) { s.sealErr = errors.New("no room") },
		"the new one is another": func(s *sealer) { s.damage = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSealer()
			v := newVault(t, t.TempDir(), s)
			restore(t, v)
			break_(s)
			if _, err := v.ResealAccount(as(t, api.UIDMessenger), &api.ResealAccountRequest{Pin: pin, NewPin: newPIN}); err == nil {
				t.Error("it went through")
			}
			s.sealErr, s.damage = nil, false
			if !opensWith(t, v, pin) {
				t.Error("the old PIN does not open any more")
			}
		})
	}
}

func TestAnAccountIsRemoved(t *testing.T) {
	s := newSealer()
	dir := t.TempDir()
	v, ctx := newVault(t, dir, s), as(t, api.UIDMessenger)
	if _, err := v.NodeSeed(as(t, api.UIDNode), nil); err != nil {
		t.Fatal(err)
	}
	_, err := v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: pin})
	mustCode(t, err, codes.NotFound, "no account")
	restore(t, v)
	_, err = v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: "000000"})
	mustCode(t, err, codes.PermissionDenied, "wrong PIN")
	_, err = v.RemoveAccount(ctx, &api.RemoveAccountRequest{})
	mustCode(t, err, codes.InvalidArgument, "missing")
	if !opensWith(t, v, pin) || s.released != 0 {
		t.Fatal("gone without the PIN")
	}
	if _, err := v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: pin}); err != nil {
		t.Fatal(err)
	}
	if s.released != 1 {
		t.Errorf("released %d times", s.released)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != nodeFile {
		t.Errorf("files %v, %v; want the node's only", files, err)
	}
	if st, err := v.Status(ctx, nil); err != nil || st.HasAccount {
		t.Errorf("status %v, %v", st, err)
	}
	if _, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: newPIN}); err != nil {
		t.Errorf("the next account: %v", err)
	}
}

func TestAnAccountThatNeverOpensHereCanBeRemoved(t *testing.T) {
	for name, content := range map[string][]byte{
		"of another TPM": []byte("garbage"), "empty": nil, "huge": make([]byte, maxBlob+1),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, accountFile), content, 0o600); err != nil {
				t.Fatal(err)
			}
			v := newVault(t, dir, newSealer())
			if _, err := v.RemoveAccount(as(t, api.UIDMessenger), &api.RemoveAccountRequest{Pin: pin}); err != nil {
				t.Fatal(err)
			}
			restore(t, v)
		})
	}
}

// snapshots copies the folder after each step of the file system.
func snapshots(t *testing.T, v *Vault) *[]string {
	var taken []string
	v.card.step = func() {
		to := filepath.Join(t.TempDir(), fmt.Sprint(len(taken)))
		if err := os.CopyFS(to, os.DirFS(v.dir)); err != nil {
			t.Fatal(err)
		}
		taken = append(taken, to)
	}
	return &taken
}

func TestAPowerCutLeavesTheOldPINOrTheNewOne(t *testing.T) {
	s := newSealer()
	v := newVault(t, t.TempDir(), s)
	restore(t, v)
	taken := snapshots(t, v)
	if _, err := v.ResealAccount(as(t, api.UIDMessenger), &api.ResealAccountRequest{Pin: pin, NewPin: newPIN}); err != nil {
		t.Fatal(err)
	}
	if len(*taken) < 3 {
		t.Fatalf("only %d moments for a power cut", len(*taken))
	}
	var was string
	for i, dir := range *taken {
		after := newVault(t, dir, s)
		old, fresh := opensWith(t, after, pin), opensWith(t, after, newPIN)
		if old == fresh {
			t.Errorf("after step %d: the old PIN opens: %v, the new one: %v", i, old, fresh)
		}
		was += fmt.Sprint(old, " ")
		mustBeAlone(t, dir)
	}
	if !strings.HasPrefix(was, "true") || !strings.HasSuffix(was, "false ") {
		t.Errorf("the moments do not show the change: %s", was)
	}
}

func TestAPowerCutLeavesTheAccountOrNothing(t *testing.T) {
	s := newSealer()
	v := newVault(t, t.TempDir(), s)
	restore(t, v)
	blob, err := os.ReadFile(v.path(accountFile))
	if err != nil {
		t.Fatal(err)
	}
	taken := snapshots(t, v)
	if _, err := v.RemoveAccount(as(t, api.UIDMessenger), &api.RemoveAccountRequest{Pin: pin}); err != nil {
		t.Fatal(err)
	}
	for i, dir := range *taken {
		after := newVault(t, dir, s)
		st, err := after.Status(as(t, api.UIDMessenger), nil)
		if err != nil || st.HasAccount && !opensWith(t, after, pin) {
			t.Errorf("after step %d: status %v, %v", i, st, err)
		}
		if st.GetHasAccount() {
			continue
		}
		if files, _ := os.ReadDir(dir); len(files) != 0 {
			t.Errorf("after step %d the next start leaves %v", i, files)
		}
	}
	// The last moment is that of a file without a name but with the blob's size.
	last := (*taken)[len(*taken)-1]
	_ = fs.WalkDir(os.DirFS(last), ".", func(path string, d fs.DirEntry, err error) error {
		if b, _ := os.ReadFile(filepath.Join(last, path)); bytes.Contains(b, blob) {
			t.Errorf("%s still holds the blob", path)
		}
		return err
	})
}

func mustBeAlone(t *testing.T, dir string) {
	t.Helper()
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 || files[0].Name() != accountFile {
		t.Errorf("files %v, %v", files, err)
	}
}

func TestTheVaultWithinItsOwnProcess(t *testing.T) {
	v := newVault(t, t.TempDir(), newSealer()).Client()
	made, err := v.CreateAccount(t.Context(), &api.CreateAccountRequest{Pin: pin})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.ResealAccount(t.Context(), &api.ResealAccountRequest{Pin: pin, NewPin: newPIN}); err != nil {
		t.Error(err)
	}
	if got, err := v.OpenAccount(t.Context(), &api.OpenAccountRequest{Pin: newPIN}); err != nil || !bytes.Equal(got.Seed, made.Seed) {
		t.Error(err)
	}
	if _, err := v.RemoveAccount(t.Context(), &api.RemoveAccountRequest{Pin: newPIN}); err != nil {
		t.Error(err)
	}
	if _, err := v.RestoreAccount(t.Context(), &api.RestoreAccountRequest{Pin: pin, Seed: bytes.Clone(ownSeed)}); err != nil {
		t.Error(err)
	}
	if _, err := v.NodeSeed(t.Context(), &api.NodeSeedRequest{}); err != nil {
		t.Error(err)
	}
	if st, err := v.Status(t.Context(), &api.VaultStatusRequest{}); err != nil || !st.HasAccount {
		t.Errorf("%v, %v", st, err)
	}
}
