package messenger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hearth/node/account"
	"hearth/node/config"
	"hearth/node/group"
	"hearth/node/messenger/archive"
	"hearth/node/messenger/mailbox"
	"hearth/node/messenger/path"
	"hearth/node/swarm"
)

const (
	groupTries  = 4  // members asked in one round until one answers
	groupSteps  = 12 // pushes of one round
	groupPages  = 50
	groupTokens = 3 // members that refuse the owner, after which that is believed

	groupLimit   = 3 * time.Minute    // for one round
	groupBusy    = 5 * time.Minute    // how long polling is quick while something has to be stored
	groupStirred = 30 * time.Second   // after a message, how long it is quick
	groupLively  = 2 * 24 * time.Hour // after a message, how long it is as for the own swarm
	groupDull    = 7 * 24 * time.Hour // and how long it is medium
	groupMedium  = 12                 // times the interval (Session desktop: 60 s)
	groupSlow    = 24                 // times the interval (Session desktop: 120 s)
	groupRenewal = 24 * time.Hour     // between extensions of lifetimes
	groupLast    = 16                 // members of a swarm whose last hashes are kept
)

// In the order in which they are asked: what the keys open must not come after them,
// or a key that is stored meanwhile would be missed (Session desktop).
var groupSpaces = []int16{group.Revoked, group.Messages, config.GroupInfo.Namespace(), config.GroupMembers.Namespace(), group.KeyList}

// keep asks the swarm of the group until ctx ends.
func (c *circle) keep(ctx context.Context) {
	s := c.s
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	s.log.Info("polling a group")
	defer s.log.Info("polling of a group ended")
	for {
		select {
		case s.groups.polls <- struct{}{}:
		case <-ctx.Done():
			return
		}
		limited, cancel := context.WithTimeout(ctx, groupLimit)
		err := c.round(limited)
		cancel()
		<-s.groups.polls
		if ctx.Err() != nil {
			return
		}
		wait := c.rounded(err)
		c.tell()
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// rounded notes how a round went and gives the time until the next.
func (c *circle) rounded(err error) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.turned)
	c.turned = make(chan struct{})
	interval := c.s.m.cfg.PollInterval
	if err != nil {
		c.failed++
		c.trouble = "the group's swarm does not answer"
		if errors.Is(err, path.ErrTooFewNodes) {
			c.trouble = "too few service nodes"
		}
		if c.failed%pollRenew == 0 {
			nudge(c.s.renew)
		}
		c.s.log.Warn("polling a group", "err", err)
		return max(interval, min(interval<<min(c.failed-1, 10), pollLongest))
	}
	if c.failed > 0 || !c.asked {
		c.s.outbox.again()
	}
	c.failed, c.trouble, c.asked = 0, "", true
	quiet := c.s.m.cfg.Now().Sub(c.active)
	if c.busy() && quiet < groupBusy {
		return min(pollFast, interval)
	}
	if pause, told := c.ear.pause(interval); told {
		return pause
	}
	switch {
	case quiet < groupStirred:
		return min(pollFast, interval)
	case quiet < groupLively:
		return interval
	case quiet < groupDull:
		return groupMedium * interval
	}
	return groupSlow * interval
}

// round asks one member of the swarm for what is new, and stores there what has to
// be stored; and others when it does not answer.
func (c *circle) round(ctx context.Context) error {
	err := c.ask(ctx)
	if errors.Is(err, path.ErrWrongSwarm) && ctx.Err() == nil {
		err = c.ask(ctx)
	}
	return err
}

