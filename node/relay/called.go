package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"time"

	"hearth/node/rpc"
)

// leaveWait is how long a link that is to be closed stays open for what its caller
// had sent before it knew.
const leaveWait = 250 * time.Millisecond

// called is the end of a link that answers.
type called struct {
	server *Server
	out    sender
	key    [32]byte // of the caller

	mu      sync.Mutex
	jobs    map[uint32]*linkJob
	frames  uint64
	begun   uint64 // requests so far
	pulse   *time.Timer
	leaving bool
	ended   bool
	working sync.WaitGroup
	over    chan struct{} // closed at the end
}

// linkJob is a request of another node.
type linkJob struct {
	link    *called
	id      uint32
	command string
	began   time.Time
	body    gathered
	place   *slot
	held    *share
	late    *time.Timer // ends one that does not come to its end; nil for one that came at once
	working bool        // the request is complete
}

func newCalled(s *Server, conn net.Conn, key [32]byte) *called {
	l := &called{server: s, key: key, jobs: make(map[uint32]*linkJob), over: make(chan struct{})}
	l.out.conn = conn
	return l
}

// serveLink answers the requests on a link until it is closed.
func (s *Server) serveLink(l *called) {
	s.mu.Lock()
	open := !s.closed
	if open {
		s.called[l] = struct{}{}
	}
	s.mu.Unlock()
	l.mu.Lock()
	l.pulse = time.AfterFunc(linkTick, l.feelPulse(0, 0, 0, 0))
	l.mu.Unlock()
	if open {
		err := l.readFrames(bufio.NewReaderSize(l.out.conn, 4<<10))
		l.out.fail(fmt.Errorf("%w: %w", errLinkClosed, err))
	}
	l.out.end(errLinkClosed)

	l.mu.Lock()
	l.ended = true
	l.pulse.Stop()
	var unfinished []*linkJob
	for id, j := range l.jobs {
		if !j.working {
			unfinished = append(unfinished, j)
			delete(l.jobs, id)
		}
	}
	l.mu.Unlock()
	for _, j := range unfinished {
		j.free("aborted")
	}
	l.working.Wait()
	s.mu.Lock()
	delete(s.called, l)
	s.mu.Unlock()
	close(l.over)
}

func (l *called) readFrames(r *bufio.Reader) error {
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		l.out.heard()
		l.mu.Lock()
		l.frames++
		j := l.jobs[f.id]
		if j != nil && j.working && (f.kind == frameOpen || f.kind == frameMore) {
			err = errFrame
		}
		l.mu.Unlock()
		if err != nil {
			return err
		}
		switch f.kind {
		case frameOpen:
			if j != nil || f.size < 1 {
				return errFrame
			}
			n, err := r.ReadByte()
			if err != nil {
				return err
			}
			if f.size -= 1 + int(n); f.size < 0 {
				return errFrame
			}
			command, err := r.Peek(int(n))
			if err != nil {
				return err
			}
			j = l.open(f.id, string(command))
			r.Discard(int(n))
		case frameMore:
		case frameStop:
			l.stop(f.id, "aborted")
			j = nil
		case framePing:
			l.out.control(framePong, 0, nil)
			j = nil
		case framePong:
			j = nil
		default:
			return errFrame
		}
		if j == nil {
			// Also what is left of a request that has been refused.
			if _, err := r.Discard(f.size); err != nil {
				return err
			}
			continue
		}
		refused, err := j.body.read(r, f.size)
		if err != nil {
			return err
		}
		switch {
		case errors.Is(refused, errBusy):
			l.refuse(j, http.StatusServiceUnavailable)
		case refused != nil:
			l.refuse(j, http.StatusRequestEntityTooLarge)
		case f.last:
			l.mu.Lock()
			if l.jobs[f.id] != j { // it took too long
				l.mu.Unlock()
				continue
			}
			j.working = true
			if j.late != nil {
				j.late.Stop()
			}
			l.working.Add(1)
			l.mu.Unlock()
			go j.work()
		case j.late == nil:
			l.mu.Lock()
			j.late = time.AfterFunc(l.server.lim.Hop, func() {
				if l.stop(j.id, "aborted") {
					l.out.control(frameStop, j.id, nil)
				}
			})
			l.mu.Unlock()
		}
	}
}

// open begins a request; nil for one that is refused.
func (l *called) open(id uint32, command string) *linkJob {
	s := l.server
	j := &linkJob{link: l, id: id, command: command, began: time.Now()}
	status := 0
	switch {
	// The handshake let only listed nodes in; this one may have left since.
	case !s.listed(l.key):
		status = http.StatusForbidden
	case messageLimit(command) == 0:
		status = http.StatusNotFound
	default:
		if j.place = takeSlot(s.linkJobs, s.linkWaits); j.place == nil {
			status = http.StatusServiceUnavailable
		}
	}
	l.mu.Lock()
	l.begun++
	if status == 0 {
		l.jobs[id] = j
	}
	l.mu.Unlock()
	if status != 0 {
		j.count(strconv.Itoa(status))
		l.out.control(frameAnswer|frameLast, id, statusHead(status))
		return nil
	}
	l.rest() // it has been begun, and may end, on a link that is to be closed
	j.held = s.linkMemory.share()
	j.body = gathered{limit: messageLimit(command), held: j.held}
	return j
}

// stop ends a request that has not come to its end, or whose answer nobody wants. It
// reports whether there was anything to end.
func (l *called) stop(id uint32, code string) bool {
	l.mu.Lock()
	j := l.jobs[id]
	delete(l.jobs, id)
	unfinished := j != nil && !j.working
	l.mu.Unlock()
	if unfinished {
		j.free(code)
	} else {
		l.out.stop(id)
	}
	l.rest()
	return unfinished
}

