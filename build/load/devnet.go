package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hearth/build/devnet"
	"hearth/node/swarm"
)

// Devnet starts networks of Hearth nodes, each a process of its own, and takes
// the whole table from them.
type Devnet struct {
	Program  string        // the hearth command
	Dir      string        // for what the nodes keep; empty at the beginning
	Plan     Plan          // its Rows do not count
	Messages int           // that are handed over; 100,000 when zero
	Rest     time.Duration // until a node counts as idle; 5 s when zero
	Out      io.Writer
}

// Run takes the table. It writes each figure as soon as it is there.
func (d Devnet) Run(ctx context.Context) error {
	if d.Messages == 0 {
		d.Messages = 100_000
	}
	if d.Rest == 0 {
		d.Rest = 5 * time.Second
	}
	table := NewTable(d.Out)
	for _, n := range []struct {
		name    string
		nodes   int
		members int
		rows    []Row
	}{
		{"one", 1, 1, Direct},
		// Two swarms: an onion passes through nodes that do not hold the messages.
		{"six", 6, 3, []Row{Store, OnionInfo, OnionRetrieve, OnionStore}},
	} {
		plan := d.Plan
		plan.Rows = n.rows
		if err := d.rows(ctx, filepath.Join(d.Dir, n.name), n.nodes, n.members, plan, table); err != nil {
			return err
		}
	}
	table.End()
	return d.beside(ctx)
}

// rows takes the rows that a network of some size is for.
func (d Devnet) rows(ctx context.Context, dir string, nodes, members int, plan Plan, table *Table) (err error) {
	network, err := devnet.StartProcesses(ctx, devnet.ProcessConfig{Program: d.Program, Nodes: nodes, Dir: dir})
	if err != nil {
		return err
	}
	defer func() {
		if e := network.Close(); err == nil {
			err = e
		}
	}()
	t := &Target{Nodes: network.List().Nodes}
	for k := 1; k <= nodes; k++ {
		t.PIDs = append(t.PIDs, network.PID(k))
	}
	b, err := t.Prepare(ctx, members, 256)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.Run(ctx, plan, table.Add)
	return err
}

// beside takes what is seen from beside a node: memory, disk, and the start.
func (d Devnet) beside(ctx context.Context) (err error) {
	network, err := devnet.StartProcesses(ctx, devnet.ProcessConfig{
		Program: d.Program, Nodes: 2, Held: 1, Dir: filepath.Join(d.Dir, "two"),
		Rules: swarm.Rules{MinSize: 1, IdealMargin: 3, NewSize: 3},
	})
	if err != nil {
		return err
	}
	defer func() {
		if e := network.Close(); err == nil {
			err = e
		}
	}()
	say := func(format string, args ...any) { fmt.Fprintf(d.Out, format+"\n", args...) }

	first, err := d.restart(ctx, network)
	if err != nil {
		return err
	}
	say("start to first answer   %3.0f ms without messages (C++ 25)", ms(first))
	if err := d.settle(ctx); err != nil {
		return err
	}
	idle, _, err := MemoryOf(network.PID(1))
	if err != nil {
		return err
	}
	say("memory idle             %v (C++ 23 MB)", idle)

	b, err := (&Target{Nodes: network.List().Nodes}).Prepare(ctx, 1, 1000)
	if err != nil {
		return err
	}
	defer b.Close()
	before, err := diskOf(network.Folder(1))
	if err != nil {
		return err
	}
	counted, err := network.Status(ctx, 1)
	if err != nil {
		return err
	}
	stop := Watch(network.PID(1))
	began := time.Now()
	if _, err := b.Fill(ctx, d.Messages, 32); err != nil {
		return err
	}
	took := time.Since(began)
	say("while %d messages come at %.0f a second: at most %v", d.Messages, float64(d.Messages)/took.Seconds(), stop()[0])
	if err := d.settle(ctx); err != nil { // what is written late is on disk then
		return err
	}
	after, err := diskOf(network.Folder(1))
	if err != nil {
		return err
	}
	full, err := network.Status(ctx, 1)
	if err != nil {
		return err
	}
	stored := int64(full.Messages - counted.Messages)
	say("disk                    %d bytes a message of %d (C++ 1521)", (after-before)/max(stored, 1), MessageSize)
	now, _, err := MemoryOf(network.PID(1))
	if err != nil {
		return err
	}
	say("memory then             %v", now)

	if first, err = d.restart(ctx, network); err != nil {
		return err
	}
	say("start to first answer   %3.0f ms with %d messages", ms(first), full.Messages)
	if err := d.settle(ctx); err != nil {
		return err
	}
	if now, _, err = MemoryOf(network.PID(1)); err != nil {
		return err
	}
	say("memory then             %v", now)

	// A second node joins the swarm.
	if err := network.Launch(2); err != nil {
		return err
	}
	stop = Watch(network.PID(1), network.PID(2))
	began = time.Now()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		s, err := network.Status(ctx, 2)
		if err == nil && s.Messages == full.Messages {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("handing over: %w", context.Cause(ctx))
		}
	}
	took = time.Since(began)
	most := stop()
	say("handing over            in %.1f s from the start of the new member; the giver at most %v, the new one %v (C++ 405 MB)", took.Seconds(), most[0], most[1])
	if err := d.settle(ctx); err != nil {
		return err
	}
	for k := 1; k <= 2; k++ {
		m, _, err := MemoryOf(network.PID(k))
		if err != nil {
			return err
		}
		disk, err := diskOf(network.Folder(k))
		if err != nil {
			return err
		}
		say("afterwards, node %d      %v, %d bytes a message on disk", k, m, disk/int64(full.Messages))
	}
	return nil
}

// settle gives a node time to come to rest.
func (d Devnet) settle(ctx context.Context) error {
	select {
	case <-time.After(d.Rest):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func ms(t time.Duration) float64 { return float64(t) / float64(time.Millisecond) }

// restart stops node 1 and says how long a new process takes until it answers a
// request.
func (d Devnet) restart(ctx context.Context, network *devnet.Processes) (time.Duration, error) {
	if err := network.Stop(1); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := network.Launch(1); err != nil {
		return 0, err
	}
	return firstAnswer(ctx, network.Address(1), began)
}

// firstAnswer asks again and again until a node answers.
func firstAnswer(ctx context.Context, at netip.AddrPort, began time.Time) (time.Duration, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	for tick := time.NewTicker(time.Millisecond); ; {
		resp, err := client.Post("https://"+at.String()+"/storage_rpc/v1", "", strings.NewReader(`{"method":"info","params":{}}`))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return time.Since(began), nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("waiting for the first answer: %w", os.ErrDeadlineExceeded)
		}
	}
}
