package messenger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/keys"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/path"
)

// A closed group is a conversation in a swarm of its own. What it consists of is in
// package group, which knows no network; here it is driven. Each group that the
// owner is in has a circle, whose goroutine asks the group's swarm (group_poll.go),
// has package group take in what is there, stores what follows from that, and
// writes the messages down (group_read.go). Messages of the owner go through the
// outbox as those to people do. Which groups there are is in the list that the
// account's devices share (group_list.go).

const (
	maxGroups      = 500 // of one account
	maxInvitations = 100 // that wait for an answer; the oldest gives way
	maxGroupPolls  = 4   // groups that are asked at a time
	maxGroupEars   = 6   // groups at whose swarms a request waits
)

// groups are the groups of the account.
type groups struct {
	polls chan struct{} // one token for each round under way
	ears  chan struct{} // one token for each request that waits

	invited atomic.Uint32 // groups that wait for the owner's answer

	mu    sync.Mutex
	run   context.Context // nil while nothing is to be asked
	tasks sync.WaitGroup
	all   map[account.ID]*circle
	kept  map[account.ID]archive.Group // of groups that the list does not have yet
}

func newGroups() *groups {
	return &groups{polls: make(chan struct{}, maxGroupPolls), ears: make(chan struct{}, maxGroupEars), all: make(map[account.ID]*circle)}
}

// circle is one group.
type circle struct {
	s  *session
	id account.ID

	wake chan struct{} // asks for a round at once
	ear  *ear          // at the group's swarm

	// mu is held while the group is looked at or changed, and never while the
	// network is asked.
	mu      sync.Mutex
	g       *group.Group // nil unless the owner is in
	rec     archive.Group
	entry   config.Group // of the list
	stop    context.CancelFunc
	turned  chan struct{} // closed and replaced after each round
	failed  int           // rounds in a row
	trouble string
	refused map[path.Key]bool // members that do not let the owner in
	prefer  path.Key          // the member that has news
	active  time.Time         // when somebody last said something, by this machine's clock
	shown   *api.Group        // as it was last told
	asked   bool              // the swarm has answered since the start
}

// isGroup tells a group from a person.
func isGroup(id account.ID) bool { return id.Prefix() == account.PrefixGroup }

// openGroups makes the circles of what is on the disk.
func (s *session) openGroups() error {
	kept, err := s.archive.Groups()
	if err != nil {
		return err
	}
	recs := make(map[account.ID]archive.Group)
	s.onConfigs(func(kinds []config.Kind) {
		if slices.Contains(kinds, config.UserGroups) {
			s.groupsChanged()
		}
	})
	for _, rec := range kept {
		recs[rec.ID] = rec
	}
	for _, entry := range s.listedGroups() {
		rec, ok := recs[entry.ID]
		if !ok {
			rec = archive.Group{ID: entry.ID}
		}
		delete(recs, entry.ID)
		c := s.newCircle(rec, entry)
		s.groups.all[entry.ID] = c
		c.open()
	}
	if slices.Contains(s.archive.DamagedConfigs(), config.UserGroups) {
		s.groups.kept = recs // the list comes back
		return nil
	}
	// Another device has left them, and a power cut came in between.
	for id := range recs {
		if err := s.archive.ForgetGroup(id); err != nil {
			return err
		}
	}
	s.countInvitations()
	return nil
}

func (s *session) newCircle(rec archive.Group, entry config.Group) *circle {
	c := &circle{s: s, id: entry.ID, rec: rec, entry: entry, wake: make(chan struct{}, 1), turned: make(chan struct{}), refused: make(map[path.Key]bool)}
	c.ear = &ear{s: s, owner: c.id, ask: c.askMember, poll: c.wake}
	return c
}

func (c *circle) options() (group.Options, error) {
	o := group.Options{ID: c.id, Own: c.s.own.Keys(), Now: c.s.clock.Now, Rand: c.s.m.cfg.Rand}
	if c.entry.Admin {
		o.Seed = keys.FromSeed([32]byte(c.entry.Seed))
		return o, nil
	}
	var err error
	o.Auth, err = group.ParseAuth(c.entry.Auth)
	return o, err
}

