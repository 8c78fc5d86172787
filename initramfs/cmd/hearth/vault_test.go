package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/hw/tpm/swtpmtest"
	"hearth/node/api"
)

// startVault serves a vault until the returned function has stopped it in order.
func startVault(t *testing.T, f vaultFlags) (api.VaultClient, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveVault(ctx, f, slog.New(slog.DiscardHandler)) }()
	conn, err := api.Dial(f.api)
	if err != nil {
		t.Fatal(err)
	}
	stop := func() {
		t.Helper()
		conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the vault ended with %v", err)
		}
	}
	return api.NewVaultClient(conn), stop
}

// Unix sockets have short paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vault")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestVaultRoleKeepsItsSecretsOverAPowerCut(t *testing.T) {
	chip := swtpmtest.New(t)
	for name, f := range map[string]vaultFlags{
		"with a TPM":        {tpm: chip.Socket, wait: 10 * time.Second},
		"in developer mode": {developer: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			f.dir, f.api = filepath.Join(dir, "data"), filepath.Join(dir, "run", "vault.sock")
			ctx, wait := t.Context(), grpc.WaitForReady(true)

			v, stop := startVault(t, f)
			account, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: "482915"}, wait)
			if err != nil {
				t.Fatal(err)
			}
			node, err := v.NodeSeed(ctx, &api.NodeSeedRequest{})
			if err != nil {
				t.Fatal(err)
			}
			stop()
			chip.PowerCut()
			chip.PowerOn(t)

			v, stop = startVault(t, f)
			defer stop()
			s, err := v.Status(ctx, &api.VaultStatusRequest{}, wait)
			if err != nil || !s.HasAccount || s.Developer != f.developer {
				t.Fatalf("status %v, %v", s, err)
			}
			if got, err := v.NodeSeed(ctx, &api.NodeSeedRequest{}); err != nil || !bytes.Equal(got.Seed, node.Seed) {
				t.Errorf("node seed: %v", err)
			}
			_, err = v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: "000000"})
			if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "tries left") {
				t.Errorf("wrong PIN: %v", err)
			}
			if got, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: "482915"}); err != nil || !bytes.Equal(got.Seed, account.Seed) {
				t.Errorf("account seed: %v", err)
			}
			if s, err := v.Status(ctx, &api.VaultStatusRequest{}); err != nil || s.TriesLeft != 10 || s.RecoverySeconds != 600 {
				t.Errorf("status %v, %v", s, err)
			}
		})
	}
}

