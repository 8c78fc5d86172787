// Package vault is the process that keeps the secrets: the account seed for the
// messenger, which opens with the owner's PIN, and the node's key for the node,
// which opens by itself so that a power cut never leaves the node waiting for a
// person.
//
// What protects a secret is the [Sealer], on an appliance the TPM. The vault
// keeps what the sealer gives it in two files, decides who gets which secret by
// the caller's user id, and is served over gRPC (node/api, vault.proto):
//
//	v, err := vault.New(vault.Config{Dir: "/data/vault", Sealer: chip, Log: log})
//	api.RegisterVaultServer(server, v)
//
// A vault keeps one account. Several would share the chip's one count of wrong
// PINs and its one lockout authorisation, which lies in the account's blob: who
// knows the PIN of one could then try those of the others without end.
package vault

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hearth/node/api"
)

// Sealer turns secrets into blobs that only it opens. Errors of the unsealing
// methods are told apart by methods that the error, or one it wraps, has:
//
//	WrongPIN() (left int)           the PIN is wrong; so many tries are left
//	LockedOut() (wait time.Duration) no PIN is looked at for so long
//	Unusable() bool                 this sealer will never open this blob
//
// Any other error may pass.
type Sealer interface {
	// Read gives random bytes good enough for keys.
	io.Reader
	// SealTwofold seals a secret of up to 64 bytes under a PIN, and a stand-in for it
	// under another one: for now, and for the next generation.
	SealTwofold(secret []byte, pin string, other []byte, otherPIN string) (blobs [3][]byte, err error)
	// ResealTwofold is SealTwofold with what else the first of the earlier blobs holds.
	ResealTwofold(blob []byte, pin string, secret, other []byte, otherPIN string) (blobs [3][]byte, err error)
	// Blanks gives blobs that nobody can open and that look as the second and the
	// third of SealTwofold, for a secret of size bytes.
	Blanks(size int) (present, next []byte, err error)
	// Generation is that of the secrets with a PIN, or of those without;
	// GenerationOf is the one that a blob opens in, 0 for any.
	Generation(withPIN bool) (uint64, error)
	GenerationOf(blob []byte) (uint64, error)
	// Revoke begins the next generation, in one step: nothing of the present one opens
	// any more.
	Revoke(withPIN bool) error
	// UnsealWithPIN opens a blob with a PIN. A right PIN clears the count of
	// wrong ones.
	UnsealWithPIN(blob []byte, pin string) (secret []byte, err error)
	// ResealWithPIN seals what a blob with a PIN holds under another PIN. Both
	// blobs open from then on.
	ResealWithPIN(blob []byte, pin, newPIN string) (resealed []byte, err error)
	// Release gives back what the device keeps for a blob with a PIN, which is
	// about to be destroyed. It can be repeated.
	Release(blob []byte, pin string) error
	// Seal seals a secret of up to 64 bytes that opens without a person.
	Seal(secret []byte) (blob []byte, err error)
	// Unseal opens a blob of Seal.
	Unseal(blob []byte) (secret []byte, err error)
	// Tries gives the PIN tries that are left and the time after which one more
	// comes back.
	Tries() (left int, recovery time.Duration, err error)
	// Developer is true when nothing protects the secrets.
	Developer() bool
}

// Sizes in bytes and the rule for PINs, in characters (code points).
const (
	AccountSeedSize = 16
	NodeSeedSize    = 32
	MinPIN, MaxPIN  = 6, 32

	maxBlob = 4096
)

// The files in the vault's folder.
const (
	accountFile = "account.sealed"
	nodeFile    = "node.sealed"
)

// Config is what a vault needs.
type Config struct {
	Dir    string // made when missing, mode 0700
	Sealer Sealer
	Log    *slog.Logger // nil: slog.Default
}

// Vault implements [api.VaultServer]. Calls take turns.
type Vault struct {
	api.UnimplementedVaultServer
	dir    string
	sealer Sealer
	log    *slog.Logger
	card   card
	turn   chan struct{} // holds one token while a call is at work

	settled    bool   // see settle
	generation uint64 // of the account
}

// New opens the vault in cfg.Dir.
func New(cfg Config) (*Vault, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	if err := (card{}).removeUnfinished(cfg.Dir); err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	v := &Vault{dir: cfg.Dir, sealer: cfg.Sealer, log: cfg.Log, turn: make(chan struct{}, 1)}
	if v.log == nil {
		v.log = slog.Default()
	}
	if err := v.settle(); err != nil {
		v.log.Warn("looking at the account", "reason", status.Convert(err).Message()) // and once more when it is asked for
	}
	return v, nil
}