func (c *circle) ask(ctx context.Context) error {
	members, all, err := c.s.box.Swarm(ctx, c.id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	prefer := c.prefer
	c.prefer = path.Key{}
	c.mu.Unlock()
	// Where the ear is, there is nothing to be found that it has not told of.
	heard, told := c.ear.at()
	rank := func(n swarm.Node) int {
		switch {
		case n.Ed25519 == prefer:
			return 0
		case told && n.Ed25519 == heard:
			return 2
		}
		return 1
	}
	slices.SortStableFunc(members, func(a, b swarm.Node) int { return rank(a) - rank(b) })
	for _, node := range members[:min(len(members), groupTries)] {
		if err = c.visit(ctx, node, all); err == nil || ctx.Err() != nil || errors.Is(err, ErrDisk) {
			return err
		}
	}
	return err
}

// visit fetches what one member has, and stores what follows, as often as
// something does.
func (c *circle) visit(ctx context.Context, node swarm.Node, swarmSize int) error {
	stored := false
	for range groupSteps {
		if err := c.fetch(ctx, node, swarmSize); err != nil {
			return err
		}
		more, err := c.push(ctx, node)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		stored = true
	}
	if stored {
		c.s.outbox.again() // what waited for a key can go
	}
	if err := c.invite(); err != nil {
		return err
	}
	if done, err := c.leave(); done || err != nil {
		return err
	}
	return c.renew(ctx)
}

// signer signs requests to the swarm. The error is errOver for a group that is over.
func (c *circle) signer() (*group.Signer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.g == nil || c.rec.Over != archive.NotOver {
		return nil, errOver
	}
	return c.g.Signer()
}

func placeOf(node path.Key, namespace int16) string {
	return hex.EncodeToString(node[:]) + "/" + strconv.Itoa(int(namespace))
}

func (c *circle) lasts(node path.Key, namespaces []int16) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := make([]string, len(namespaces))
	for i, ns := range namespaces {
		last[i] = c.rec.Last[placeOf(node, ns)]
	}
	return last
}