// An account with a real chip, from the first day to the last, and the next one.
func TestTheLifeOfAnAccountInItsTPM(t *testing.T) {
	const newPIN = "a longer one"
	seed := []byte("sixteen byte key")
	ctx, wait := t.Context(), grpc.WaitForReady(true)
	chip := swtpmtest.New(t)
	// start makes a vault as it is after a power cut, with the given account file.
	start := func(blob []byte) (f vaultFlags, v api.VaultClient, stop func()) {
		chip.PowerCut()
		chip.PowerOn(t)
		dir := shortDir(t)
		f = vaultFlags{tpm: chip.Socket, wait: 10 * time.Second, dir: filepath.Join(dir, "data"), api: filepath.Join(dir, "vault.sock")}
		if blob != nil {
			if err := os.MkdirAll(f.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(f.dir, "account.sealed"), blob, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		v, stop = startVault(t, f)
		return f, v, stop
	}
	sealed := func(f vaultFlags) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(f.dir, "account.sealed"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	f, v, stop := start(nil)
	if _, err := v.RestoreAccount(ctx, &api.RestoreAccountRequest{Pin: "482915", Seed: seed}, wait); err != nil {
		t.Fatal(err)
	}
	before := sealed(f)
	if _, err := v.ResealAccount(ctx, &api.ResealAccountRequest{Pin: "482915", NewPin: newPIN}); err != nil {
		t.Fatal(err)
	}
	after := sealed(f)
	stop()

	// A power cut during the change leaves one of the two files, and the chip
	// opens either with its PIN.
	for _, c := range []struct {
		name       string
		blob       []byte
		pin, other string
	}{{"the old file", before, "482915", newPIN}, {"the new file", after, newPIN, "482915"}} {
		_, v, stop := start(c.blob)
		_, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: c.other}, wait)
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s with the other PIN: %v", c.name, err)
		}
		if got, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: c.pin}); err != nil || !bytes.Equal(got.Seed, seed) {
			t.Errorf("%s: %v", c.name, err)
		}
		stop()
	}

	// The end, and a power cut after it.
	f, v, stop = start(after)
	if _, err := v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: "482915"}, wait); status.Code(err) != codes.PermissionDenied {
		t.Errorf("removed with the old PIN: %v", err)
	}
	if _, err := v.RemoveAccount(ctx, &api.RemoveAccountRequest{Pin: newPIN}); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(f.dir); err != nil || len(files) != 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	stop()

	// The next account finds the chip as the first one did: it can take wrong
	// tries back, which needs the chip's lockout authorisation.
	_, v, stop = start(nil)
	defer stop()
	made, err := v.CreateAccount(ctx, &api.CreateAccountRequest{Pin: "482915"}, wait)
	if err != nil || bytes.Equal(made.Seed, seed) {
		t.Fatalf("the next account: %v", err)
	}
	if _, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: newPIN}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the PIN of the account before: %v", err)
	}
	if _, err := v.OpenAccount(ctx, &api.OpenAccountRequest{Pin: "482915"}); err != nil {
		t.Error(err)
	}
	if s, err := v.Status(ctx, &api.VaultStatusRequest{}); err != nil || s.TriesLeft != 10 || s.RecoverySeconds != 600 {
		t.Errorf("status %v, %v", s, err)
	}
}

func TestVaultRoleRefusesToStart(t *testing.T) {
	dir := shortDir(t)
	f := vaultFlags{dir: dir, api: filepath.Join(dir, "vault.sock"), tpm: filepath.Join(dir, "tpmrm0")}
	log := slog.New(slog.DiscardHandler)
	err := serveVault(t.Context(), f, log)
	if err == nil || !strings.Contains(err.Error(), "no TPM at "+f.tpm) || !strings.Contains(err.Error(), "-developer") {
		t.Errorf("without a TPM: %v", err)
	}
	f.tpm = "/dev/null"
	if err := serveVault(t.Context(), f, log); err == nil || !strings.Contains(err.Error(), "the TPM does not work") {
		t.Errorf("with a device that is no TPM: %v", err)
	}
	if _, err := os.Stat(f.api); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket without a vault: %v", err)
	}
	for _, args := range [][]string{{"-unknown"}, {"surplus"}} {
		if err := runVault(t.Context(), args); err == nil {
			t.Errorf("arguments %q are taken", args)
		}
	}
}

func TestVaultRoleWaitsForItsTPM(t *testing.T) {
	dir := shortDir(t)
	f := vaultFlags{dir: dir, api: filepath.Join(dir, "vault.sock"), tpm: filepath.Join(dir, "s"), wait: 20 * time.Second}
	v, stop := startVault(t, f)
	defer stop()
	p, err := swtpmtest.Start(dir) // makes dir/s
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	if _, err := v.Status(t.Context(), &api.VaultStatusRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Error(err)
	}
}

// The test runs itself again as the process to look at.
func TestVaultRoleKeepsItsMemoryPrivate(t *testing.T) {
	const child = "HEARTH_TEST_PRIVATE_MEMORY"
	if os.Getenv(child) != "" {
		if err := keepMemoryPrivate(slog.New(slog.DiscardHandler), false); err != nil {
			t.Fatal(err)
		}
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		core := unix.Rlimit{Cur: 1, Max: 1}
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
			t.Fatal(err)
		}
		block := bytes.Repeat([]byte("memory still comes"), 1<<20)
		fmt.Printf("dumpable %d core %d %d memory %d\n", dumpable, core.Cur, core.Max, len(block))
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestVaultRoleKeepsItsMemoryPrivate$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("dumpable 0 core 0 0 memory %d\n", 18<<20); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}