// Status is for the messenger.
func (v *Vault) Status(ctx context.Context, _ *api.VaultStatusRequest) (*api.VaultStatus, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := v.settle(); err != nil {
		return nil, err
	}
	_, err = os.Stat(v.path(accountFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.Unavailable, "looking for the account: %v", err)
	}
	left, recovery, terr := v.sealer.Tries()
	if terr != nil {
		return nil, status.Errorf(codes.Unavailable, "asking how many PIN tries are left: %v", terr)
	}
	return &api.VaultStatus{
		HasAccount:      err == nil,
		TriesLeft:       uint32(max(0, min(left, math.MaxInt32))),
		RecoverySeconds: uint32(recovery / time.Second),
		Developer:       v.sealer.Developer(),
		Generation:      v.generation,
	}, nil
}

// CreateAccount is for the messenger. The seed is on the card, and has been
// opened again with the PIN, before anybody gets it.
func (v *Vault) CreateAccount(ctx context.Context, req *api.CreateAccountRequest) (*api.AccountSeed, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	pin, err := checkPIN(req.GetPin())
	if err != nil {
		return nil, err
	}
	if err := v.mustBeAbsent(accountFile); err != nil {
		return nil, err
	}
	seed, err := v.draw(AccountSeedSize)
	if err != nil {
		return nil, err
	}
	if err := v.keepAccount(seed, pin); err != nil {
		return nil, err
	}
	v.log.Info("account created and sealed")
	return &api.AccountSeed{Seed: seed}, nil
}

// OpenAccount is for the messenger.
func (v *Vault) OpenAccount(ctx context.Context, req *api.OpenAccountRequest) (*api.AccountSeed, error) {
	done, err := v.begin(ctx, api.UIDMessenger)
	if err != nil {
		return nil, err
	}
	defer done()
	o, err := v.open(req.GetPin(), "account not opened")
	if err != nil {
		return nil, err
	}
	v.log.Info("account opened")
	return &api.AccountSeed{Seed: o.seed()}, nil
}

// NodeSeed is for the node.
func (v *Vault) NodeSeed(ctx context.Context, _ *api.NodeSeedRequest) (*api.NodeSeedReply, error) {
	done, err := v.begin(ctx, api.UIDNode)
	if err != nil {
		return nil, err
	}
	defer done()
	blob, err := v.read(nodeFile)
	if errors.Is(err, fs.ErrNotExist) {
		seed, err := v.draw(NodeSeedSize)
		if err != nil {
			return nil, err
		}
		if err := v.keep(nodeFile, seed, v.sealer.Seal, v.sealer.Unseal); err != nil {
			return nil, err
		}
		v.log.Info("node key created and sealed")
		return &api.NodeSeedReply{Seed: seed}, nil
	}
	if err != nil {
		return nil, err
	}
	seed, err := v.sealer.Unseal(blob)
	if err != nil {
		err = explain("node key", err)
		v.log.Error("node key not opened", "reason", status.Convert(err).Message())
		return nil, err
	}
	if len(seed) != NodeSeedSize {
		clear(seed)
		return nil, status.Errorf(codes.FailedPrecondition, "the sealed node key has %d bytes instead of %d", len(seed), NodeSeedSize)
	}
	return &api.NodeSeedReply{Seed: seed}, nil
}

