// Command load measures a network of service nodes: requests a second, how long
// they take, and what they cost the servers.
//
//	go run ./build/cmd/load -devnet
//	go run ./build/cmd/load -seed https://127.0.0.1:22100/json_rpc -seed-pin PIN -pids 1234,1235
//	go run ./build/cmd/load -nodes nodes.txt -pids 1234
//
// With -devnet it starts nodes of its own and takes everything. Otherwise it
// takes what the network's size allows, from nodes of any make: nodes.txt has
// lines "ADDRESS:PORT ED25519 X25519", keys in hexadecimal.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hearth/build/devnet"
	"hearth/build/load"
	"hearth/node/seed"
	"hearth/node/swarm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errs io.Writer) (err error) {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.SetOutput(errs)
	own := flags.Bool("devnet", false, "start nodes, and take the whole table from them")
	program := flags.String("program", "", "with -devnet, the hearth command (default: compile it)")
	messages := flags.Int("messages", 100_000, "with -devnet, how many messages are handed over")
	nodes := flags.String("nodes", "", "file with the nodes, a line ADDRESS:PORT ED25519 X25519 each")
	seedURL := flags.String("seed", "", "URL that gives the node list")
	seedPin := flags.String("seed-pin", "", "SHA-256 of the seed's certificate in hexadecimal")
	pids := flags.String("pids", "", "processes of all nodes, separated by commas: for their processor time and memory")
	members := flags.Int("swarm", 0, "ask a swarm with so many members; 0 for any")
	hops := flags.Int("hops", 3, "nodes on the way of an onion, before its destination")
	allow := flags.String("allow", "", "IPv4 addresses that are not this machine but may be asked, slowly and for a short time; separated by commas")
	var plan load.Plan
	flags.DurationVar(&plan.For, "for", 2*time.Second, "how long each repetition takes")
	flags.IntVar(&plan.Repetitions, "repetitions", 3, "of each figure")
	atOnce := flags.String("at-once", "1,8,32", "requests at a time, separated by commas")
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		return nil
	case err != nil:
		return err
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if plan.AtOnce, err = numbers(*atOnce); err != nil {
		return fmt.Errorf("-at-once: %w", err)
	}
	if *own {
		dir, err := os.MkdirTemp("", "hearth-load")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if *program == "" {
			if *program, err = devnet.BuildProgram(ctx, dir); err != nil {
				return err
			}
		}
		return load.Devnet{Program: *program, Dir: dir, Plan: plan, Messages: *messages, Out: out}.Run(ctx)
	}

	t := &load.Target{Hops: *hops}
	if t.PIDs, err = numbers(*pids); err != nil {
		return fmt.Errorf("-pids: %w", err)
	}
	for host := range fields(*allow) {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return fmt.Errorf("-allow: %w", err)
		}
		t.Allow = append(t.Allow, a)
	}
	switch {
	case *nodes != "":
		f, err := os.Open(*nodes)
		if err != nil {
			return err
		}
		defer f.Close()
		if t.Nodes, err = parseNodes(f); err != nil {
			return fmt.Errorf("%s: %w", *nodes, err)
		}
	case *seedURL != "":
		pin, err := hex.DecodeString(strings.ReplaceAll(*seedPin, ":", ""))
		if err != nil || len(pin) != 32 {
			return errors.New("-seed-pin: not 64 hexadecimal digits")
		}
		client := &seed.Client{URL: *seedURL, Pin: [32]byte(pin)}
		list, err := client.ServiceNodes(ctx)
		client.Close()
		if err != nil {
			return err
		}
		t.Nodes = list.Nodes
	default:
		return errors.New("which network? -devnet, -seed or -nodes says")
	}
	for _, n := range t.Nodes {
		if n.X25519 == [32]byte{} {
			fmt.Fprintln(out, "no onions: not all X25519 keys are known")
			plan.Rows = load.Direct
			break
		}
	}
	b, err := t.Prepare(ctx, *members, 256)
	if err != nil {
		return err
	}
	defer b.Close()
	memory(out, "memory before ", t.PIDs)
	stop := load.Watch(t.PIDs...)
	table := load.NewTable(out)
	_, err = b.Run(ctx, plan, table.Add)
	table.End()
	for i, m := range stop() {
		fmt.Fprintf(out, "memory at most of %d: %v\n", t.PIDs[i], m)
	}
	memory(out, "memory after  ", t.PIDs)
	return err
}

func memory(out io.Writer, when string, pids []int) {
	for _, pid := range pids {
		m, _, err := load.MemoryOf(pid)
		if err != nil {
			fmt.Fprintln(out, err)
			continue
		}
		fmt.Fprintf(out, "%s of %d: %v\n", when, pid, m)
	}
}

func fields(list string) func(func(string) bool) {
	return strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func numbers(list string) (all []int, err error) {
	for text := range fields(list) {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1<<22 {
			return nil, fmt.Errorf("%q is not a positive number", text)
		}
		all = append(all, n)
	}
	return all, nil
}

// parseNodes reads a node list.
func parseNodes(r io.Reader) (nodes []swarm.Node, err error) {
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			if len(nodes) == 0 {
				err = errors.New("no nodes")
			}
			return nodes, cmp.Or(lines.Err(), err)
		}
		f := strings.Fields(lines.Text())
		if len(f) == 0 || strings.HasPrefix(f[0], "#") {
			continue
		}
		at, err := netip.ParseAddrPort(f[0])
		if err != nil || len(f) > 3 {
			return nil, fmt.Errorf("%q: want ADDRESS:PORT ED25519 X25519", lines.Text())
		}
		n := swarm.Node{Address: at}
		for i, into := range []*[32]byte{&n.Ed25519, &n.X25519} {
			if i+1 >= len(f) {
				break
			}
			key, err := hex.DecodeString(f[i+1])
			if err != nil || len(key) != 32 {
				return nil, fmt.Errorf("%q: a key has 64 hexadecimal digits", lines.Text())
			}
			copy(into[:], key)
		}
		nodes = append(nodes, n)
	}
}
