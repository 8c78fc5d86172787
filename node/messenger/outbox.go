package messenger

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/rpc"
	"hearth/node/wire"
	"hearth/node/wire/sessionpb"
)

const (
	retryFirst   = time.Second // between first tries of one recipient, doubled each time
	retryLongest = 5 * time.Minute
	tryLimit     = 90 * time.Second // for one try: three members over three paths
	maxTries     = 8                // recipients that are tried at a time
	refusals     = 4                // of a parcel as badly made, after which it never arrives
	minTTL       = 10 * time.Second // that nodes accept (storage server)
)

// Why a message never arrives, for people.
const (
	reasonLate    = "its time to disappear came before the network could be reached"
	reasonRefused = "the service nodes refuse it"
	reasonSeal    = "it cannot be encrypted for this Session ID"
)

var (
	errCancelled = errors.New("no longer in the outbox")
	errLate      = errors.New(reasonLate)
	errSeal      = errors.New(reasonSeal)
	errNoTime    = errors.New("the network does not tell the time")
)

// outbox delivers what lies in the archive's outbox: for each recipient one
// parcel after the other, in a goroutine that lives as long as there is one.
type outbox struct {
	mu      sync.Mutex
	run     context.Context // nil while nothing is to be delivered
	tasks   sync.WaitGroup
	lanes   map[account.ID]*lane
	waiters map[uint64]chan outcome // by parcel
	tracked map[uint64]bool         // parcels that are messages
	uploads map[uint64]archive.Attachment
	kick    chan struct{} // closed when it is worth to try again at once
	tries   chan struct{} // one token for each try under way
}

// lane is what waits for one recipient.
type lane struct {
	parcels []waiting
	working bool
}

type waiting struct {
	id uint64
	// uncertain says that a node may have the bytes already. They must not
	// become others then, or the recipient would see the message twice.
	uncertain bool
	refused   int
}

// outcome is what became of a parcel.
type outcome struct {
	stored, swarm int
	hash, failure string
	timestamp     int64
}

func newOutbox() *outbox {
	return &outbox{
		lanes:   make(map[account.ID]*lane),
		waiters: make(map[uint64]chan outcome),
		tracked: make(map[uint64]bool),
		uploads: make(map[uint64]archive.Attachment),
		kick:    make(chan struct{}),
		tries:   make(chan struct{}, maxTries),
	}
}

// keepDelivering empties the outbox until ctx ends.
func (s *session) keepDelivering(ctx context.Context) {
	o := s.outbox
	o.mu.Lock()
	o.run = ctx
	o.mu.Unlock()
	for {
		left, err := s.archive.Outbox()
		if err == nil {
			// What was written since the start is scheduled by whoever wrote it, and
			// no node can have it yet.
			s.schedule(slices.DeleteFunc(left, func(p archive.Parcel) bool { return p.ID > s.leftover }), true)
			break
		}
		s.diskFailed(err)
		if mailbox.Pause(ctx, time.Minute) != nil {
			break
		}
	}
	<-ctx.Done()
	o.mu.Lock()
	o.run = nil
	o.mu.Unlock()
	o.tasks.Wait()
}

// schedule has parcels delivered that are in the archive's outbox.
func (s *session) schedule(parcels []archive.Parcel, uncertain bool) {
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range parcels {
		to := p.To
		if p.Kind != archive.ParcelStore {
			to = account.ID{}
		}
		if p.Upload != nil {
			to = uploadLane(p.ID)
			o.uploads[p.ID] = *p.Upload
		}
		l := o.lanes[to]
		if l == nil {
			l = &lane{}
			o.lanes[to] = l
		}
		l.parcels = append(l.parcels, waiting{id: p.ID, uncertain: uncertain})
		if p.Track {
			o.tracked[p.ID] = true
		}
	}
	if o.run == nil {
		return
	}
	for to, l := range o.lanes {
		if !l.working && len(l.parcels) > 0 {
			l.working = true
			ctx := o.run
			o.tasks.Go(func() { s.work(ctx, to, l) })
		}
	}
}

// uploadLane is where a parcel waits for its file to be uploaded, so that nothing
// else waits for that. No account has such an ID.
func uploadLane(parcel uint64) (lane account.ID) {
	lane[0] = 0xff
	binary.BigEndian.PutUint64(lane[1:], parcel)
	return lane
}

