package config

import "slices"

// resolve decides which message stands for all candidates, as libsession-util
// does it (ConfigMessage's constructor from several messages). When one
// candidate says everything that the others do, it is that one, and its index
// is returned. Otherwise it is a new message with all changes replayed in the
// order of (seqno, hash), and the index is -1. A reader who cannot sign for the
// group takes the candidate with the highest (seqno, hash) and leaves the
// merging to an admin.
//
// The result depends on the set of candidates alone, not on their order, apart
// from which of two equal messages is named. There must be at least one.
func resolve(candidates []*message, readOnly bool) (*message, int) {
	left := leading(candidates)
	if len(left) == 1 {
		return candidates[left[0]], left[0]
	}
	slices.SortFunc(left, func(a, b int) int { return compareIDs(candidates[b].id, candidates[a].id) })
	newest := candidates[left[0]]
	if readOnly {
		return newest, left[0]
	}

	// Each change with the message whose data has its values. A change that
	// several messages report takes the values of the newest of them.
	type replay struct {
		lagged
		source *Dict
	}
	changes := map[id]replay{}
	report := func(l lagged, source *Dict) {
		if _, known := changes[l.id]; !known {
			changes[l.id] = replay{l, source}
		}
	}
	for _, i := range left {
		m := candidates[i]
		report(lagged{m.id, m.diff}, m.data)
		for _, l := range m.lagged {
			report(l, m.data)
		}
	}
	ordered := make([]replay, 0, len(changes))
	for _, c := range changes {
		ordered = append(ordered, c)
	}
	slices.SortFunc(ordered, func(a, b replay) int { return compareIDs(a.id, b.id) })

	t := &tree{owner: new(owner), root: newest.data}
	t.root = t.own(t.root)
	merged := &message{diff: new(diff)}
	merged.seqno = newest.seqno + 1
	for _, c := range ordered {
		t.apply(t.root, c.diff, c.source)
		if c.seqno > merged.seqno-lag {
			merged.lagged = append(merged.lagged, c.lagged)
		}
	}
	t.prune()
	merged.data = t.root
	return merged, -1
}

// leading returns the candidates that no other one makes redundant: not an
// ancestor of another, not a second copy, not out of the window.
func leading(candidates []*message) []int {
	newest := candidates[0].seqno
	for _, m := range candidates {
		newest = max(newest, m.seqno)
	}
	ancestors := map[id]bool{}
	for _, m := range candidates {
		for _, l := range m.lagged {
			ancestors[l.id] = true
		}
	}
	var left []int
	seen := map[id]bool{}
	for i, m := range candidates {
		if m.seqno > newest-lag && !ancestors[m.id] && !seen[m.id] {
			left = append(left, i)
		}
		seen[m.id] = true
	}
	return left
}
