package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hearth/node/keys"
	"hearth/node/ledger"
	"hearth/node/ledger/host"
	"hearth/node/ledger/light"
	"hearth/node/relay"
)

// ledgerMemory is how many bytes of a node's memory the ledger gets: it was
// measured to need half of that.
const ledgerMemory = 40 << 20

// ledgerFlags say which ledger a node takes part in.
type ledgerFlags struct {
	genesis, listen   string
	peers             []string
	pace              time.Duration
	test, unreachable time.Duration
	join              light.Anchor
	from              []netip.AddrPort
	snapshots         int64
}

func (f *ledgerFlags) add(flags *flag.FlagSet) {
	flags.StringVar(&f.genesis, "ledger", "", "take part in the staking ledger that begins with this `GENESIS` file; no -seed then")
	flags.StringVar(&f.listen, "ledger-listen", ":22022", "address and port for other nodes of the ledger")
	flags.Func("peer", "`KEY@HOST:PORT[,…]` of nodes of the ledger to begin with; some of the genesis when there is none", func(s string) error {
		f.peers = append(f.peers, strings.Split(s, ",")...)
		return nil
	})
	flags.Func("join", "begin with a snapshot instead of the first block, proven from this header: `CHAIN:HEIGHT:HASH`, as a release or somebody you trust has it. A node that has begun goes on where it was", func(s string) error {
		return f.join.UnmarshalText([]byte(s))
	})
	flags.Func("join-from", "`HOST:PORT[,…]` at which clients reach nodes, to be asked for -join beside those of the genesis", func(s string) error {
		for item := range strings.SplitSeq(s, ",") {
			at, err := netip.ParseAddrPort(item)
			if err != nil {
				return err
			}
			f.from = append(f.from, at)
		}
		return nil
	})
	flags.Int64Var(&f.snapshots, "ledger-snapshots", 0, "blocks from one snapshot, with which others join, to the next; 0 for 720")
	flags.DurationVar(&f.pace, "ledger-pace", 10*time.Second, "pause after a block; all nodes of a network have the same")
	flags.DurationVar(&f.test, "test-every", 10*time.Second, "time between two tests of other nodes")
	flags.DurationVar(&f.unreachable, "unreachable-after", 65*time.Minute, "for how long a node has to fail all tests until this one votes against it")
}

// door is the address to listen on, empty without a ledger.
func (f *ledgerFlags) door() string {
	if f.genesis == "" {
		return ""
	}
	return f.listen
}

// oneSource makes sure that a node knows its network from one source.
func oneSource(seed, file, ledger bool) error {
	n := 0
	for _, given := range []bool{seed, file, ledger} {
		if given {
			n++
		}
	}
	switch {
	case n == 0:
		return errors.New("-seed, -nodes, -ledger: a node needs one of them, or it does not know its network and nobody learns where it is")
	case n > 1:
		return errors.New("-seed, -nodes, -ledger: a node has one network; give one of them")
	}
	return nil
}

// temporary gives the engine a folder for the pieces of a snapshot: it takes that of
// the environment, whatever its settings say, and the one for everybody is not in
// this role's cell.
func (f *ledgerFlags) temporary(dir string) error {
	tmp := filepath.Join(dir, "ledger", "tmp")
	return errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700), os.Setenv("TMPDIR", tmp))
}

// open starts the ledger.
func (f *ledgerFlags) open(ctx context.Context, dir string, public netip.AddrPort, pair *keys.Pair, dial relay.Dialer, log *slog.Logger) (*host.Host, error) {
	file, err := os.Open(f.genesis)
	if err != nil {
		return nil, fmt.Errorf("-ledger: %w", err)
	}
	defer file.Close()
	if err := f.temporary(dir); err != nil {
		return nil, fmt.Errorf("-ledger: folder for snapshots: %w", err)
	}
	genesis, err := ledger.ReadGenesis(file)
	if err != nil {
		return nil, fmt.Errorf("-ledger %s: %w", f.genesis, err)
	}
	h, err := host.Open(ctx, host.Config{
		Genesis: genesis, Keys: pair, Dir: filepath.Join(dir, "ledger"),
		Listen: f.listen, Public: public, Peers: f.peers, Pace: f.pace, Log: log,
		Join: f.join, JoinFrom: f.from, Dial: dial, Snapshots: f.snapshots,
	})
	if err != nil {
		return nil, fmt.Errorf("-ledger: %w", err)
	}
	return h, nil
}
