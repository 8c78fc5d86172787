package main

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"

	"hearth/node/api"
	"hearth/node/messenger"
	"hearth/node/seed"
)

// runMessenger is the process that holds the account's keys and its
// conversations. It listens on a Unix socket only; outwards it connects to the
// seeds and to its guards.
func runMessenger(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("messenger", flag.ContinueOnError)
	dir := flags.String("dir", "/data/messenger", "folder of the database")
	seedURLs := flags.String("seed", "", "where the first node list comes from: URL[,URL…]")
	seedPins := flags.String("seed-pin", "", "SHA-256 of each seed's certificate, in hexadecimal: PIN[,PIN…]")
	gateway := flags.String("gateway", "", "dial addresses through others: PREFIX=ADDRESS[,…]")
	vaultSocket := flags.String("vault", "/run/hearth/vault.sock", "socket of the vault")
	apiSocket := flags.String("api", "/run/hearth/messenger.sock", "socket to serve")
	poll := flags.Duration("poll", messenger.DefaultPollInterval, "time between looks into the own swarm")
	name := flags.String("name", "", "what to call oneself in messages")
	verbose := flags.Bool("verbose", false, "log every retry")
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

	dial, err := gatewayDialer(*gateway)
	if err != nil {
		return err
	}
	seeds, err := parseSeeds(*seedURLs, *seedPins)
	if err != nil {
		return err
	}
	var sources []messenger.NodeSource
	for _, s := range seeds {
		s.Dial = dial
		defer s.Close()
		sources = append(sources, s)
	}
	vault, err := api.Dial(*vaultSocket, api.UIDVault)
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	defer vault.Close()

	m, err := messenger.New(messenger.Config{
		Vault:        api.NewVaultClient(vault),
		DBPath:       filepath.Join(*dir, "messenger.db"),
		Seeds:        sources,
		Dial:         dial,
		Log:          log,
		PollInterval: *poll,
		DisplayName:  *name,
	})
	if err != nil {
		return err
	}
	listener, err := api.Listen(*apiSocket, api.UIDPanel, api.UIDConsole)
	if err != nil {
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

// parseSeeds pairs the seeds with their pins.
func parseSeeds(urls, pins string) ([]*seed.Client, error) {
	if urls == "" {
		return nil, nil // a node list from an earlier run does as well
	}
	list, digests := strings.Split(urls, ","), strings.Split(pins, ",")
	if len(list) != len(digests) {
		return nil, fmt.Errorf("%d seeds but %d pins", len(list), len(digests))
	}
	var seeds []*seed.Client
	for i, url := range list {
		pin, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digests[i]), ":", ""))
		if err != nil || len(pin) != 32 {
			return nil, fmt.Errorf("pin of seed %s: not 64 hexadecimal digits", url)
		}
		seeds = append(seeds, &seed.Client{URL: strings.TrimSpace(url), Pin: [32]byte(pin)})
	}
	return seeds, nil
}
