package sim

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"hearth/node/ledger"
)

// Print writes the report as tables.
func (r *Report) Print(out io.Writer) error {
	c := &r.Config
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("%d nodes, %d hours, seed %d; %.0f %% of the nodes lie; a node drops %.2g times a day, for %v to %v", c.Nodes, c.Hours, c.Seed, 100*c.Lying, c.Drops, c.Shortest, c.Longest)
	line("%d events, %d blocks, %d lists, %d kB of transactions, %v of halts; %d nodes joined, %d asked to leave", r.Events, r.Blocks, r.Lists, r.TxBytes/1000, r.Halted, r.Joined, r.Left)
	line("%d outages, %d of an hour and less, of which %d cost a node its service", r.Drops, r.ShortDrops, r.ShortDemoted)
	line("")
	line("hour\tonline\tin service\tout\tswarms\tsmallest\tmedian\tlargest\tworking at least\tmessages had\tat first try\tlost")
	step := max(len(r.Samples)/12, 1)
	for i, s := range r.Samples {
		if i%step == 0 || i == len(r.Samples)-1 {
			line("%.1f\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s", s.At.Hours(), s.Online, s.Active, s.Out, s.Swarms, s.Smallest, s.Median, s.Largest, s.Working,
				percent(s.Kept), percent(s.FirstTry), percent(s.Lost))
		}
	}
	line("")
	line("side\tnodes\tcoins staked\tout of service\twhile reachable\tback\tremoved\tcoins locked\tcoins earned\tleast credit")
	for _, s := range []struct {
		name string
		side *Side
	}{{"honest", &r.Honest}, {"liars", &r.Liar}} {
		credit := "-"
		if s.side.WorstCredit < time.Duration(1<<62) {
			credit = s.side.WorstCredit.Round(time.Minute).String()
		}
		line("%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s", s.name, s.side.Nodes, ledger.Coins(s.side.Staked), s.side.Demoted, s.side.Undeserved, s.side.Returned, s.side.Removed,
			ledger.Coins(s.side.Locked), ledger.Coins(s.side.Earned/ledger.Coin*ledger.Coin), credit)
	}
	line("")
	line("attacker: coins\tpath wholly bad\tboth ends bad\tswarm wholly bad\tcommittee halted\tcommittee owned")
	for _, p := range r.Paths {
		line("%.0f %%: %s\t%.2g\t%.2g\t%.2g\t%.2g\t%.2g", 100*p.Share, ledger.Coins(p.Stake), p.Whole, p.Ends, p.Swarm, p.Committee, p.Fork)
	}
	line("of 200,000 paths drawn from the last list %.2g were wholly the liars'", r.PathSampled)
	return w.Flush()
}

func percent(share float64) string { return fmt.Sprintf("%.2f %%", 100*share) }