func (l *called) refuse(j *linkJob, status int) {
	if l.stop(j.id, strconv.Itoa(status)) {
		l.out.control(frameAnswer|frameLast, j.id, statusHead(status))
	}
}

func statusHead(status int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(status)) }

// free gives back what a job holds, and counts it.
func (j *linkJob) free(code string) {
	j.link.mu.Lock()
	late := j.late
	j.link.mu.Unlock()
	if late != nil {
		late.Stop()
	}
	j.count(code)
	j.held.release()
	j.place.release()
}

func (j *linkJob) count(code string) {
	f := &j.link.server.figures
	f.Requests.Add("link_"+j.command, code)
	f.Times.Add("link_"+j.command, time.Since(j.began))
}

// work carries out a request and sends the answer. What the job holds is free when
// the answer is gone.
func (j *linkJob) work() {
	l := j.link
	defer l.working.Done()
	status, answer := j.carryOut()
	l.mu.Lock()
	wanted := l.jobs[j.id] == j
	l.mu.Unlock()
	switch {
	case !wanted:
		j.free("aborted")
	case status == 0:
		l.out.control(frameStop, j.id, nil)
		j.gone("aborted")
	default:
		end := time.Now().Add(l.server.lim.Write)
		l.out.send(frameAnswer, j.id, statusHead(status), answer, end, func() { j.gone(strconv.Itoa(status)) })
	}
}

// gone ends a job whose answer has left, or is given up.
func (j *linkJob) gone(code string) {
	l := j.link
	l.mu.Lock()
	if l.jobs[j.id] == j {
		delete(l.jobs, j.id)
	}
	l.mu.Unlock()
	j.free(code)
	l.rest()
}

// carryOut returns status 0 after a panic, which would be a mistake of ours.
func (j *linkJob) carryOut() (status int, answer []byte) {
	s := j.link.server
	defer func() {
		if v := recover(); v != nil {
			s.cfg.Log.Error("request panicked", "panic", v, "stack", string(debug.Stack()))
			status, answer = 0, nil
		}
	}()
	parts, err := ParseParts(j.body.bytes)
	if err != nil {
		return http.StatusBadRequest, nil
	}
	ctx, cancel := s.work(j.held, j.place)
	defer cancel()
	if parts = s.linkCommand(withSource(ctx, string(j.link.key[:])), j.link.key, j.command, parts); parts == nil {
		return http.StatusNotFound, nil
	}
	return http.StatusOK, MarshalParts(parts)
}

// linkCommand returns nil for what makes no sense.
func (s *Server) linkCommand(ctx context.Context, key [32]byte, command string, parts [][]byte) [][]byte {
	switch command {
	case CommandOnion:
		return s.onionCommand(ctx, parts)
	case CommandStorage:
		return s.storageCommand(ctx, parts)
	case CommandStamped:
		if len(parts) == 3 && len(parts[2]) == 8 {
			stamp := int64(binary.BigEndian.Uint64(parts[2]))
			return s.storageCommand(rpc.WithStamp(ctx, stamp), parts[:2])
		}
	case CommandReplica:
		if s.cfg.Replica != nil {
			return s.cfg.Replica(ctx, key, parts)
		}
	case CommandLedger:
		if s.cfg.Ledger != nil {
			return s.cfg.Ledger(ctx, key, parts)
		}
	case CommandFileRequest:
		return s.fileCommand(ctx, parts)
	case CommandFiles:
		return s.filesCommand(ctx, key, parts)
	case CommandPing, CommandStorageTest:
		return s.testCommand(ctx, key, command, parts)
	}
	return nil
}

// feelPulse returns what a tick does: how many frames and requests had come before
// it, and for how many ticks there were none.
func (l *called) feelPulse(frames, begun uint64, silent, unused int) func() {
	return func() {
		l.mu.Lock()
		if silent++; l.frames != frames {
			silent = 0
		}
		if unused++; l.begun != begun || len(l.jobs) > 0 {
			unused = 0
		}
		gone := silent >= calledGone || unused >= calledUnused
		if !gone && !l.ended {
			l.pulse = time.AfterFunc(linkTick, l.feelPulse(l.frames, l.begun, silent, unused))
		}
		l.mu.Unlock() // before the sender's, which it calls with its own lock held
		switch {
		case gone:
			l.out.cut()
		case silent == calledSilent:
			l.out.control(framePing, 0, nil)
		}
	}
}

// leaveLinks closes the links when nothing is left to do on them, or when ctx ends.
func (s *Server) leaveLinks(ctx context.Context) {
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.called))
	s.mu.Unlock()
	var leaving sync.WaitGroup
	for _, l := range all {
		leaving.Go(func() {
			l.leave()
			select {
			case <-l.over:
			case <-ctx.Done():
				l.out.cut()
			}
		})
	}
	leaving.Wait()
}

// leave asks the caller to close the link.
func (l *called) leave() {
	l.mu.Lock()
	l.leaving = true
	l.mu.Unlock()
	l.out.control(frameLeave, 0, nil)
	l.rest()
}

// rest closes a link that is to be closed and on which nothing is left to do, after
// a moment for what is on its way.
func (l *called) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leaving {
		end := time.Time{}
		if len(l.jobs) == 0 {
			end = time.Now().Add(leaveWait)
		}
		l.out.conn.SetReadDeadline(end)
	}
}
