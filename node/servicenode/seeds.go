package servicenode

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"

	"hearth/node/keys"
	"hearth/node/swarm"
)

// Seeds are the seeds of one network, used as one: the list comes from the first
// that answers, and all are told where the node is.
type Seeds []Seed

// ErrNoSeed is the error of Seeds without any.
var ErrNoSeed = errors.New("no seed is known")

// Poll implements [Seed]. It asks one after the other; the error is that of all.
func (s Seeds) Poll(ctx context.Context, known *swarm.List) (*swarm.List, error) {
	err := ErrNoSeed
	for i, one := range s {
		list, e := one.Poll(ctx, known)
		if e == nil {
			return list, nil
		}
		if i == 0 {
			err = e
		} else {
			err = errors.Join(err, e)
		}
	}
	return nil, err
}

// Announce implements [Seed]. One seed that takes the announcement is enough.
func (s Seeds) Announce(ctx context.Context, node *keys.Pair, addr netip.AddrPort) error {
	if len(s) == 0 {
		return ErrNoSeed
	}
	errs := make([]error, len(s))
	var all sync.WaitGroup
	for i, one := range s {
		all.Go(func() { errs[i] = one.Announce(ctx, node, addr) })
	}
	all.Wait()
	if slices.Contains(errs, nil) {
		return nil
	}
	return errors.Join(errs...)
}
