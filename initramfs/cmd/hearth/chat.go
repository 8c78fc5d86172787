package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"hearth/node/api"
	"hearth/node/messenger"
	"hearth/node/vault"
	"hearth/ui/console"
)

// chatFlags is how the chat was started.
type chatFlags struct {
	vault   vaultFlags
	network networkFlags
	trust   trustFlags
	dir     string
	devnet  string
	poll    time.Duration
	name    string
}

// maxLog is the size in bytes from which the log begins anew.
const maxLog = 1 << 20

// runChat is a messenger for one person on any Linux machine: vault, messenger and
// console in one process, on the terminal that it was started from.
//
// It is one process because separate ones would protect nothing here. On the
// appliance each of the three has a user of its own, and the kernel keeps them
// apart; a person's machine runs all of them as that person, whose processes may
// as well be one. In return there is no socket on which another program could
// reach the vault, and one signal ends all of it in order. The messenger's socket
// is served in the folder, so that other programs of the same user can talk
// through it, and a second chat in the same folder is refused.
func runChat(ctx context.Context, args []string) error {
	var f chatFlags
	flags := flag.NewFlagSet("hearth chat", flag.ContinueOnError)
	flags.StringVar(&f.dir, "dir", "", "`folder` of account and conversations (default ~/.local/share/hearth)")
	flags.StringVar(&f.vault.tpm, "tpm", "/dev/tpmrm0", "TPM 2.0 `device` that seals the account, or the socket of a software TPM")
	flags.BoolVar(&f.vault.developer, "developer", false, "work without a TPM: the keys in -dir are NOT protected")
	f.network.add(flags)
	f.trust.add(flags)
	flags.StringVar(&f.devnet, "devnet", "", "use a network on this machine: the `folder` of build/cmd/devnet, or the URL of its seed, which needs no pin")
	flags.DurationVar(&f.poll, "poll", messenger.DefaultPollInterval, "time between looks into the own swarm")
	flags.StringVar(&f.name, "name", "", "what to call oneself in messages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if f.devnet != "" {
		url, pin, err := devnetSeed(ctx, f.devnet)
		if err != nil {
			return fmt.Errorf("-devnet: %w", err)
		}
		f.network.seeds, f.network.pins = append(f.network.seeds, url), append(f.network.pins, pin)
	}
	return chat(ctx, f)
}

// deviceName is what the owner calls this machine already. Only the owner's other
// devices read it.
func deviceName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func chat(ctx context.Context, f chatFlags) (err error) {
	if f.dir == "" {
		if f.dir, err = homeFolder(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return err
	}
	seeds, dial, err := f.network.open()
	if err != nil {
		return err
	}
	var sources []messenger.NodeSource
	for _, s := range seeds {
		defer s.Close()
		sources = append(sources, s)
	}

	// The socket comes first: it keeps a second chat out of the folder.
	socket := filepath.Join(f.dir, "messenger.sock")
	if len(socket) > 107 {
		return fmt.Errorf("the path of %s is too long for a socket: choose a shorter -dir", socket)
	}
	listener, err := api.Listen(socket)
	if errors.Is(err, api.ErrInUse) {
		return fmt.Errorf("another hearth chat runs in %s", f.dir)
	}
	if err != nil {
		return err
	}
	defer listener.Close()
	// What is logged would run into what the terminal shows.
	log, logFile, err := openLog(filepath.Join(f.dir, "chat.log"), f.network.verbose)
	if err != nil {
		return err
	}
	defer logFile.Close()

	// Locking the memory, which the vault's own process does, would lock the
	// database's pages with it.
	if err := keepMemoryPrivate(log, true); err != nil {
		return err
	}
	f.vault.dir = filepath.Join(f.dir, "vault")
	sealer, err := openSealer(ctx, f.vault, log)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; join the group that the device belongs to, often tss, or start with -developer, which leaves the keys unprotected", err)
	}
	if err != nil {
		return err
	}
	defer sealer.Close()
	keeper, err := vault.New(vault.Config{Dir: f.vault.dir, Sealer: sealer, Log: log})
	if err != nil {
		return err
	}
	proven, err := f.trust.open(f.dir, log)
	if err != nil {
		return err
	}
	m, err := messenger.New(messenger.Config{
		Vault:        keeper.Client(),
		DBPath:       filepath.Join(f.dir, "messenger.db"),
		Seeds:        sources,
		Ledger:       proven,
		Dial:         dial,
		Log:          log,
		PollInterval: f.poll,
		DisplayName:  f.name,
		DeviceName:   deviceName(),
		DeviceKind:   "hearth chat",
	})
	if err != nil {
		return err
	}
	conn, err := api.Dial(socket)
	if err != nil {
		m.Close()
		return err
	}
	defer conn.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := api.NewServer()
	api.RegisterMessengerServer(server, m)
	served := make(chan error, 1)
	go func() { defer cancel(); served <- server.Serve(listener) }()
	ran := make(chan error, 1)
	go func() { defer cancel(); ran <- m.Run(ctx) }()

	err = runStdio(ctx, console.Config{Messenger: api.NewMessengerClient(conn)})
	cancel()
	err = errors.Join(err, <-ran)
	server.Stop() // the messenger has ended its streams, and nobody is left to wait
	if serveErr := <-served; serveErr != nil && !errors.Is(serveErr, grpc.ErrServerStopped) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// homeFolder is where programs keep a person's data (XDG base directories).
func homeFolder() (string, error) {
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "hearth"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no place for the account, give one with -dir: %w", err)
	}
	return filepath.Join(home, ".local", "share", "hearth"), nil
}

// openLog appends to a file, and begins a new one when it has grown large.
func openLog(path string, verbose bool) (*slog.Logger, *os.File, error) {
	mode := os.O_APPEND
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		mode = os.O_TRUNC
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|mode, 0o600)
	if err != nil {
		return nil, nil, err
	}
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: level})), file, nil
}

// devnetSeed finds the seed of a network on this machine and its pin: in the
// network's folder, or by asking the seed itself. The latter believes whoever
// answers, which is why it goes no further than loopback.
func devnetSeed(ctx context.Context, where string) (address, pin string, err error) {
	if !strings.Contains(where, "://") {
		port, err := os.ReadFile(filepath.Join(where, "base-port"))
		if err != nil {
			return "", "", fmt.Errorf("no network has run there: %w", err)
		}
		cert, err := os.ReadFile(filepath.Join(where, "seed", "cert.pem"))
		if err != nil {
			return "", "", err
		}
		block, _ := pem.Decode(cert)
		if block == nil {
			return "", "", errors.New("the seed's certificate cannot be read")
		}
		sum := sha256.Sum256(block.Bytes)
		return fmt.Sprintf("https://127.0.0.1:%s/json_rpc", strings.TrimSpace(string(port))), hex.EncodeToString(sum[:]), nil
	}
	u, err := url.Parse(where)
	if err != nil {
		return "", "", err
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err != nil || !ip.IsLoopback() || u.Scheme != "https" {
		return "", "", fmt.Errorf("%s is not on this machine: name it with -seed and -seed-pin", where)
	}
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	limited, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := dialer.DialContext(limited, "tcp", u.Host)
	if err != nil {
		return "", "", fmt.Errorf("the seed does not answer: %w", err)
	}
	defer conn.Close()
	sum := sha256.Sum256(conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
	u.Path = cmp.Or(strings.TrimSuffix(u.Path, "/"), "/json_rpc")
	return u.String(), hex.EncodeToString(sum[:]), nil
}
