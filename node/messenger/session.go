package messenger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/ledger/light"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
)

const stampAhead = 10_000 // ms that nodes accept a message to be ahead of them

// session is an open account with everything that works for it.
type session struct {
	m        *Messenger
	log      *slog.Logger
	own      *account.Account
	wipe     bool // the account is ours to wipe
	clock    *mailbox.Clock
	archive  *archive.Archive
	pool     *path.Pool
	client   *path.Client
	box      *mailbox.Client
	prover   *light.Prover // nil where nobody proves the node list
	lost     bool          // the known nodes did not answer it the last time; keepNodes has it
	outbox   *outbox
	groups   *groups
	ear      *ear   // at the own swarm
	leftover uint64 // newest parcel of an earlier start

	transfers chan struct{} // the token of the file that is on its way

	life context.Context // ends when the messenger stops
	stop context.CancelFunc

	shared *sharing // what is common to all devices, see configs.go

	asked bool // every member of the own swarm has answered once; for keepPolling

	polledOnce chan struct{} // closed when the own swarm has first answered

	ready chan struct{} // closed when the pool first has nodes
	wake  chan struct{} // asks for a poll at once
	renew chan struct{} // asks for a new node list

	expiry   chan struct{} // says that other messages disappear than before
	changing sync.Mutex    // one change of settings at a time

	mu          sync.Mutex
	profile     archive.Profile
	settings    archive.Settings
	reacted     []time.Time                // own reactions of the last minute
	typists     map[account.ID]*time.Timer // who is writing, and when that is over
	lastPoll    time.Time                  // network time
	active      time.Time                  // of the last message, by this machine's clock
	lastStamp   int64                      // of the last message that was sent
	disk        string                     // trouble with the database
	listTrouble string                     // trouble with the node list
	badSeed     bool                       // which nobody but a person can end
	late        bool                       // patience is over
	pollTrouble string                     // trouble with the own swarm
}

// open opens the database of the account and makes it the messenger's account.
func (m *Messenger) open(a *account.Account, wipe bool) error {
	cfg := m.cfg
	s := &session{
		m: m, log: m.log, own: a, wipe: wipe,
		clock: mailbox.NewClock(cfg.Now),
		ready: make(chan struct{}),

		polledOnce: make(chan struct{}),

		wake:  make(chan struct{}, 1),
		renew: make(chan struct{}, 1),

		expiry:  make(chan struct{}, 1),
		outbox:  newOutbox(),
		groups:  newGroups(),
		typists: make(map[account.ID]*time.Timer),

		transfers: make(chan struct{}, 1),
		shared:    newSharing(),
	}
	s.ear = &ear{s: s, owner: a.ID(), ask: s.askOwn, poll: s.wake}
	var err error
	s.archive, err = archive.Open(cfg.DBPath, a, cfg.Rand, s.clock.Now)
	if err != nil {
		return forCaller(ErrDisk, err)
	}
	if s.leftover, err = s.archive.LastParcel(); err == nil {
		err = s.assemble()
	}
	if err != nil {
		s.archive.Close()
		return forCaller(ErrDisk, err)
	}
	s.life, s.stop = context.WithCancel(context.Background())

	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		s.stop()
		s.archive.Close()
		return ErrStopped
	}
	m.trouble = ""
	m.turn(s)
	m.mu.Unlock()
	m.publishState()
	return nil
}