// open loads what is known of the group, if the owner is in. A dump that cannot be
// read is as good as none: the swarm has everything.
func (c *circle) open() {
	if c.rec.Waiting {
		c.rec.Last, c.rec.Waiting = nil, false
	}
	if !isIn(c.entry) {
		return
	}
	o, err := c.options()
	if err == nil && c.rec.Dump != nil {
		if c.g, err = group.Load(o, c.rec.Dump); err != nil {
			c.s.log.Warn("what is kept of a group is damaged: starting from its swarm", "err", err)
			c.rec.Last = nil
		}
	}
	if err == nil && c.g == nil || c.rec.Dump != nil && errors.Is(err, group.ErrMalformed) {
		c.g, err = group.New(o)
	}
	if err != nil {
		c.g = nil
		c.trouble = "what lets you into this group is damaged"
		c.s.log.Error("opening a group", "err", err)
	}
}

// keepGroups asks the swarms of all groups until ctx ends.
func (s *session) keepGroups(ctx context.Context) {
	gs := s.groups
	gs.mu.Lock()
	gs.run = ctx
	for _, c := range gs.all {
		s.start(c)
	}
	gs.mu.Unlock()
	<-ctx.Done()
	gs.mu.Lock()
	gs.run = nil
	gs.mu.Unlock()
	gs.tasks.Wait()
}

// start lets a circle work, if it is the time and there is something to do. The
// caller holds the lock of the groups.
func (s *session) start(c *circle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.groups.run == nil || c.g == nil || c.stop != nil || c.rec.Over != archive.NotOver {
		return
	}
	ctx, cancel := context.WithCancel(s.groups.run)
	c.stop = cancel
	c.active = s.m.cfg.Now()
	s.groups.tasks.Go(func() { c.keep(ctx) })
	s.groups.tasks.Go(func() { c.keepHearing(ctx) })
}

// begin adds a circle, or lets one that is there go on.
func (s *session) begin(c *circle) {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	s.groups.all[c.id] = c
	s.start(c)
}

// circleOf finds a group, nil for none.
func (s *session) circleOf(id account.ID) *circle {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	return s.groups.all[id]
}

func (s *session) circles() []*circle {
	s.groups.mu.Lock()
	defer s.groups.mu.Unlock()
	list := make([]*circle, 0, len(s.groups.all))
	for _, c := range s.groups.all {
		list = append(list, c)
	}
	return list
}

// countInvitations counts the groups that wait for the owner's answer.
func (s *session) countInvitations() {
	n := uint32(0)
	defer func() { s.groups.invited.Store(n) }()
	for _, c := range s.circles() {
		c.mu.Lock()
		if c.state() == api.Group_INVITED {
			n++
		}
		c.mu.Unlock()
	}
}

// anyGroup finds the group that a text means, by its ID or by its name, whatever
// its state.
func (s *session) anyGroup(text string) (*circle, error) {
	text = strings.TrimSpace(text)
	if id, err := account.ParseID(text); err == nil {
		if c := s.circleOf(id); c != nil {
			return c, nil
		}
		return nil, ErrNoGroup
	}
	var found []*circle
	for _, c := range s.circles() {
		c.mu.Lock()
		if text != "" && strings.EqualFold(c.name(), text) {
			found = append(found, c)
		}
		c.mu.Unlock()
	}
	switch len(found) {
	case 0:
		return nil, ErrNoGroup
	case 1:
		return found[0], nil
	}
	// An invitation, or a group that is over, stands behind one that is alive.
	alive := slices.DeleteFunc(slices.Clone(found), func(c *circle) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.g == nil
	})
	if len(alive) == 1 {
		return alive[0], nil
	}
	return nil, ErrGroupAmbiguous
}

// dropCircle takes a circle out of the groups and ends its work.
func (s *session) dropCircle(c *circle) {
	s.groups.mu.Lock()
	if s.groups.all[c.id] == c {
		delete(s.groups.all, c.id)
	}
	s.groups.mu.Unlock()
	c.mu.Lock()
	c.halt()
	c.mu.Unlock()
	s.countInvitations()
}

// halt ends the work. The caller holds c.mu.
func (c *circle) halt() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	c.g = nil
	close(c.turned) // whoever waits for a round waits for nothing
	c.turned = make(chan struct{})
}

