package sim

import "math"

// chances are an attacker's who has that share of all nodes, and so of all stakes.
// They are exact: draws without putting back.
func chances(nodes, swarmSize, committee int, share float64, requirement uint64) Path {
	bad := int(math.Round(share * float64(nodes)))
	committee = min(committee, nodes)
	return Path{
		Share: share, Stake: uint64(bad) * requirement,
		Whole:     atLeast(nodes, bad, 3, 3),
		Ends:      atLeast(nodes, bad, 2, 2),
		Swarm:     atLeast(nodes, bad, swarmSize, swarmSize),
		Committee: atLeast(nodes, bad, committee, (committee+2)/3),
		Fork:      atLeast(nodes, bad, committee, 2*committee/3+1),
	}
}

// atLeast is the chance that of some drawn out of all at least least are bad.
func atLeast(all, bad, drawn, least int) float64 {
	sum := 0.0
	for k := max(least, drawn-(all-bad)); k <= min(bad, drawn); k++ {
		sum += math.Exp(choose(bad, k) + choose(all-bad, drawn-k) - choose(all, drawn))
	}
	return min(sum, 1)
}

// choose is the logarithm of n over k.
func choose(n, k int) float64 {
	of := func(x int) float64 { l, _ := math.Lgamma(float64(x + 1)); return l }
	return of(n) - of(k) - of(n-k)
}
