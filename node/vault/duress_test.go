package vault

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"google.golang.org/grpc/codes"

	"hearth/node/api"
)

const duressPIN = "under duress"

// withDuress is a vault with ownSeed and a duress PIN.
func withDuress(t *testing.T, dir string, s *sealer) *Vault {
	t.Helper()
	v := newVault(t, dir, s)
	restore(t, v)
	if _, err := v.SealDuress(as(t, api.UIDMessenger), &api.SealDuressRequest{Pin: pin, DuressPin: duressPIN}); err != nil {
		t.Fatal(err)
	}
	return v
}

func seedOf(t *testing.T, v *Vault, pin string) []byte {
	t.Helper()
	got, err := v.OpenAccount(as(t, api.UIDMessenger), &api.OpenAccountRequest{Pin: pin})
	if err != nil {
		return nil
	}
	return got.Seed
}

func TestTheDuressPINPutsAnotherAccountInThePlaceOfThisOne(t *testing.T) {
	s, dir := newSealer(), t.TempDir()
	v := withDuress(t, dir, s)
	ctx := as(t, api.UIDMessenger)
	before, err := v.Status(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !opensWith(t, v, pin) {
		t.Fatal("the PIN does not open the account")
	}
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	fresh := seedOf(t, v, duressPIN)
	if len(fresh) != AccountSeedSize || bytes.Equal(fresh, ownSeed) {
		t.Fatalf("the duress PIN gives %x", fresh)
	}
	after, err := v.Status(ctx, nil)
	if err != nil || !after.HasAccount || after.Generation == before.Generation {
		t.Errorf("status %v, %v", after, err)
	}
	for name, v := range map[string]*Vault{
		"at once": v, "after a restart": newVault(t, dir, s), "from an old copy of the card": newVault(t, copied, s),
	} {
		if got := seedOf(t, v, pin); got != nil {
			t.Errorf("%s the PIN gives %x", name, got)
		}
		if got := seedOf(t, v, duressPIN); !bytes.Equal(got, fresh) {
			t.Errorf("%s the duress PIN gives %x, want %x", name, got, fresh)
		}
	}
	// The new account is one like any other, with a duress PIN of its own.
	if _, err := v.SealDuress(ctx, &api.SealDuressRequest{Pin: duressPIN, DuressPin: pin}); err != nil {
		t.Fatal(err)
	}
	if got := seedOf(t, v, pin); got == nil || bytes.Equal(got, fresh) || bytes.Equal(got, ownSeed) {
		t.Errorf("its own duress PIN gives %x", got)
	}
}

func TestAPowerCutLeavesTheAccountOrItsStandIn(t *testing.T) {
	s, dir := newSealer(), t.TempDir()
	v := withDuress(t, dir, s)
	taken := snapshots(t, v)
	fresh := seedOf(t, v, duressPIN)
	if len(*taken) < 3 {
		t.Fatalf("only %d moments for a power cut", len(*taken))
	}
	for i, dir := range *taken {
		after := newVault(t, dir, s)
		if got := seedOf(t, after, pin); got != nil {
			t.Errorf("after step %d the PIN gives %x", i, got)
		}
		if got := seedOf(t, after, duressPIN); !bytes.Equal(got, fresh) {
			t.Errorf("after step %d the duress PIN gives %x, want %x", i, got, fresh)
		}
		mustBeAlone(t, dir)
	}
}

func TestTheDuressPINWorksWhereverThePINIsAskedFor(t *testing.T) {
	for name, use := range map[string]func(v *Vault) error{
		"opening": func(v *Vault) error {
			_, err := v.OpenAccount(as(t, api.UIDMessenger), &api.OpenAccountRequest{Pin: duressPIN})
			return err
		},
		"another PIN": func(v *Vault) error {
			_, err := v.ResealAccount(as(t, api.UIDMessenger), &api.ResealAccountRequest{Pin: duressPIN, NewPin: newPIN})
			return err
		},
		"another duress PIN": func(v *Vault) error {
			_, err := v.SealDuress(as(t, api.UIDMessenger), &api.SealDuressRequest{Pin: duressPIN, DuressPin: newPIN})
			return err
		},
		"removing": func(v *Vault) error {
			_, err := v.RemoveAccount(as(t, api.UIDMessenger), &api.RemoveAccountRequest{Pin: duressPIN})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newSealer(), t.TempDir()
			v := withDuress(t, dir, s)
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := use(v); err != nil {
				t.Fatal(err)
			}
			for _, dir := range []string{dir, copied} {
				if got := seedOf(t, newVault(t, dir, s), pin); got != nil {
					t.Errorf("the PIN gives %x", got)
				}
			}
		})
	}
}