// groupsChanged takes in what other devices of the owner did to the list of groups.
func (s *session) groupsChanged() {
	seen := make(map[account.ID]bool)
	for _, entry := range s.listedGroups() {
		seen[entry.ID] = true
		c := s.circleOf(entry.ID)
		if c == nil {
			s.groups.mu.Lock()
			rec, ok := s.groups.kept[entry.ID]
			delete(s.groups.kept, entry.ID)
			s.groups.mu.Unlock()
			if !ok {
				rec = archive.Group{ID: entry.ID}
			}
			c = s.newCircle(rec, entry)
			c.open()
			c.greet()
			s.begin(c)
			c.tell()
			continue
		}
		c.mu.Lock()
		was := c.entry
		c.entry = entry
		switch {
		case c.g != nil && entry.Invited && entry.Removed == config.Staying:
			// Another device got the invitation when this one had accepted it: that
			// counts.
			c.entry.Invited = false
			if _, err := c.save(archive.GroupStep{List: putListed(c.entry)}); err != nil {
				s.diskFailed(err)
			}
		case c.g == nil && isIn(entry) && !isIn(was):
			c.rec = archive.Group{ID: c.id, Names: c.rec.Names}
			c.trouble = ""
			c.open()
		case c.g != nil && !isIn(entry):
			// Whatever the reason is, this device finds it out in the same way, with the
			// line that says so; without access it can only stop.
			c.halt()
		case c.g != nil && entry.Admin && !c.g.Admin():
			c.becomeAdmin()
		}
		c.mu.Unlock()
		s.begin(c)
		c.tell()
	}
	for _, c := range s.circles() {
		if seen[c.id] {
			continue
		}
		s.dropCircle(c)
		if err := s.archive.ForgetGroup(c.id); err != nil {
			s.diskFailed(err)
		}
	}
	s.m.publishState()
}

// becomeAdmin is for a seed that is in the list by now. The caller holds c.mu.
func (c *circle) becomeAdmin() {
	if err := c.g.LoadSeed(keys.FromSeed([32]byte(c.entry.Seed))); err != nil {
		c.s.log.Warn("a promotion with another group's seed", "err", err)
		return
	}
	// What was said to admins alone has to be read, too.
	c.rec.Last = nil
	nudge(c.wake)
}

// greet makes a conversation of a group that the owner is in.
func (c *circle) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.g == nil {
		return
	}
	if _, err := c.save(archive.GroupStep{}); err != nil {
		c.s.diskFailed(err)
	}
}

// save writes the group down. The caller holds c.mu, and publishes the result
// without it.
func (c *circle) save(step archive.GroupStep) (archive.Result, error) {
	if c.g != nil {
		dump, err := c.g.Dump()
		if err != nil {
			return archive.Result{}, err
		}
		c.rec.Dump = dump
		if step.Face == nil {
			step.Face = c.face()
		}
		c.learnNames()
	}
	result, err := c.s.archive.KeepGroup(&c.rec, step)
	if err != nil {
		return result, fmt.Errorf("%w: %w", ErrDisk, err)
	}
	return result, nil
}

// face is how the group shows in lists. The caller holds c.mu.
func (c *circle) face() *archive.Face {
	f := &archive.Face{Name: c.name()}
	if c.g == nil {
		return f
	}
	info := c.g.Info()
	if p := info.Picture(); isLink(p.URL) {
		f.PictureURL, f.PictureKey = p.URL, hex.EncodeToString(p.Key[:])
	}
	if t := info.Timer(); t > 0 {
		f.Timer = archive.Timer{Type: archive.TimerAfterSend, Seconds: uint32(min(t, 1<<31))}
	}
	return f
}

// name is what the group is called, as far as it is known. The caller holds c.mu.
func (c *circle) name() string {
	if c.g != nil {
		if name := tidyName(c.g.Info().Name()); name != "" {
			return name
		}
	}
	return tidyName(c.entry.Name)
}

const maxNames = 2 * group.MaxMembers // of people that are remembered for one group

// learnNames remembers what the list calls people, for when they are no longer in
// it. The caller holds c.mu.
func (c *circle) learnNames() {
	for m := range c.g.Members().All() {
		if _, known := c.rec.Names[m.ID]; !known && m.Name != "" {
			c.learnName(m.ID, m.Name)
		}
	}
}

func (c *circle) learnName(id account.ID, name string) {
	name = tidyName(name)
	if name == "" || c.rec.Names[id] == name {
		return
	}
	if c.rec.Names == nil || len(c.rec.Names) >= maxNames {
		c.rec.Names = make(map[account.ID]string)
	}
	c.rec.Names[id] = name
}

