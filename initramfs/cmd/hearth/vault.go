package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hearth/hw/tpm"
	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/node/vault"
)

// vaultFlags is how the vault was started.
type vaultFlags struct {
	dir       string
	tpm       string
	wait      time.Duration // for the TPM to appear; drivers take a moment
	developer bool
	api       string
}

// runVault is the role that keeps the sealed secrets: the only one that touches
// the TPM, with no network.
func runVault(ctx context.Context, args []string) error {
	f := vaultFlags{wait: 5 * time.Second}
	flags := flag.NewFlagSet("hearth vault", flag.ContinueOnError)
	flags.StringVar(&f.dir, "dir", "/data/vault", "folder of the sealed secrets")
	flags.StringVar(&f.tpm, "tpm", "/dev/tpmrm0", "TPM 2.0 `device`, or the socket of a software TPM")
	flags.BoolVar(&f.developer, "developer", false, "work without a TPM: the keys in -dir are NOT protected")
	flags.StringVar(&f.api, "api", "/run/hearth/vault.sock", "`socket` to serve")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	log := newLog(false)
	if err := keepMemoryPrivate(log, f.developer); err != nil {
		return err
	}
	rules := cell.Rules{Kind: cell.Local, Write: []string{f.dir, filepath.Dir(f.api)}, Devices: []string{f.tpm}}
	if err := enterCell(log, rules); err != nil {
		return err
	}
	return serveVault(ctx, f, log)
}

// serveVault runs until ctx is cancelled and the calls at work are answered.
func serveVault(ctx context.Context, f vaultFlags, log *slog.Logger) error {
	sealer, err := openSealer(ctx, f, log)
	if err != nil {
		return err
	}
	defer sealer.Close()
	v, err := vault.New(vault.Config{Dir: f.dir, Sealer: sealer, Log: log})
	if err != nil {
		return err
	}
	users := []uint32{api.UIDMessenger, api.UIDNode}
	listener, err := api.Listen(f.api, users...)
	if err != nil {
		return err
	}
	if err := settleCell(); err != nil {
		return err
	}
	server := api.NewServer(users...)
	api.RegisterVaultServer(server, v)

	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	log.Info("the vault is open for calls", "socket", f.api, "developer", sealer.Developer())
	select {
	case err := <-ended:
		return fmt.Errorf("serving %s: %w", f.api, err)
	case <-ctx.Done():
	}
	// A TPM command takes up to a second; after three, nobody waits any more.
	hurry := time.AfterFunc(3*time.Second, server.Stop)
	defer hurry.Stop()
	server.GracefulStop()
	<-ended
	return nil
}

// closableSealer is a sealer that holds a device or a key.
type closableSealer interface {
	vault.Sealer
	Close() error
}

var (
	_ closableSealer = (*tpm.TPM)(nil)
	_ closableSealer = (*tpm.Developer)(nil)
)

func openSealer(ctx context.Context, f vaultFlags, log *slog.Logger) (closableSealer, error) {
	if f.developer {
		log.Warn("DEVELOPER MODE: no TPM is used, and whoever has this disk has its keys")
		return tpm.OpenDeveloper(f.dir, time.Now)
	}
	limit := time.NewTimer(f.wait)
	defer limit.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		chip, err := tpm.Open(f.tpm, tpm.WithLog(log))
		if err == nil {
			return chip, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-again.C:
			continue
		case <-limit.C:
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("no TPM at %s: fit a TPM 2.0 and load its driver, or name its device with -tpm; to develop without one, start with -developer, which leaves the keys unprotected", f.tpm)
		case errors.Is(err, fs.ErrPermission):
			return nil, fmt.Errorf("the TPM at %s belongs to another user than %d, who runs the vault: %w", f.tpm, os.Geteuid(), err)
		}
		return nil, fmt.Errorf("the TPM does not work (to develop without one, start with -developer): %w", err)
	}
}

// keepMemoryPrivate keeps this process's memory out of core dumps, out of
// debuggers and, where it is allowed, out of swap.
func keepMemoryPrivate(log *slog.Logger, developer bool) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keeping debuggers out: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	if developer { // there is nothing to protect, and scrypt's memory is to be given back
		return nil
	}
	// A finite limit would make later allocations fail instead of this call.
	var most unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &most); err != nil {
		return fmt.Errorf("reading the limit of locked memory: %w", err)
	}
	err := error(unix.EPERM)
	if os.Geteuid() == 0 || most.Cur == unix.RLIM_INFINITY {
		// ONFAULT: pages are locked as they come into use, not all that Go reserves.
		err = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	}
	if err != nil {
		log.Info("memory is not locked, which matters only where there is swap", "reason", err)
	}
	return nil
}
