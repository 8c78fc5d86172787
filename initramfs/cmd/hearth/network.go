package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"time"

	"hearth/node/ledger/light"
	"hearth/node/messenger"
	"hearth/node/seed"
)

// networkFlags are what the roles with a network connection have in common.
type networkFlags struct {
	seeds, pins []string
	gateway     string
	verbose     bool
}

// trustFlags are what a messenger has to know where the nodes keep a ledger.
type trustFlags struct{ given light.Anchor }

func (f *trustFlags) add(flags *flag.FlagSet) {
	flags.Func("trust", "prove the list of nodes, beginning with this header of the nodes' ledger: `CHAIN:HEIGHT:HASH`, as a release or somebody you trust has it. Once is enough: newer ones are kept in -dir", func(s string) error {
		return f.given.UnmarshalText([]byte(s))
	})
}

// open finds the header to begin with, given now or kept in the folder. It is nil
// where none ever was: then the word of the seeds has to do.
func (f *trustFlags) open(dir string, log *slog.Logger) (*messenger.Ledger, error) {
	k, err := light.OpenKeeper(filepath.Join(dir, "trust"), f.given, time.Now, log)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w; give a trusted header with -trust", err)
	}
	a := k.Anchor()
	log.Info("the list of nodes is proven", "from", a)
	return &messenger.Ledger{Chain: a.Chain, Trust: a.Trust, Save: k.Save}, nil
}

func (f *networkFlags) add(flags *flag.FlagSet) {
	list := func(into *[]string) func(string) error {
		return func(s string) error {
			for item := range strings.SplitSeq(s, ",") {
				if item = strings.TrimSpace(item); item != "" {
					*into = append(*into, item)
				}
			}
			return nil
		}
	}
	flags.Func("seed", "`URL[,URL…]` that give the node list; may be given several times", list(&f.seeds))
	flags.Func("seed-pin", "SHA-256 of each seed's certificate in hexadecimal, in the order of the seeds: `PIN[,PIN…]`", list(&f.pins))
	flags.StringVar(&f.gateway, "gateway", "", "dial addresses through others: `PREFIX=ADDRESS[,…]`")
	flags.BoolVar(&f.verbose, "verbose", false, "log every retry")
}

func (f *networkFlags) log() *slog.Logger { return newLog(f.verbose) }

// open makes the clients of the seeds, to be closed by the caller, and the dialer
// for all connections. There may be no seed.
func (f *networkFlags) open() (seeds []*seed.Client, dial func(ctx context.Context, network, addr string) (net.Conn, error), err error) {
	if dial, err = gatewayDialer(f.gateway); err != nil {
		return nil, nil, err
	}
	if len(f.seeds) != len(f.pins) {
		return nil, nil, fmt.Errorf("-seed, -seed-pin: %d seeds but %d pins", len(f.seeds), len(f.pins))
	}
	for i, url := range f.seeds {
		// As openssl prints it, with colons, it is welcome too.
		pin, err := hex.DecodeString(strings.ReplaceAll(f.pins[i], ":", ""))
		if err != nil || len(pin) != 32 {
			return nil, nil, fmt.Errorf("-seed-pin of %s: not 64 hexadecimal digits", url)
		}
		seeds = append(seeds, &seed.Client{URL: url, Pin: [32]byte(pin), Dial: dial})
	}
	return seeds, dial, nil
}