// nameOf is what to call somebody in a group: as the owner does, or as they call
// themselves, or nothing.
func (s *session) nameOf(in, who account.ID) string {
	contact, _ := s.archive.Contact(who)
	name := contact.DisplayName()
	if c := s.circleOf(in); c != nil && name == "" {
		c.mu.Lock()
		defer c.mu.Unlock()
		name = c.rec.Names[who]
	}
	return name
}

// called is [session.nameOf] in this group. The caller holds c.mu.
func (c *circle) called(who account.ID) string {
	if contact, _ := c.s.archive.Contact(who); contact.DisplayName() != "" {
		return contact.DisplayName()
	}
	return c.rec.Names[who]
}

// state is how the owner stands to the group. The caller holds c.mu.
func (c *circle) state() api.Group_State {
	switch {
	case c.rec.Leaving:
		return api.Group_LEAVING
	case c.rec.Over == archive.Destroyed || c.entry.Removed == config.Destroyed:
		return api.Group_DESTROYED
	case c.rec.Over == archive.Kicked || c.entry.Removed == config.Kicked:
		return api.Group_REMOVED
	case c.entry.Invited:
		return api.Group_INVITED
	}
	return api.Group_JOINED
}

// busy reports whether something of the group has still to be stored, or somebody
// to be told. The caller holds c.mu.
func (c *circle) busy() bool {
	return c.g != nil && (c.g.NeedsPush() || len(c.untold()) > 0)
}

// apiGroup shows the group. The caller holds c.mu; names and the conversation are
// filled in by [session.showGroup].
func (c *circle) apiGroup() *api.Group {
	g := &api.Group{Id: c.id.String(), Name: c.name(), State: c.state(), Waiting: c.busy(), Trouble: c.trouble}
	if g.State == api.Group_INVITED {
		g.InvitedBy, g.InvitedByName = c.rec.By.String(), c.rec.ByName
	}
	if c.g == nil {
		return g
	}
	info := c.g.Info()
	g.Admin = c.g.Admin()
	g.Description = info.Description()
	g.Picture = isLink(info.Picture().URL)
	g.Created = info.Created() * 1000
	g.Timer = apiTimer(c.face().Timer)
	for m := range c.g.Members().All() {
		g.Members = append(g.Members, &api.GroupMember{SessionId: m.ID.String(), Name: tidyName(m.Name), Status: memberStatus(m), Own: m.ID == c.s.own.ID()})
	}
	return g
}

func memberStatus(m config.Member) api.GroupMember_Status {
	switch m.Status() {
	case config.StatusInviteNotSent, config.StatusInviteSending:
		return api.GroupMember_INVITE_WAITING
	case config.StatusInviteSent:
		return api.GroupMember_INVITED
	case config.StatusInviteFailed:
		return api.GroupMember_INVITE_FAILED
	case config.StatusAdmin:
		return api.GroupMember_ADMIN
	case config.StatusPromotionNotSent, config.StatusPromotionSending, config.StatusPromotionSent, config.StatusPromotionFailed:
		return api.GroupMember_PROMOTED
	case config.StatusRemoved, config.StatusRemovedWithMessages:
		return api.GroupMember_REMOVED
	}
	return api.GroupMember_MEMBER
}

// showGroup is the group as it is now.
func (s *session) showGroup(c *circle) *api.Group {
	c.mu.Lock()
	g := c.apiGroup()
	c.mu.Unlock()
	for _, m := range g.Members {
		id, err := account.ParseID(m.SessionId)
		if err != nil {
			continue
		}
		if name := s.nameOf(c.id, id); name != "" {
			m.Name = name
		}
	}
	if talk, ok := s.archive.Contact(c.id); ok {
		g.Unread, g.LastText, g.LastTime = talk.Unread, talk.LastText, talk.LastTime
	}
	return g
}

// tell publishes the group when it is another than before.
func (c *circle) tell() {
	c.mu.Lock()
	now := c.apiGroup()
	same := c.shown != nil && proto.Equal(c.shown, now)
	c.shown = now
	c.mu.Unlock()
	if same {
		return
	}
	c.s.countInvitations()
	told := proto.CloneOf(now)
	told.Members = nil
	c.s.m.events.publish(&api.Event{Event: &api.Event_Group{Group: told}})
	c.s.m.publishState()
}
