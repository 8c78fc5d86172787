package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"

	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/node/files"
	"hearth/node/keys"
	"hearth/node/ledger/host"
	"hearth/node/servicenode"
)

// runNode is the role node: a service node whose key the vault keeps.
func runNode(ctx context.Context, args []string) (failed error) {
	flags := flag.NewFlagSet("hearth node", flag.ContinueOnError)
	dir := flags.String("dir", "/data/node", "folder of messages, files, certificate and node list")
	share := flags.Int64("share", 0, "bytes of disk for all that the network stores here; 0 for half of the partition")
	quota := flags.Int64("files", files.DefaultQuota, "of these, bytes for files, at most half; 0 for none")
	listen := flags.String("listen", ":22021", "address and port to serve on")
	public := flags.String("public", "", "IPv4 address and port at which the network reaches this node")
	var network networkFlags
	network.add(flags)
	vault := flags.String("vault", "/run/hearth/vault.sock", "socket of the vault")
	socket := flags.String("api", "/run/hearth/node.sock", "socket to serve the node API on")
	nodes := flags.String("nodes", "", "`FILE` with the keys and addresses of all nodes, for a private network without seeds and stakes")
	var part ledgerFlags
	part.add(flags)
	figures := flags.String("metrics", "", "Unix socket for figures and health over HTTP, for this user and root; none when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	log := network.log()
	// What lives long is small and what a request needs is soon gone: collecting
	// after each 4 MiB took a tenth of the processor. This makes it 12 MiB more, and
	// is itself never in memory, for nobody writes to it.
	ballast := make([]byte, min(12<<20, ownMemory()/8))
	defer runtime.KeepAlive(ballast)
	address, err := netip.ParseAddrPort(*public)
	if err != nil || !address.Addr().Is4() || address.Port() == 0 {
		return fmt.Errorf("-public %q: want an IPv4 address and a port", *public)
	}
	if err := oneSource(len(network.seeds) > 0, *nodes != "", part.genesis != ""); err != nil {
		return err
	}
	rules := cell.Rules{Kind: cell.Online, Write: []string{*dir, filepath.Dir(*socket)}, Read: names}
	if *nodes != "" {
		// Its folder: who edits a file often makes another one in its place.
		rules.Read = append(slices.Clone(names), filepath.Dir(*nodes))
	}
	if part.genesis != "" {
		rules.Read = append(slices.Clone(names), part.genesis)
	}
	if *figures != "" {
		rules.Write = append(rules.Write, filepath.Dir(*figures))
	}
	for _, door := range []string{*listen, part.door()} {
		if _, port, err := net.SplitHostPort(door); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				rules.Listen = append(rules.Listen, uint16(n))
			}
		}
	}
	if err := enterCell(log, rules); err != nil {
		return err
	}
	clients, dial, err := network.open()
	if err != nil {
		return err
	}
	var source servicenode.Seed
	if len(clients) > 0 {
		var seeds servicenode.Seeds
		for _, c := range clients {
			defer c.Close()
			seeds = append(seeds, c)
		}
		source = seeds
	} else if *nodes != "" {
		source = &servicenode.File{Path: *nodes}
	}
	pair, err := nodeKeys(ctx, log, *vault)
	if err != nil {
		return err
	}
	defer pair.Wipe()

	memory := ownMemory()
	cfg := servicenode.Config{
		Keys: pair, Dir: *dir, Listen: []string{*listen}, Public: address, Seed: source, Dial: dial, Log: log,
		Share: *share, Files: cmp.Or(max(*quota, 0), -1), // where zero means the default
		Test: part.test,
	}
	var own *host.Host
	if part.genesis != "" {
		if own, err = part.open(ctx, *dir, address, pair, dial, log); err != nil {
			return err
		}
		defer func() { failed = errors.Join(failed, own.Close()) }()
		cfg.Ledger = own
		memory -= min(ledgerMemory, memory/2)
	}
	cfg.Memory = memory
	node, err := servicenode.New(cfg)
	if err != nil {
		return err
	}
	callers := []uint32{api.UIDPanel, api.UIDConsole, api.UIDMessenger}
	l, err := api.Listen(*socket, callers...)
	if err != nil {
		return errors.Join(fmt.Errorf("node API: %w", err), node.Close())
	}
	show, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	shown := make(chan error, 1)
	if *figures != "" {
		l, err := api.Listen(*figures)
		if err != nil {
			return errors.Join(fmt.Errorf("-metrics: %w", err), node.Close())
		}
		go func() { shown <- node.ServeFigures(show, l) }()
	} else {
		shown <- nil
	}
	if err := settleCell(); err != nil {
		return errors.Join(err, node.Close())
	}
	server := api.NewServer(callers...)
	api.RegisterNodeServer(server, node)
	if own != nil {
		api.RegisterLedgerServer(server, own.Owner())
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	judged := make(chan struct{})
	go func() {
		defer close(judged)
		if own != nil {
			own.Judge(show, node.Tests(), node.AskLedger, part.unreachable)
		}
	}()
	err = node.Run(ctx)
	server.Stop()
	stop()
	<-judged
	return errors.Join(err, <-served, <-shown)
}

// nodeKeys asks the vault for the node's key. On a device the vault starts at
// the same time and first has to wake the TPM, so it waits as long as that takes.
func nodeKeys(ctx context.Context, log *slog.Logger, socket string) (*keys.Pair, error) {
	conn, err := api.Dial(socket, api.UIDVault)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	defer conn.Close()
	vault := api.NewVaultClient(conn)
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		reply, err := vault.NodeSeed(try, &api.NodeSeedRequest{})
		cancel()
		if err == nil && len(reply.Seed) == 32 {
			defer clear(reply.Seed)
			return keys.FromSeed([32]byte(reply.Seed)), nil
		}
		if err == nil {
			return nil, fmt.Errorf("vault: a node seed of %d bytes", len(reply.Seed))
		}
		log.Info("waiting for the vault", "error", err, "next_try", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the vault: %w", context.Cause(ctx))
		}
	}
}