// begin admits the caller and waits for its turn. Besides the given user, root
// and the vault's own user may call everything: on the appliance those are PID 1
// and the vault itself, on a developer's machine the developer.
func (v *Vault) begin(ctx context.Context, uid uint32) (done func(), err error) {
	who, ok := api.CallerOf(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "the vault serves only callers that the kernel identifies")
	}
	if !slices.Contains([]uint32{uid, 0, uint32(os.Geteuid())}, who.UID) {
		v.log.Warn("refused a caller", "uid", who.UID, "pid", who.PID)
		return nil, status.Errorf(codes.PermissionDenied, "this secret is not for user %d", who.UID)
	}
	select {
	case v.turn <- struct{}{}:
		return func() { <-v.turn }, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// checkPIN gives the PIN in Unicode's composed form, so that an é is the same
// from every keyboard.
func checkPIN(pin string) (string, error) {
	if !utf8.ValidString(pin) {
		return "", status.Error(codes.InvalidArgument, "the PIN is not valid text")
	}
	if len(pin) > MaxPIN*utf8.UTFMax*4 { // far too long even with combining marks
		return "", status.Errorf(codes.InvalidArgument, "the PIN is too long; a PIN has %d to %d characters", MinPIN, MaxPIN)
	}
	pin = norm.NFC.String(pin)
	for _, r := range pin {
		if unicode.IsControl(r) {
			return "", status.Error(codes.InvalidArgument, "the PIN contains a control character")
		}
	}
	switch n := utf8.RuneCountInString(pin); {
	case n == 0:
		return "", status.Errorf(codes.InvalidArgument, "the PIN is missing; a PIN has %d to %d characters", MinPIN, MaxPIN)
	case n < MinPIN:
		return "", status.Errorf(codes.InvalidArgument, "the PIN is too short (%d characters); a PIN has %d to %d characters", n, MinPIN, MaxPIN)
	case n > MaxPIN:
		return "", status.Errorf(codes.InvalidArgument, "the PIN is too long (%d characters); a PIN has %d to %d characters", n, MinPIN, MaxPIN)
	}
	return pin, nil
}

// draw makes a new secret of so many bytes.
func (v *Vault) draw(size int) ([]byte, error) {
	secret := make([]byte, size)
	if _, err := io.ReadFull(v.sealer, secret); err != nil {
		return nil, status.Errorf(codes.Internal, "drawing a secret: %v", err)
	}
	return secret, nil
}

// keepAccount seals the account seed under a PIN that checkPIN has seen. The seed
// is wiped when that fails.
func (v *Vault) keepAccount(seed []byte, pin string) error {
	err := v.keep(accountFile, seed,
		func(secret []byte) ([]byte, error) {
			a, err := v.sealAlone(secret, pin)
			return a.marshal(), err
		},
		func(kept []byte) ([]byte, error) {
			opened, err := v.sealer.UnsealWithPIN(parseAccount(kept).blobs[account], pin)
			return opened[:min(len(opened), AccountSeedSize)], err
		})
	if err != nil {
		return err
	}
	v.settled = false
	return v.settle()
}

// keep seals a secret, writes the blob and opens it again: a secret that nobody
// can open is found out while it is still worth nothing. With a TPM the opening
// also puts the chip's lockout authorisation in force, which must not happen
// before the blob that holds it is on the card. The secret is wiped when
// something goes wrong.
func (v *Vault) keep(file string, secret []byte, seal, unseal func([]byte) ([]byte, error)) error {
	blob, err := seal(secret)
	if err != nil {
		clear(secret)
		return status.Errorf(codes.Internal, "sealing a new secret: %v", err)
	}
	if err := v.card.writeNew(v.path(file), blob); err != nil {
		clear(secret)
		return status.Errorf(codes.Internal, "writing a sealed secret: %v", err)
	}
	if err := opensAs(secret, blob, unseal); err != nil {
		clear(secret)
		if rerr := os.Remove(v.path(file)); rerr != nil {
			v.log.Error("a sealed secret that does not open stays on the card", "file", file, "error", rerr)
		}
		return doesNotOpen(err)
	}
	return nil
}

// opensAs tells whether a blob gives a secret back.
func opensAs(secret, blob []byte, unseal func([]byte) ([]byte, error)) error {
	again, err := unseal(blob)
	if err == nil && subtle.ConstantTimeCompare(again, secret) != 1 {
		err = errors.New("another secret came back")
	}
	clear(again)
	return err
}

func doesNotOpen(err error) error {
	err = explain("new secret", err)
	if status.Code(err) != codes.ResourceExhausted { // a lockout from before passes by itself
		err = status.Errorf(codes.Internal, "the new secret does not open: %s", status.Convert(err).Message())
	}
	return err
}

func (v *Vault) mustBeAbsent(file string) error {
	_, err := os.Lstat(v.path(file))
	switch {
	case err == nil:
		return status.Error(codes.AlreadyExists, "there is an account on this device already")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return status.Errorf(codes.Unavailable, "looking for %s: %v", file, err)
}

// read gives a sealed blob. The error is fs.ErrNotExist or a status.
func (v *Vault) read(file string) ([]byte, error) {
	f, err := os.Open(v.path(file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "reading %s: %v", file, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxBlob+1))
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "reading %s: %v", file, err)
	}
	if len(b) > maxBlob {
		return nil, status.Errorf(codes.FailedPrecondition, "%s has more than %d bytes: it is not what was written", file, maxBlob)
	}
	return b, nil
}

func (v *Vault) path(file string) string { return filepath.Join(v.dir, file) }

// explain gives a sealer's error the code that vault.proto names.
func explain(what string, err error) error {
	var (
		wrong    interface{ WrongPIN() int }
		locked   interface{ LockedOut() time.Duration }
		unusable interface{ Unusable() bool }
	)
	switch {
	case errors.As(err, &wrong):
		return status.Error(codes.PermissionDenied, innermost(err, wrong))
	case errors.As(err, &locked):
		return status.Error(codes.ResourceExhausted, innermost(err, locked))
	case errors.As(err, &unusable) && unusable.Unusable():
		return status.Errorf(codes.FailedPrecondition, "the %s cannot be opened on this device: %v", what, err)
	}
	return status.Errorf(codes.Unavailable, "opening the %s: %v", what, err)
}

// refused logs that the sealer did not do what was asked for. A wrong PIN is no
// warning: whoever typed it is told, and nobody else needs to be.
func (v *Vault) refused(what string, err error) {
	level := slog.LevelWarn
	if c := status.Code(err); c == codes.PermissionDenied || c == codes.ResourceExhausted {
		level = slog.LevelInfo
	}
	v.log.Log(context.Background(), level, what, "reason", status.Convert(err).Message())
}

// innermost gives the text of the error that errors.As found, which is written
// for people, without what its callers put before it.
func innermost(err error, found any) string {
	if e, ok := found.(error); ok {
		return e.Error()
	}
	return err.Error()
}