func TestADuressPINIsRefusedWhenItIsThePIN(t *testing.T) {
	v, ctx := newVault(t, t.TempDir(), newSealer()), as(t, api.UIDMessenger)
	_, err := v.SealDuress(ctx, &api.SealDuressRequest{Pin: pin, DuressPin: duressPIN})
	mustCode(t, err, codes.NotFound, "no account")
	restore(t, v)
	_, err = v.SealDuress(ctx, &api.SealDuressRequest{Pin: pin, DuressPin: pin})
	mustCode(t, err, codes.InvalidArgument, "two different ones")
	_, err = v.SealDuress(ctx, &api.SealDuressRequest{Pin: pin, DuressPin: "short"})
	mustCode(t, err, codes.InvalidArgument, "too short")
	_, err = v.SealDuress(ctx, &api.SealDuressRequest{Pin: "000000", DuressPin: duressPIN})
	mustCode(t, err, codes.PermissionDenied, "wrong PIN")
	if _, err := v.SealDuress(as(t, api.UIDMessenger), &api.SealDuressRequest{Pin: pin, DuressPin: duressPIN}); err != nil {
		t.Fatal(err)
	}
	// A new PIN must not be the duress PIN either.
	_, err = v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: pin, NewPin: duressPIN})
	mustCode(t, err, codes.InvalidArgument, "two different ones")
	if !opensWith(t, v, pin) {
		t.Error("the PIN does not open the account any more")
	}
}

func TestAChangeOfPINKeepsTheDuressPIN(t *testing.T) {
	for i := range 20 { // whichever half the new PIN belongs to
		v := withDuress(t, t.TempDir(), newSealer())
		other := fmt.Sprintf("%06d", i)
		if _, err := v.ResealAccount(as(t, api.UIDMessenger), &api.ResealAccountRequest{Pin: pin, NewPin: other}); err != nil {
			t.Fatal(err)
		}
		if !opensWith(t, v, other) {
			t.Errorf("the new PIN %s does not open the account", other)
		}
		if got := seedOf(t, v, duressPIN); got == nil || bytes.Equal(got, ownSeed) {
			t.Errorf("with the new PIN %s the duress PIN gives %x", other, got)
		}
	}
}

func TestEveryWrongPINCostsOneTryAndFilesLookTheSame(t *testing.T) {
	sizes := map[int]bool{}
	for name, make := range map[string]func() (*Vault, *sealer){
		"without a duress PIN": func() (*Vault, *sealer) {
			s := newSealer()
			v := newVault(t, t.TempDir(), s)
			restore(t, v)
			return v, s
		},
		"with one": func() (*Vault, *sealer) { s := newSealer(); return withDuress(t, t.TempDir(), s), s },
		"afterwards": func() (*Vault, *sealer) {
			s := newSealer()
			v := withDuress(t, t.TempDir(), s)
			seedOf(t, v, duressPIN)
			return v, s
		},
	} {
		v, s := make()
		a, err := v.account()
		if err != nil {
			t.Fatal(err)
		}
		for i, blob := range a.blobs {
			_, secret, _ := bytes.Cut([]byte(s.secrets[string(blob)]), []byte{0})
			if len(secret) != secretSize || s.generations[string(blob)] != s.generation+i/2 {
				t.Errorf("%s: blob %d holds %d bytes, for generation %d of %d", name, i, len(secret), s.generations[string(blob)], s.generation)
			}
		}
		sizes[len(a.marshal())/10] = true
		for i := range 8 {
			_, err := v.OpenAccount(as(t, api.UIDMessenger), &api.OpenAccountRequest{Pin: fmt.Sprintf("%06d", i)})
			mustCode(t, err, codes.PermissionDenied, fmt.Sprintf("%d tries left", 9-i))
		}
	}
	if len(sizes) != 1 {
		t.Errorf("the sizes tell them apart: %v", sizes)
	}
}

func TestACopyOfARemovedAccountOpensNothing(t *testing.T) {
	s, dir := newSealer(), t.TempDir()
	v := withDuress(t, dir, s)
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	taken := snapshots(t, v)
	if _, err := v.RemoveAccount(as(t, api.UIDMessenger), &api.RemoveAccountRequest{Pin: pin}); err != nil {
		t.Fatal(err)
	}
	for i, dir := range append(*taken, copied) {
		after := newVault(t, dir, s)
		if st, err := after.Status(as(t, api.UIDMessenger), nil); err != nil || st.HasAccount {
			t.Errorf("copy %d: %v, %v", i, st, err)
		}
	}
}

func FuzzParseAccount(f *testing.F) {
	f.Add(sealedAccount{half: 1, blobs: [3][]byte{[]byte("a"), []byte("bc"), nil}}.marshal())
	f.Add([]byte("HSTP"))
	f.Add([]byte(accountMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		a := parseAccount(b)
		if !bytes.Equal(a.blobs[account], b) && len(a.marshal()) != len(b) {
			t.Errorf("%+v is not what was read", a)
		}
	})
}
