package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/seed"
	"hearth/node/servicenode"
)

// runNode is the role node: a service node whose key the vault keeps.
func runNode(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("hearth node", flag.ContinueOnError)
	dir := flags.String("dir", "/data/node", "folder of messages, certificate and node list")
	listen := flags.String("listen", ":22021", "address and port to serve on")
	public := flags.String("public", "", "IPv4 address and port at which the network reaches this node")
	seedURL := flags.String("seed", "", "URL that gives the node list")
	seedPin := flags.String("seed-pin", "", "SHA-256 of the seed's certificate, hexadecimal")
	gateway := flags.String("gateway", "", "reach some addresses through another one: PREFIX=ADDRESS")
	vault := flags.String("vault", "/run/hearth/vault.sock", "socket of the vault")
	socket := flags.String("api", "/run/hearth/node.sock", "socket to serve the node API on")
	verbose := flags.Bool("v", false, "log more")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	address, err := netip.ParseAddrPort(*public)
	if err != nil || !address.Addr().Is4() || address.Port() == 0 {
		return fmt.Errorf("-public %q: want an IPv4 address and a port", *public)
	}
	pin, err := hex.DecodeString(*seedPin)
	if err != nil || len(pin) != 32 {
		return fmt.Errorf("-seed-pin %q: want 64 hexadecimal digits", *seedPin)
	}
	dial, err := gatewayDialer(*gateway)
	if err != nil {
		return err
	}
	pair, err := nodeKeys(ctx, log, *vault)
	if err != nil {
		return err
	}
	defer pair.Wipe()

	client := &seed.Client{URL: *seedURL, Pin: [32]byte(pin), Dial: dial}
	defer client.Close()
	node, err := servicenode.New(servicenode.Config{
		Keys: pair, Dir: *dir, Listen: []string{*listen}, Public: address, Seed: client, Dial: dial, Log: log,
	})
	if err != nil {
		return err
	}
	callers := []uint32{api.UIDPanel, api.UIDConsole}
	l, err := api.Listen(*socket, callers...)
	if err != nil {
		return errors.Join(fmt.Errorf("node API: %w", err), node.Close())
	}
	server := api.NewServer(callers...)
	api.RegisterNodeServer(server, node)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	err = node.Run(ctx)
	server.Stop()
	return errors.Join(err, <-served)
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