func isUpload(lane account.ID) bool { return lane[0] == 0xff }

// uploaded ends the lane of an upload, and gives the file that was it.
func (o *outbox) uploaded(l *lane, id uint64) (archive.Attachment, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.parcels = l.parcels[1:]
	return o.takeUpload(id)
}

func (o *outbox) takeUpload(id uint64) (archive.Attachment, bool) {
	f, ok := o.uploads[id]
	delete(o.uploads, id)
	return f, ok
}

// await gives what becomes of a parcel, once.
func (o *outbox) await(id uint64) <-chan outcome {
	c := make(chan outcome, 1)
	o.mu.Lock()
	o.waiters[id] = c
	o.mu.Unlock()
	return c
}

func (o *outbox) forget(id uint64) {
	o.mu.Lock()
	delete(o.waiters, id)
	o.mu.Unlock()
}

// again has everything tried at once that waits for better times.
func (o *outbox) again() {
	o.mu.Lock()
	close(o.kick)
	o.kick = make(chan struct{})
	o.mu.Unlock()
}

func (o *outbox) kicked() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kick
}

// messages is the number of own messages that nobody has confirmed yet.
func (o *outbox) messages() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.tracked)
}

// head is the next parcel of a lane. Without one the lane ends.
func (o *outbox) head(to account.ID, l *lane) (waiting, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(l.parcels) == 0 {
		l.working = false
		delete(o.lanes, to)
		return waiting{}, false
	}
	return l.parcels[0], true
}

// pop ends with the first parcel of a lane and tells who waits for it.
func (s *session) pop(l *lane, id uint64, what outcome) {
	o := s.outbox
	o.mu.Lock()
	f, ok := o.takeUpload(id)
	if ok {
		defer s.archive.ReleaseFile(f) // after the lock is given back
	}
	defer o.mu.Unlock()
	l.parcels = l.parcels[1:]
	delete(o.tracked, id)
	if c := o.waiters[id]; c != nil {
		c <- what
		delete(o.waiters, id)
	}
}

// update remembers how a try went.
func (o *outbox) update(l *lane, w waiting) {
	o.mu.Lock()
	l.parcels[0] = w
	o.mu.Unlock()
}

