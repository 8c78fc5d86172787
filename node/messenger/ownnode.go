package messenger

import (
	"context"
	"encoding/hex"
	"time"

	"hearth/node/api"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
)

const (
	ownNodeLimit = 5 * time.Second  // for one question
	ownNodeFirst = time.Second      // between the first questions, doubled each time
	ownNodeLater = 30 * time.Second // at most, until there is an answer
	ownNodeAgain = 10 * time.Minute // after an answer: a node can get another key
)

// watchOwnNode learns the key of the service node on this machine until ctx ends,
// and keeps it out of the paths. A machine without one is the same as one whose
// node does not answer.
func (m *Messenger) watchOwnNode(ctx context.Context) {
	for pause := ownNodeFirst; ; {
		wait := pause
		if key, ok := m.askOwnNode(ctx); ok {
			m.avoid(key)
			wait, pause = ownNodeAgain, ownNodeFirst
		} else {
			pause = min(2*pause, ownNodeLater)
		}
		if mailbox.Pause(ctx, wait) != nil {
			return
		}
	}
}

func (m *Messenger) askOwnNode(ctx context.Context) (key path.Key, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, ownNodeLimit)
	defer cancel()
	st, err := m.cfg.Node.Status(ctx, &api.NodeStatusRequest{})
	if err != nil {
		return key, false
	}
	b, err := hex.DecodeString(st.GetEd25519())
	if err != nil || len(b) != len(key) {
		return key, false
	}
	return path.Key(b), true
}

// avoid keeps a node out of the paths of this session and of all later ones.
func (m *Messenger) avoid(key path.Key) {
	m.mu.Lock()
	s := m.session
	known := m.ownNode != nil && *m.ownNode == key
	m.ownNode = &key
	if known || s == nil {
		m.mu.Unlock()
		return
	}
	// The session must not end meanwhile: the pool writes down other guards.
	m.working.Add(1)
	m.mu.Unlock()
	defer m.working.Done()
	s.pool.Avoid(key)
	m.publishState()
}

func (m *Messenger) ownNodeKey() *path.Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ownNode
}
