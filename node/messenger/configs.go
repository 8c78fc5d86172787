package messenger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

// What all devices of the account share is in configs (package config), which the
// archive keeps together with what they are about. This file brings them to the
// account's swarm, and from there to here: every round of polling looks for them
// before it looks for messages, so that messages are sorted by what other devices
// know already.

const (
	configTTL    = 30 * 24 * time.Hour // of a config in the swarm (Session desktop); nodes allow no more
	configExtend = 24 * time.Hour      // between extensions of that
	configGather = time.Second         // how long changes are collected before they are stored
	configFirst  = time.Second         // between first tries of a push, doubled each time
	configTries  = 3                   // members that are tried for one push
	configSeen   = 4_096               // messages of configs that are remembered as merged
	configAsked  = 100                 // messages of one question for their end
	maxTold      = 100                 // messages and people whom one merge tells about one by one
)

// sharing is the work on the configs of one session.
type sharing struct {
	fetched chan struct{} // closed when the swarm has first given what it has

	mu    sync.Mutex
	known bool            // fetched is closed
	seen  map[string]bool // messages that need not be merged again, by hash
	hooks []func([]config.Kind)

	alive chan struct{} // asks whether the swarm still has what it should

	guess   chan struct{}     // there is something in guessed
	guessed []archive.Message // whose end is to be asked for

	offer *offer // the latest code for another device, see link.go
}

func newSharing() *sharing {
	return &sharing{fetched: make(chan struct{}), seen: make(map[string]bool), alive: make(chan struct{}, 1), guess: make(chan struct{}, 1)}
}

// learn has the swarm asked when messages end that another device has read.
func (h *sharing) learn(list []archive.Message) {
	if len(list) == 0 {
		return
	}
	h.mu.Lock()
	h.guessed = append(h.guessed, list[:min(len(list), max(0, elsewhereMost-len(h.guessed)))]...)
	h.mu.Unlock()
	nudge(h.guess)
}

func (h *sharing) guesses() []archive.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := h.guessed
	h.guessed = nil
	return list
}

// onConfigs has f called after a merge has changed configs, with which ones. It is
// called outside of all locks, by whoever polls, and must not wait for the network.
func (s *session) onConfigs(f func(kinds []config.Kind)) {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.shared.hooks = append(s.shared.hooks, f)
}

// inbox is the namespace of messages; ownSpaces are all that are looked into, in
// ascending order, and configSpaces those of the configs.
const inbox int16 = 0

var configSpaces, ownSpaces = func() (spaces, all []int16) {
	for _, kind := range archive.ConfigKinds {
		spaces = append(spaces, kind.Namespace())
	}
	slices.Sort(spaces)
	return spaces, append([]int16{inbox}, spaces...)
}()

func configKind(namespace int16) (config.Kind, bool) {
	for _, kind := range archive.ConfigKinds {
		if kind.Namespace() == namespace {
			return kind, true
		}
	}
	return 0, false
}

// lasts is where to go on in namespaces at a member.
func (s *session) lasts(node swarm.Node, namespaces []int16) []string {
	last := make([]string, len(namespaces))
	for i, ns := range namespaces {
		last[i] = s.archive.Last(archive.Place{Node: node.Ed25519, Namespace: ns})
	}
	return last
}

// fetchFrom reads what one member has that is new in namespaces, page by page.
func (s *session) fetchFrom(ctx context.Context, node swarm.Node, namespaces []int16) error {
	for range pollPages {
		last := s.lasts(node, namespaces)
		pages, err := s.box.RetrieveAll(ctx, mailbox.Own(s.own), node, namespaces, last)
		if err != nil {
			return err
		}
		if _, err := s.takePages(node, pages); err != nil {
			return err
		}
		var further []int16
		for i, p := range pages {
			if n := len(p.Messages); p.More && n > 0 && p.Messages[n-1].Hash != last[i] {
				further = append(further, namespaces[i])
			}
		}
		if namespaces = further; len(further) == 0 {
			return nil
		}
	}
	return nil
}