// fetch reads what is new at one member, page by page.
func (c *circle) fetch(ctx context.Context, node swarm.Node, swarmSize int) error {
	who, err := c.signer()
	if err != nil {
		return nil // over: nothing is to be done
	}
	for range groupPages {
		pages, err := c.s.box.RetrieveAll(ctx, who, node, groupSpaces, c.lasts(node.Ed25519, groupSpaces))
		if err != nil {
			return err
		}
		more, err := c.take(node.Ed25519, pages, swarmSize)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// take has package group read what was fetched, writes down what came of it, and
// then tells about it.
func (c *circle) take(node path.Key, pages []mailbox.Page, swarmSize int) (more bool, err error) {
	s := c.s
	c.mu.Lock()
	if c.g == nil {
		c.mu.Unlock()
		return false, nil
	}
	before := c.rec.Last
	after := make(map[string]string, len(before)+len(pages))
	for k, v := range before {
		after[k] = v
	}
	var fetched []group.Fetched
	refused, news := 0, false
	for _, p := range pages {
		if p.Refused {
			refused++
		}
		var seen []bool
		if p.Namespace == group.Messages && len(p.Messages) > 0 {
			hashes := make([]string, len(p.Messages))
			for i, m := range p.Messages {
				hashes[i] = m.Hash
			}
			seen = s.archive.Seen(hashes)
		}
		for i, m := range p.Messages {
			if seen == nil || !seen[i] {
				fetched = append(fetched, group.Fetched{Namespace: p.Namespace, Hash: m.Hash, At: m.Timestamp, Data: m.Data})
			}
		}
		if n := len(p.Messages); n > 0 {
			place := placeOf(node, p.Namespace)
			more = more || p.More && after[place] != p.Messages[n-1].Hash
			after[place] = p.Messages[n-1].Hash
			news = true
		}
	}
	boundLast(after, node)
	out := c.g.Merge(fetched)
	var step archive.GroupStep
	talk := false
	for _, m := range out.Messages {
		in := c.read(m)
		talk = talk || in.Message != nil
		step.Items = append(step.Items, in)
	}
	for _, r := range out.Refused {
		s.log.Warn("refused in a group", "hash", r.Hash, "err", r.Err)
		step.Items = append(step.Items, archive.Incoming{Hash: r.Hash})
	}
	if out.Err != nil {
		s.log.Error("making the next key of a group", "err", out.Err)
	}
	if out.Unlisted {
		s.log.Debug("not in the list of a group's members")
	}
	switch {
	case refused == 0:
		clear(c.refused)
	case !c.g.Admin():
		c.refused[node] = true
	}
	over := c.isOver(out, swarmSize)
	if over != archive.NotOver && c.rec.Leaving {
		// The others know: there is nothing left to wait for.
		c.mu.Unlock()
		return false, c.s.forgetCircle(c)
	}
	if !news && len(fetched) == 0 && over == archive.NotOver && !c.g.NeedsDump() {
		c.mu.Unlock()
		return false, nil
	}
	c.rec.Last = after
	c.rec.Waiting = out.Waiting > 0
	if over != archive.NotOver {
		c.end(over, &step)
	}
	result, err := c.save(step)
	if err != nil {
		// It will be fetched once more; what the group has taken in already changes
		// nothing then.
		c.rec.Last = before
		c.mu.Unlock()
		s.diskFailed(err)
		return false, err
	}
	if talk {
		c.active = s.m.cfg.Now()
	}
	erased, err := c.deleteOld()
	c.mu.Unlock()
	s.diskFailed(err)
	s.publish(result)
	s.publish(erased)
	if over != archive.NotOver {
		s.outbox.again() // what waits never arrives
		c.tell()
	}
	if n := len(result.Added); n > 0 {
		s.log.Info("messages received", "count", n)
	}
	return more && over == archive.NotOver, err
}

// boundLast forgets where to go on at members of former swarms.
func boundLast(last map[string]string, node path.Key) {
	if len(last) <= groupLast*len(groupSpaces) {
		return
	}
	own := hex.EncodeToString(node[:])
	for k := range last {
		if !strings.HasPrefix(k, own) {
			delete(last, k)
		}
	}
}

// isOver finds out whether the group has ended, for the owner or for everybody. The
// caller holds c.mu.
func (c *circle) isOver(out group.Merged, swarmSize int) archive.Over {
	switch {
	case out.Destroyed && !c.g.NeedsPush():
		return archive.Destroyed
	case out.Kicked, len(c.refused) >= min(groupTokens, max(swarmSize, 1)):
		return archive.Kicked
	}
	return archive.NotOver
}

// end is for a group that is over: what gave access is forgotten, and a line says
// so. The caller holds c.mu, and saves.
func (c *circle) end(why archive.Over, step *archive.GroupStep) {
	kind := archive.KindGroupKicked
	c.learnNames()
	step.Face = c.face()
	if why == archive.Destroyed {
		kind = archive.KindGroupDestroyed
		c.entry.MarkDestroyed()
	} else {
		c.entry.MarkKicked()
	}
	c.entry.Name = c.name()
	now := c.s.clock.Now().UnixMilli()
	step.Items = append(step.Items, archive.Incoming{With: c.id, Sent: now, Message: &archive.Message{
		With: c.id, Kind: kind, Timestamp: now, Read: true}})
	step.List = putListed(c.entry)
	c.rec = archive.Group{ID: c.id, Over: why, Names: c.rec.Names}
	c.halt()
}

// deleteOld deletes what admins want to be deleted by its age. The caller holds
// c.mu.
func (c *circle) deleteOld() (archive.Result, error) {
	if c.g == nil {
		return archive.Result{}, nil
	}
	info := c.g.Info()
	latest := c.s.clock.Now().Unix()
	before := max(c.rec.Before, 1000*min(info.DeleteBefore(), latest))
	files := max(c.rec.FilesBefore, 1000*min(info.DeleteFilesBefore(), latest))
	if before == c.rec.Before && files == c.rec.FilesBefore {
		return archive.Result{}, nil
	}
	return c.s.archive.DeleteBefore(&c.rec, before, files)
}

// push stores at one member what has to be stored, in one sequence, and says
// whether there is reason to fetch again.
func (c *circle) push(ctx context.Context, node swarm.Node) (more bool, err error) {
	who, err := c.signer()
	if err != nil {
		return false, nil
	}
	c.mu.Lock()
	if c.g == nil || !c.g.NeedsPush() {
		c.mu.Unlock()
		return false, nil
	}
	p, err := c.g.Push()
	c.mu.Unlock()
	if errors.Is(err, group.ErrNoKey) {
		return false, nil // its key has yet to come
	}
	if err != nil {
		return false, fmt.Errorf("what a group has to store: %w", err)
	}
	items := make([]mailbox.Item, len(p.Stores))
	for i, st := range p.Stores {
		items[i] = mailbox.Item{Namespace: st.Namespace, Data: st.Data, TTL: st.TTL}
	}
	calls := make([]mailbox.Call, len(p.Requests))
	for i, r := range p.Requests {
		calls[i] = mailbox.Call{Method: r.Method, Params: r.Params}
	}
	hashes, done, err := c.s.box.Sequence(ctx, who, node, items, calls, p.Obsolete)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.g == nil {
		return false, err
	}
	if confirmErr := c.g.Confirm(p, hashes, done); confirmErr != nil {
		c.s.log.Error("making the next key of a group", "err", confirmErr)
	}
	if _, saveErr := c.save(archive.GroupStep{}); saveErr != nil {
		c.s.diskFailed(saveErr)
		return false, saveErr
	}
	return err == nil, err
}

// untold are the members whom this device has to tell that they are invited, or
// admins. The caller holds c.mu.
func (c *circle) untold() (list []config.Member) {
	if !c.g.Admin() {
		return nil
	}
	for m := range c.g.Members().All() {
		if m.OnTheWay && m.Removal == config.Stays && (m.Admin && m.Promotion != config.Accepted || !m.Admin && m.Invite != config.Accepted) {
			list = append(list, m)
		}
	}
	return list
}

// invite puts invitations and promotions into the outbox, when the swarm has
// everything that they need.
func (c *circle) invite() error {
	c.mu.Lock()
	if c.g == nil || c.g.NeedsPush() || !c.s.clock.Known() {
		c.mu.Unlock()
		return nil
	}
	untold := c.untold()
	if len(untold) == 0 {
		c.mu.Unlock()
		return nil
	}
	var step archive.GroupStep
	for _, m := range untold {
		p, err := c.invitation(m.ID)
		c.g.Members().SetOnTheWay(m.ID, false)
		if noteErr := c.g.Invited(m.ID, err == nil); noteErr != nil {
			c.s.log.Warn("noting an invitation", "err", groupError(noteErr))
		}
		if err != nil {
			c.s.log.Warn("inviting a member", "err", groupError(err))
			continue
		}
		step.Parcels = append(step.Parcels, p)
	}
	result, err := c.save(step)
	c.mu.Unlock()
	if err != nil {
		c.s.diskFailed(err)
		return err
	}
	c.s.publish(result)
	nudge(c.wake) // others learn of it, too
	return nil
}

func (c *circle) invitation(to account.ID) (archive.Parcel, error) {
	at := c.s.stamp()
	u, err := c.g.Invitation(to, uint64(at.ms))
	if err != nil {
		return archive.Parcel{}, err
	}
	content := group.Content(u, uint64(at.ms))
	content.DataMessage.Profile, content.DataMessage.ProfileKey = c.s.ownProfile()
	p, err := c.s.parcel(to, content, at, mailbox.TTL)
	p.Fixed = true
	return p, err
}

// leave forgets the group when the others have been told.
func (c *circle) leave() (done bool, err error) {
	c.mu.Lock()
	ready := c.rec.Leaving && c.g != nil && !c.g.NeedsPush()
	c.mu.Unlock()
	if !ready {
		return false, nil
	}
	return true, c.s.forgetCircle(c)
}

// renew has the swarm keep keys, info and members for longer, once a day.
func (c *circle) renew(ctx context.Context) error {
	who, err := c.signer()
	if err != nil {
		return nil
	}
	now := c.s.clock.Now()
	c.mu.Lock()
	var hashes []string
	if c.g != nil && now.Sub(time.UnixMilli(c.rec.Renewed)).Abs() >= groupRenewal {
		hashes = c.g.ActiveHashes()
	}
	c.mu.Unlock()
	if len(hashes) == 0 {
		return nil
	}
	if err := c.s.box.Extend(ctx, who, hashes, now.Add(group.ConfigLife).UnixMilli()); err != nil {
		c.s.log.Debug("extending the lifetime of a group", "err", err)
		return nil // they live for a month, and this is tried at the next round
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.g == nil {
		return nil
	}
	c.rec.Renewed = now.UnixMilli()
	_, err = c.save(archive.GroupStep{})
	return err
}

// keepHearing waits for messages at one member of the swarm, as the own swarm's are
// waited for, until ctx ends. Only so many groups have that at a time.
func (c *circle) keepHearing(ctx context.Context) {
	select {
	case c.s.groups.ears <- struct{}{}:
		defer func() { <-c.s.groups.ears }()
	case <-ctx.Done():
		return
	}
	select {
	case <-c.s.polledOnce: // the own messages come first
	case <-ctx.Done():
		return
	}
	c.ear.keep(ctx)
}

var heardSpaces = slices.Sorted(slices.Values(groupSpaces))

// askMember is what the ear at a group's swarm asks. What is new a round fetches, in
// the order that the keys need.
func (c *circle) askMember(ctx context.Context, member swarm.Node, wait time.Duration) (news bool, err error) {
	who, err := c.signer()
	if err != nil {
		return false, err
	}
	last := c.lasts(member.Ed25519, heardSpaces)
	told, err := c.s.box.AwaitMessages(ctx, who, member, heardSpaces, last, wait)
	if err != nil || !told {
		return false, err
	}
	c.mu.Lock()
	c.prefer = member.Ed25519
	turned := c.turned
	c.mu.Unlock()
	nudge(c.wake)
	select {
	case <-turned:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return !slices.Equal(last, c.lasts(member.Ed25519, heardSpaces)), nil
}