// work delivers one recipient's parcels in their order. Whatever may still arrive
// is tried again for ever.
func (s *session) work(ctx context.Context, to account.ID, l *lane) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	pause := retryFirst
	for ctx.Err() == nil {
		w, ok := s.outbox.head(to, l)
		if !ok {
			return
		}
		kicked := s.outbox.kicked()
		what, err := outcome{}, error(nil)
		if isUpload(to) {
			var recipient account.ID
			if recipient, err = s.upload(ctx, w.id); err == nil {
				if f, ok := s.outbox.uploaded(l, w.id); ok {
					s.archive.ReleaseFile(f)
				}
				s.schedule([]archive.Parcel{{ID: w.id, Kind: archive.ParcelStore, To: recipient, Track: true}}, false)
				continue
			}
		} else {
			what, err = s.try(ctx, w)
		}
		reason := ""
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if pause > retryFirst {
				s.outbox.again() // the others may have better luck, too
			}
			pause = retryFirst
			s.pop(l, w.id, what)
			s.m.publishState()
			continue
		case errors.Is(err, errCancelled):
			s.pop(l, w.id, outcome{failure: errCancelled.Error()})
			s.m.publishState()
			continue
		case errors.Is(err, errLate):
			reason = reasonLate
		case errors.Is(err, errNoFile):
			reason = reasonNoFile
		case errors.Is(err, errOver):
			reason = reasonOver
		case errors.Is(err, errSeal):
			reason = reasonSeal
		case errors.Is(err, path.ErrRequest), errors.Is(err, path.ErrRefused):
			// One node may be wrong about it; several are right.
			if w.refused++; w.refused >= refusals {
				reason = reasonRefused
			}
		case errors.Is(err, mailbox.ErrNoSwarm), errors.Is(err, path.ErrPath):
			nudge(s.renew)
		}
		s.log.Warn("delivering", "parcel", w.id, "again in", pause, "err", err)
		if reason != "" {
			result, err := s.archive.Failed(w.id, reason)
			if err == nil {
				s.pop(l, w.id, outcome{failure: reason})
				s.publish(result)
				continue
			}
			s.diskFailed(err)
		}
		w.uncertain = w.uncertain || !errors.Is(err, errNoTime)
		s.outbox.update(l, w)
		// Spread, so that recipients that failed together do not come together.
		timer := time.NewTimer(pause*3/4 + rand.N(pause/2))
		select {
		case <-timer.C:
			pause = min(2*pause, retryLongest)
		case <-kicked:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// try delivers one parcel once.
func (s *session) try(ctx context.Context, w waiting) (what outcome, err error) {
	select {
	case s.outbox.tries <- struct{}{}:
		defer func() { <-s.outbox.tries }()
	case <-ctx.Done():
		return what, ctx.Err()
	}
	p, ok, err := s.archive.Parcel(w.id)
	if err != nil {
		s.diskFailed(err)
		return what, err
	}
	if !ok {
		return what, errCancelled
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	var stored mailbox.Stored
	switch p.Kind {
	case archive.ParcelDelete:
		err = s.box.Delete(ctx, s.own, p.Hashes)
	case archive.ParcelShorten:
		err = s.box.Shorten(ctx, s.own, p.Hashes, max(p.Expiry, s.clock.Now().UnixMilli()))
	default:
		stored, err = s.store(ctx, &p, w.uncertain)
	}
	if err != nil {
		return what, err
	}
	var copied *archive.Parcel
	if len(p.Copy) > 0 {
		if copied, err = s.copyOf(p); err != nil {
			return what, err
		}
	}
	result, err := s.archive.Delivered(p.ID, stored.Members, stored.Swarm, copied)
	if err != nil {
		// It is tried again with the same bytes, which nodes keep once.
		s.diskFailed(err)
		return what, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	s.diskFailed(nil)
	s.publish(result)
	if p.Track {
		s.log.Info("message sent", "stored", stored.Members, "swarm", stored.Swarm)
	}
	return outcome{stored: stored.Members, swarm: stored.Swarm, hash: p.Hash, timestamp: p.Timestamp}, nil
}

// store puts a parcel into its swarm.
func (s *session) store(ctx context.Context, p *archive.Parcel, uncertain bool) (mailbox.Stored, error) {
	made := false
	seal := func(int64) ([]byte, error) {
		again := made
		made = true
		if p.Data != nil && (p.Fixed || !again || uncertain) {
			return p.Data, nil
		}
		// Not made yet, because the time was not known; or a node refused it,
		// because the time turned out to be wrong.
		if !s.clock.Known() {
			return nil, errNoTime
		}
		if err := s.seal(p, again); err != nil {
			return nil, err
		}
		return p.Data, nil
	}
	ttl := time.Duration(p.TTL) * time.Millisecond
	if p.Until != 0 {
		left := time.Duration(p.Until-s.clock.Now().UnixMilli()) * time.Millisecond
		if s.clock.Known() && left <= 0 {
			return mailbox.Stored{}, errLate
		}
		ttl = min(ttl, left)
	}
	// A message whose time is nearly over lies in the swarm for those few seconds
	// longer; its recipient takes it away in time.
	ttl = min(max(ttl, minTTL), mailbox.TTL)
	return s.storeFor(ctx, p.To, ttl, seal)
}

// seal makes the bytes of a parcel, with a new time if the old one cannot be
// right, and writes them down before any node gets them.
func (s *session) seal(p *archive.Parcel, restamp bool) error {
	for {
		next := *p
		if off := s.clock.Offset().Abs(); restamp || off > time.Second {
			next.Timestamp = s.stamp().ms
			if next.Until != 0 {
				next.Until += next.Timestamp - p.Timestamp
			}
		}
		var content, copied sessionpb.Content
		if err := proto.Unmarshal(p.Content, &content); err != nil {
			return fmt.Errorf("%w: %w", errSeal, err)
		}
		content.SigTimestamp = proto.Uint64(uint64(next.Timestamp))
		if len(p.Copy) > 0 {
			if err := proto.Unmarshal(p.Copy, &copied); err != nil {
				return fmt.Errorf("%w: %w", errSeal, err)
			}
			copied.SigTimestamp = content.SigTimestamp
			next.Copy, _ = proto.Marshal(&copied)
		}
		next.Content, _ = proto.Marshal(&content)
		var err error
		if next.Data, next.Hash, err = s.sealFor(p.To, &content); err != nil {
			return err
		}
		ok, result, err := s.archive.Sealed(next)
		switch {
		case errors.Is(err, archive.ErrTimeTaken):
			restamp = true
			continue
		case err != nil:
			s.diskFailed(err)
			return fmt.Errorf("%w: %w", ErrDisk, err)
		case !ok:
			return errCancelled
		}
		*p = next
		s.publish(result)
		return nil
	}
}

// copyOf makes the parcel of the copy for the own account.
func (s *session) copyOf(p archive.Parcel) (*archive.Parcel, error) {
	var content sessionpb.Content
	if err := proto.Unmarshal(p.Copy, &content); err != nil {
		return nil, fmt.Errorf("%w: %w", errSeal, err)
	}
	// As it is: the copy bears the time of the message, which is settled.
	copied, err := s.sealed(s.own.ID(), &content, time.Duration(p.TTL)*time.Millisecond)
	if err != nil {
		return nil, err
	}
	copied.Until = p.Until
	return &copied, nil
}

// parcel makes what brings content to an account, and gives it its time.
func (s *session) parcel(to account.ID, content *sessionpb.Content, at stamp, ttl time.Duration) (archive.Parcel, error) {
	content.SigTimestamp = at.field()
	// Sealed in any case, so that what can never be sealed is refused at once.
	p, err := s.sealed(to, content, ttl)
	if !at.sure {
		p.Data, p.Hash = nil, ""
	}
	return p, err
}

// sealed makes the bytes. The time is the content's.
func (s *session) sealed(to account.ID, content *sessionpb.Content, ttl time.Duration) (archive.Parcel, error) {
	p := archive.Parcel{To: to, TTL: ttl.Milliseconds(), Timestamp: int64(content.GetSigTimestamp()), Own: to == s.own.ID()}
	data, err := wire.Seal(s.m.cfg.Rand, s.own, to, content)
	if err != nil {
		return p, fmt.Errorf("%w: %w", errSeal, err)
	}
	if p.Content, err = proto.Marshal(content); err != nil {
		return p, fmt.Errorf("%w: %w", errSeal, err)
	}
	p.Data, p.Hash = data, rpc.MessageHash(to, 0, data)
	return p, nil
}

// outgoing makes the parcel of content for somebody, with the owner's profile,
// and of the copy that the owner's other devices get. A note to self names its
// conversation, as those copies do.
func (s *session) outgoing(to account.ID, content *sessionpb.Content, at stamp, ttl time.Duration) (archive.Parcel, error) {
	if isGroup(to) {
		return s.toGroup(to, content, at, ttl)
	}
	content.SigTimestamp = at.field()
	copied := proto.CloneOf(content)
	if d := copied.GetDataMessage(); d != nil {
		d.SyncTarget = proto.String(to.String())
		d.Profile, d.ProfileKey = nil, nil
	}
	if to == s.own.ID() {
		return s.parcel(to, copied, at, ttl)
	}
	if d := content.GetDataMessage(); d != nil {
		d.Profile, d.ProfileKey = s.ownProfile()
	}
	p, err := s.parcel(to, content, at, ttl)
	if err != nil {
		return p, err
	}
	p.Copy, err = proto.Marshal(copied)
	return p, err
}

// ownProfile is what goes out with messages, or nothing. The address of a picture and
// its key belong together.
func (s *session) ownProfile() (_ *sessionpb.LokiProfile, pictureKey []byte) {
	s.mu.Lock()
	p := s.profile
	s.mu.Unlock()
	if p.Name == "" && p.PictureURL == "" {
		return nil, nil
	}
	profile := &sessionpb.LokiProfile{
		DisplayName:              proto.String(p.Name),
		LastProfileUpdateSeconds: proto.Uint64(uint64(max(p.Since, 0))),
	}
	if p.PictureURL != "" {
		profile.ProfilePicture = proto.String(p.PictureURL)
	}
	pictureKey, _ = hex.DecodeString(p.PictureKey) // as it was encoded
	return profile, pictureKey
}
