package rpc

import (
	"sync"

	"hearth/node/keys"
)

// maxPairs is how many keys one generation of pairs holds; two take half a MiB.
const maxPairs = 2048

// pairs remembers the public encryption keys of the signing keys that came last. To
// work one out takes as long as to check a signature, for whether a point is in the
// main subgroup shows in a multiplication only, and the same accounts ask again and
// again.
type pairs struct {
	mu            sync.Mutex
	recent, older map[[32]byte][32]byte
}

// known serves all services of the process: the result depends on the key alone.
var known pairs

// x25519 is keys.X25519FromEd25519.
func (p *pairs) x25519(pub [32]byte) ([32]byte, error) {
	p.mu.Lock()
	x, ok := p.recent[pub]
	if !ok {
		if x, ok = p.older[pub]; ok {
			p.keep(pub, x)
		}
	}
	p.mu.Unlock()
	if ok {
		return x, nil
	}
	x, err := keys.X25519FromEd25519(pub)
	if err == nil {
		p.mu.Lock()
		p.keep(pub, x)
		p.mu.Unlock()
	}
	return x, err
}

// keep is called with p.mu held.
func (p *pairs) keep(pub, x [32]byte) {
	if p.recent == nil || len(p.recent) >= maxPairs {
		p.older, p.recent = p.recent, make(map[[32]byte][32]byte)
	}
	p.recent[pub] = x
}