func (s *session) assemble() error {
	cfg := s.m.cfg
	saved, err := s.archive.Nodes()
	if errors.Is(err, archive.ErrDamaged) {
		s.log.Warn("saved node list is damaged: starting from the seeds")
	} else if err != nil {
		return err
	}
	profile, err := s.archive.Profile()
	if err != nil {
		return err
	}
	s.setProfile(profile)
	if damaged := s.archive.DamagedConfigs(); len(damaged) > 0 {
		s.log.Warn("configs are damaged: beginning with what the swarm has", "count", len(damaged))
	}
	if s.settings, err = s.archive.Settings(); err != nil {
		return err
	}
	s.lastStamp = s.archive.LastSent()
	if err := s.openGroups(); err != nil {
		return err
	}
	s.pool, err = path.NewPool(cfg.Rand, cfg.Now, s.log, saved, func(changed path.Saved) {
		if err := s.archive.SaveNodes(changed); err != nil {
			s.diskFailed(err)
		}
	})
	if err != nil {
		return err
	}
	if own := s.m.ownNodeKey(); own != nil {
		s.pool.Avoid(*own)
	}
	s.client = path.NewClient(s.pool, cfg.Rand, cfg.Dial, s.log)
	s.box = mailbox.New(s.client, s.pool, s.clock, s.log)
	if cfg.Ledger != nil {
		s.prover = s.newProver(cfg.Ledger)
	} else if s.pool.Size() > 0 {
		close(s.ready)
	}
	return nil
}

// run keeps the node list, polls, delivers and lets messages disappear until ctx
// ends.
func (s *session) run(ctx context.Context) {
	var wait sync.WaitGroup
	wait.Go(func() {
		s.log.Info("keeping the node list")
		defer s.log.Info("node list left alone")
		s.keepNodes(ctx)
	})
	wait.Go(func() {
		s.log.Info("polling the own swarm")
		defer s.log.Info("polling ended")
		s.keepPolling(ctx)
	})
	wait.Go(func() { s.keepListening(ctx) })
	wait.Go(func() { s.keepGroups(ctx) })
	wait.Go(func() {
		s.log.Info("emptying the outbox")
		defer s.log.Info("outbox left alone")
		s.keepDelivering(ctx)
	})
	wait.Go(func() { s.keepExpiring(ctx) })
	wait.Go(func() { s.keepConfigs(ctx) })
	wait.Go(func() { s.keepLearning(ctx) })
	wait.Go(func() { s.keepPicture(ctx) })
	wait.Go(func() {
		if mailbox.Pause(ctx, patience) == nil {
			s.mu.Lock()
			s.late = true
			s.mu.Unlock()
			s.m.publishState()
		}
	})
	wait.Go(func() { s.client.KeepFresh(ctx) })
	wait.Wait()
}

func (s *session) close() {
	s.mu.Lock()
	for id, t := range s.typists {
		t.Stop()
		delete(s.typists, id)
	}
	s.mu.Unlock()
	s.client.Close()
	s.shared.forget()
	if err := s.archive.Close(); err != nil {
		s.log.Error("closing the database", "err", err)
	}
	if s.wipe {
		s.own.Wipe()
	}
}

// diskFailed remembers trouble with the database, and forgets it with nil.
func (s *session) diskFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.disk = ""
		return
	}
	s.log.Error("database", "err", err)
	s.disk = fmt.Sprintf("%v: %v", ErrDisk, err)
}

// stamp is the sent time of a message, in ms of network time. It is sure when the
// network's time was known as it was drawn; a message with another one gets a new
// time before it goes out.
type stamp struct {
	ms   int64
	sure bool
}

// field is the stamp as messages have it.
func (t stamp) field() *uint64 { return proto.Uint64(uint64(t.ms)) }

// stamp draws a sent time. No two of our messages have the same, because sender and
// time are its name. A last one that lies far ahead is of a clock that has been
// corrected since.
func (s *session) stamp() stamp {
	// The clock is asked under the lock: what it said before it was corrected must not
	// become the last stamp after what it said since.
	s.mu.Lock()
	defer s.mu.Unlock()
	sure := s.clock.Known() // asked first: the clock may be set at any moment
	now := s.clock.Now().UnixMilli()
	if ahead := s.lastStamp - now; ahead >= 0 && ahead < stampAhead {
		now = s.lastStamp + 1
	}
	s.lastStamp = now
	return stamp{now, sure}
}

// stirred remembers that somebody is talking, which makes polling quick unless a
// member tells of messages anyway.
func (s *session) stirred() {
	s.mu.Lock()
	s.active = s.m.cfg.Now()
	s.mu.Unlock()
	if !s.ear.tells() {
		nudge(s.wake)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
