package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"hearth/initramfs/cell"
	"hearth/node/api"
	"hearth/node/messenger"
)

// runMessenger is the process that holds the account's keys and its
// conversations. It listens on a Unix socket only; outwards it connects to the
// seeds and to its guards.
func runMessenger(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("messenger", flag.ContinueOnError)
	dir := flags.String("dir", "/data/messenger", "folder of the database")
	var network networkFlags
	network.add(flags)
	var trust trustFlags
	trust.add(flags)
	vaultSocket := flags.String("vault", "/run/hearth/vault.sock", "socket of the vault")
	nodeSocket := flags.String("node", "", "socket of the service node on this machine, which is then kept out of the paths")
	apiSocket := flags.String("api", "/run/hearth/messenger.sock", "socket to serve")
	poll := flags.Duration("poll", messenger.DefaultPollInterval, "time between looks into the own swarm")
	name := flags.String("name", "", "what to call oneself in messages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	log := network.log()
	rules := cell.Rules{Kind: cell.Online, Write: []string{*dir, filepath.Dir(*apiSocket)}, Read: names}
	if err := enterCell(log, rules); err != nil {
		return err
	}
	seeds, dial, err := network.open()
	if err != nil {
		return err
	}
	var sources []messenger.NodeSource // none: a node list from an earlier run does as well
	for _, s := range seeds {
		defer s.Close()
		sources = append(sources, s)
	}
	vault, err := api.Dial(*vaultSocket, api.UIDVault)
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	defer vault.Close()

	var node api.NodeClient
	if *nodeSocket != "" {
		conn, err := api.Dial(*nodeSocket, api.UIDNode)
		if err != nil {
			return fmt.Errorf("node: %w", err)
		}
		defer conn.Close()
		node = api.NewNodeClient(conn)
	}

	proven, err := trust.open(*dir, log)
	if err != nil {
		return err
	}
	m, err := messenger.New(messenger.Config{
		Vault:        api.NewVaultClient(vault),
		Node:         node,
		DBPath:       filepath.Join(*dir, "messenger.db"),
		Seeds:        sources,
		Ledger:       proven,
		Dial:         dial,
		Log:          log,
		PollInterval: *poll,
		DisplayName:  *name,
		DeviceKind:   "appliance",
	})
	if err != nil {
		return err
	}
	listener, err := api.Listen(*apiSocket, api.UIDPanel, api.UIDConsole)
	if err != nil {
		m.Close()
		return err
	}
	if err := settleCell(); err != nil {
		m.Close()
		return err
	}
	server := api.NewServer(api.UIDPanel, api.UIDConsole)
	api.RegisterMessengerServer(server, m)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		err := server.Serve(listener)
		cancel() // without its socket the messenger is of no use to anybody
		served <- err
	}()
	err = m.Run(ctx)
	// The messenger has ended its streams; what is still being answered gets a
	// moment.
	last := time.AfterFunc(2*time.Second, server.Stop)
	server.GracefulStop()
	last.Stop()
	if serveErr := <-served; err == nil && !errors.Is(serveErr, grpc.ErrServerStopped) {
		err = serveErr
	}
	return err
}