// takePages takes in what a member gave, the configs first, and reports whether
// there was news.
func (s *session) takePages(node swarm.Node, pages []mailbox.Page) (news bool, err error) {
	if news, err = s.takeConfigs(node, pages); err != nil {
		return news, err
	}
	for _, p := range pages {
		if p.Namespace != inbox || len(p.Messages) == 0 {
			continue
		}
		hashes := make([]string, len(p.Messages))
		for i, m := range p.Messages {
			hashes[i] = m.Hash
		}
		news = news || slices.Contains(s.archive.Seen(hashes), false)
		if err := s.take(archive.Place{Node: node.Ed25519}, p.Messages); err != nil {
			return news, err
		}
	}
	return news, nil
}

func (s *session) takeConfigs(node swarm.Node, pages []mailbox.Page) (news bool, err error) {
	var fetched []archive.ConfigFetch
	var fresh []string
	for _, p := range pages {
		kind, ok := configKind(p.Namespace)
		if !ok || len(p.Messages) == 0 {
			continue
		}
		f := archive.ConfigFetch{Kind: kind, Place: archive.Place{Node: node.Ed25519, Namespace: p.Namespace}}
		f.Last = p.Messages[len(p.Messages)-1].Hash
		s.shared.mu.Lock()
		for _, m := range p.Messages {
			if !s.shared.seen[m.Hash] {
				f.Messages = append(f.Messages, config.Message{Hash: m.Hash, Data: m.Data})
				f.Sent = max(f.Sent, m.Timestamp)
				fresh = append(fresh, m.Hash)
			}
		}
		s.shared.mu.Unlock()
		fetched = append(fetched, f)
	}
	if len(fetched) == 0 {
		return false, nil
	}
	result, err := s.archive.MergeConfigs(fetched)
	if err != nil {
		s.diskFailed(err)
		return false, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	s.diskFailed(nil)
	s.remember(fresh)
	for _, err := range result.Configs.Refused {
		s.log.Warn("config of another device left alone", "err", err)
	}
	s.configsChanged(result)
	return len(fresh) > 0, nil
}

// remember notes messages that were merged, so that the other members' copies cost
// nothing.
func (s *session) remember(hashes []string) {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	if len(s.shared.seen)+len(hashes) > configSeen {
		clear(s.shared.seen) // merging once more does no harm
	}
	for _, h := range hashes {
		s.shared.seen[h] = true
	}
}

// configsChanged tells about what other devices did.
func (s *session) configsChanged(result archive.Result) {
	news := result.Configs
	if len(news.Kinds) == 0 {
		return
	}
	s.log.Info("configs changed by another device", "count", len(news.Kinds))
	if slices.Contains(news.Kinds, config.UserProfile) {
		s.reloadProfile()
	}
	if slices.Contains(news.Kinds, config.DeviceList) {
		nudge(s.shared.alive) // one that leaves has the swarm delete everything
	}
	if len(result.Changed) > maxTold {
		result.Changed = result.Changed[:maxTold] // the contacts have what counts
	}
	s.publish(result)
	s.tellContacts(news.Contacts)
	for _, d := range news.Devices {
		s.m.events.publish(&api.Event{Event: &api.Event_Device{Device: apiDevice(d, [32]byte{}, true)}})
	}
	s.shared.mu.Lock()
	hooks := slices.Clone(s.shared.hooks)
	s.shared.mu.Unlock()
	for _, f := range hooks {
		f(news.Kinds)
	}
	nudge(s.expiry)
	s.m.publishState()
}

func (s *session) reloadProfile() {
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.archive.Profile()
	if err != nil {
		s.diskFailed(err)
		return
	}
	s.setProfile(p)
	s.m.events.publish(&api.Event{Event: &api.Event_Settings{Settings: s.apiSettings()}})
}

// setProfile is what goes out with messages from now on. Until the owner has chosen
// a name, on whatever device, the configured one does.
func (s *session) setProfile(p archive.Profile) {
	if p.Name == "" && p.Since == 0 {
		p.Name = s.m.cfg.DisplayName
	}
	s.mu.Lock()
	s.profile = p
	s.mu.Unlock()
}

func (s *session) tellContacts(ids []account.ID) {
	slices.SortFunc(ids, func(x, y account.ID) int { return slices.Compare(x[:], y[:]) })
	ids = slices.Compact(ids)
	if len(ids) == 0 {
		return
	}
	e := &api.ContactsEvent{}
	for i, id := range ids {
		if i == maxTold {
			e.More = true
			break
		}
		if c, ok := s.archive.Contact(id); ok {
			e.Changed = append(e.Changed, s.apiContact(c))
		} else {
			e.Gone = append(e.Gone, id.String())
		}
	}
	s.m.events.publish(&api.Event{Event: &api.Event_Contacts{Contacts: e}})
}

// fetchConfigs is the beginning of a session: all members are asked for configs
// before anybody is asked for messages. After a restoration one of them may be the
// only one that has the profile, and strangers are told from friends by the
// contacts.
func (s *session) fetchConfigs(ctx context.Context, members []swarm.Node) error {
	var failed []error
	answered := false
	for part := range slices.Chunk(members, pollMembers) {
		errs := make([]error, len(part))
		var wait sync.WaitGroup
		for i, node := range part {
			wait.Go(func() { errs[i] = s.fetchFrom(ctx, node, configSpaces) })
		}
		wait.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		for _, err := range errs {
			answered = answered || err == nil
		}
		failed = append(failed, errs...)
	}
	if err := errors.Join(failed...); !answered || errors.Is(err, path.ErrWrongSwarm) || errors.Is(err, ErrDisk) {
		return err
	}
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	if !s.shared.known {
		s.shared.known = true
		close(s.shared.fetched)
	}
	return nil
}

// configsPolled is for after a round that has merged what there was.
func (s *session) configsPolled() error {
	again, err := s.archive.ConfigsPolled()
	if err != nil {
		s.diskFailed(err)
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	if again {
		nudge(s.wake)
	}
	return nil
}

// keepConfigs brings changes to the swarm until ctx ends, and lets what is there
// not end. It begins when what the swarm has is known.
func (s *session) keepConfigs(ctx context.Context) {
	select {
	case <-s.shared.fetched:
	case <-ctx.Done():
		return
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { s.keepAlive(ctx) })
	s.firstName()
	nudges := s.archive.Pushes()
	failed := 0
	for ctx.Err() == nil {
		kicked := s.outbox.kicked()
		err := s.pushConfigs(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("storing configs", "err", err)
			pause := min(configFirst<<min(failed, 10), retryLongest)
			failed++
			timer := time.NewTimer(pause*3/4 + rand.N(pause/2)) // devices that met come apart
			select {
			case <-timer.C:
			case <-kicked:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		failed = 0
		select {
		case <-nudges:
		case <-ctx.Done():
			return
		}
		if mailbox.Pause(ctx, configGather) != nil {
			return
		}
	}
}

// awaitConfigs waits until it is known what other devices have stored, for as long
// as one waits for the network.
func (s *session) awaitConfigs(ctx context.Context) error {
	timer := time.NewTimer(sendPatience)
	defer timer.Stop()
	select {
	case <-s.shared.fetched:
	case <-timer.C:
	case <-ctx.Done():
		return forCaller(ErrNetwork, ctx.Err())
	}
	return nil
}

// firstName makes the configured name the owner's when no device has another.
func (s *session) firstName() {
	s.changing.Lock()
	defer s.changing.Unlock()
	p, err := s.archive.Profile()
	if err == nil && p.Since == 0 && p.Name == "" && s.m.cfg.DisplayName != "" {
		p, err = s.archive.SetProfile(s.m.cfg.DisplayName)
	}
	if err != nil {
		s.diskFailed(err)
		return
	}
	s.setProfile(p)
}

// pushConfigs stores what the swarm does not have, and then has it delete what that
// replaces. When a member has stored it, it is done: what another device has stored
// at the same moment comes with the next round and is merged.
func (s *session) pushConfigs(ctx context.Context) error {
	list, err := s.archive.PushConfigs()
	if err != nil {
		s.diskFailed(err)
		return err
	}
	if len(list) == 0 {
		return nil
	}
	return s.storeConfigs(ctx, list)
}

func (s *session) storeConfigs(ctx context.Context, list []archive.ConfigPush) (err error) {
	var items []mailbox.Item
	var obsolete []string
	for _, p := range list {
		for _, part := range p.Parts {
			items = append(items, mailbox.Item{Namespace: p.Namespace, Data: part, TTL: configTTL})
		}
		obsolete = append(obsolete, p.Obsolete...)
	}
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	members, _, err := s.box.Swarm(ctx, s.own.ID())
	if err != nil {
		return err
	}
	for _, node := range members[:min(len(members), configTries)] {
		var hashes []string
		var done bool
		hashes, done, err = s.box.Sequence(ctx, mailbox.Own(s.own), node, items, nil, obsolete)
		stored, confirmErr := s.confirmConfigs(list, hashes, done)
		switch {
		case confirmErr != nil:
			s.diskFailed(confirmErr)
			return fmt.Errorf("%w: %w", ErrDisk, confirmErr)
		case stored: // what could not be deleted is in the way of nobody, and goes with the next push
			s.m.publishState()
			nudge(s.wake) // what came to the swarm at the same moment
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.log.Debug("storing configs again", "err", err)
	}
	return err
}

// confirmConfigs notes what of the pushes was stored, and reports whether that is
// all.
func (s *session) confirmConfigs(list []archive.ConfigPush, hashes []string, deleted bool) (all bool, err error) {
	all = true
	for _, p := range list {
		if len(hashes) < len(p.Parts) {
			return false, nil
		}
		mine := hashes[:len(p.Parts)]
		hashes = hashes[len(p.Parts):]
		if slices.Contains(mine, "") {
			all = false
			continue
		}
		var gone []string
		if deleted {
			gone = p.Obsolete
		}
		if err := s.archive.ConfirmConfig(p.Kind, p.Seqno, mine, gone); err != nil {
			return false, err
		}
		s.remember(mine)
	}
	return all, nil
}

// keepAlive extends the lives of the configs in the swarm, long before they end,
// until ctx ends. What the swarm has lost, for example while this device was away
// for longer than that, it gets again.
func (s *session) keepAlive(ctx context.Context) {
	for {
		if err := s.signIn(); err != nil {
			s.diskFailed(err)
		}
		pause := configExtend
		if err := s.extendConfigs(ctx); err != nil {
			s.log.Warn("extending the lives of configs", "err", err)
			pause = retryLongest
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.shared.alive:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (s *session) extendConfigs(ctx context.Context) error {
	active, current := s.archive.ActiveConfigs()
	lost := make(map[string]bool)
	for part := range slices.Chunk(active, configAsked) {
		expiry := s.clock.Now().Add(configTTL).UnixMilli()
		if err := s.box.Extend(ctx, mailbox.Own(s.own), part, expiry); err != nil {
			return err
		}
		ends, err := s.box.Expiries(ctx, s.own, part)
		if err != nil {
			return err
		}
		for _, h := range part {
			if _, ok := ends[h]; !ok && slices.Contains(current, h) {
				lost[h] = true
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	s.log.Warn("the swarm has lost configs, which are stored again", "count", len(lost))
	list, err := s.archive.RepeatConfigs(lost)
	if err != nil {
		return err
	}
	return s.storeConfigs(ctx, list)
}

// MarkUnread marks a conversation by hand, on all devices, until it is read.
func (m *Messenger) MarkUnread(ctx context.Context, req *api.WhoRequest) (*api.Contact, error) {
	return m.decide(ctx, req, func(s *session, id account.ID, c archive.Contact) (archive.Contact, error) {
		if !c.Approved && id != s.own.ID() {
			return c, ErrUnknown
		}
		return s.archive.MarkUnread(id)
	})
}

// deviceName is what this device is called until the owner calls it something else.
func (s *session) deviceName() (name, kind string) {
	name, kind = tidyName(s.m.cfg.DeviceName), tidyName(s.m.cfg.DeviceKind)
	if name == "" {
		name = "Hearth"
	}
	return name, strings.TrimSpace(kind)
}

func (s *session) signIn() error {
	name, kind := s.deviceName()
	return s.archive.SignIn(name, kind)
}
