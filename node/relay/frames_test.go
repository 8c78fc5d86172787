package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/swarm"
)

// linkEnds are both ends of a link, joined in memory. Replica answers.
type linkEnds struct {
	server *Server
	called *called
	caller *caller
	near   net.Conn // the caller's end of the connection
}

func joined(t testing.TB, replica func(parts [][]byte) [][]byte, change ...func(*Config)) *linkEnds {
	near, far := net.Pipe()
	e := &linkEnds{near: near}
	e.server, e.called = answering(t, far, replica, change...)
	e.caller = newCaller(near)
	t.Cleanup(func() { e.caller.Close() })
	return e
}

// answering serves one end of a connection as a link.
func answering(t testing.TB, conn net.Conn, replica func(parts [][]byte) [][]byte, change ...func(*Config)) (*Server, *called) {
	pair, from := keys.FromSeed([32]byte{1}), keys.FromSeed([32]byte{2}).Ed25519()
	list := &swarm.List{Nodes: []swarm.Node{{Ed25519: from}}}
	cfg := Config{
		Keys: pair, List: func() *swarm.List { return list }, Now: time.Now, Ready: func() []string { return nil },
		Replica: func(_ context.Context, _ [32]byte, parts [][]byte) [][]byte { return replica(parts) },
	}
	for _, c := range change {
		c(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := newCalled(s, conn, from)
	s.wg.Go(func() { s.serveLink(l) })
	t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		s.Shutdown(now)
	})
	return s, l
}

func (e *linkEnds) ask(ctx context.Context, body []byte) (int, []byte, error) {
	return e.caller.ask(ctx, CommandReplica, body, maxStorageMessage, nil)
}

func TestMessagesOfEverySizeCrossALink(t *testing.T) {
	e := joined(t, func(parts [][]byte) [][]byte { return parts })
	head := 1 + len(CommandReplica)
	for _, size := range []int{0, 1, maxFrame - head - 4 - 1, maxFrame - head - 4, maxFrame - head - 3, maxFrame, 3 * maxFrame, maxStorageMessage - 4} {
		body := MarshalParts([][]byte{bytes.Repeat([]byte{7, 8, 9}, size/3+1)[:size]})
		status, answer, err := e.ask(t.Context(), body)
		if err != nil || status != 200 || !bytes.Equal(answer, body) {
			t.Errorf("%d bytes: status %d, %d bytes back, %v", size, status, len(answer), err)
		}
	}
	if _, _, err := e.caller.ask(t.Context(), CommandReplica, MarshalParts([][]byte{make([]byte, 100)}), 50, nil); !errors.Is(err, errTooLarge) {
		t.Errorf("an answer over the limit: %v", err)
	}
	full := newMemory(1000)
	if _, _, err := e.caller.ask(t.Context(), CommandReplica, MarshalParts([][]byte{make([]byte, 2000)}), 1<<20, full.share()); !errors.Is(err, errBusy) {
		t.Errorf("an answer for which there is no memory: %v", err)
	}
	if status, _, err := e.ask(t.Context(), make([]byte, maxStorageMessage+1)); status != 413 || err != nil {
		t.Errorf("a request over the limit: status %d, %v", status, err)
	}
	if status, _, err := e.ask(t.Context(), MarshalParts([][]byte{{1}})); status != 200 || err != nil {
		t.Errorf("and then: status %d, %v", status, err)
	}
	if held := e.server.linkMemory.used.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

// TestSmallMessagesPassLargeOnes reads a link as its caller would, slowly: the answer
// to a small request comes between the pieces of one that was asked for before.
func TestSmallMessagesPassLargeOnes(t *testing.T) {
	near, far := net.Pipe()
	answering(t, far, func(parts [][]byte) [][]byte {
		if len(parts) == 0 {
			return [][]byte{nil}
		}
		return [][]byte{make([]byte, 900<<10)}
	})
	ask := func(id uint32, body []byte) {
		if _, err := near.Write(appendFrame(nil, frameOpen|frameLast, id, append([]byte{byte(len(CommandReplica))}, CommandReplica...), body)); err != nil {
			t.Fatal(err)
		}
	}
	ask(1, MarshalParts([][]byte{{1}}))
	r := bufio.NewReader(near)
	frames := map[uint32]int{}
	for ended := map[uint32]bool{}; len(ended) < 2; {
		f, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Discard(f.size); err != nil {
			t.Fatal(err)
		}
		if frames[f.id]++; frames[1] == 1 && f.id == 1 {
			ask(2, nil)
		}
		if f.last {
			ended[f.id] = true
		}
		if f.id == 2 && ended[1] {
			t.Fatalf("the small answer came after %d frames of the large one", frames[1])
		}
	}
	near.Close()
}

func TestWhatNobodyWaitsForIsNotSent(t *testing.T) {
	near, far := net.Pipe()
	s, l := answering(t, far, func([][]byte) [][]byte { return [][]byte{make([]byte, 900<<10)} })
	near.Write(appendFrame(nil, frameOpen|frameLast, 1, append([]byte{byte(len(CommandReplica))}, CommandReplica...), nil))
	r := bufio.NewReader(near)
	f, err := readFrame(r)
	if err != nil {
		t.Fatal(err)
	}
	r.Discard(f.size)
	// A pipe takes the ping when the other side has done with what came before.
	near.Write(appendFrame(nil, frameStop, 1, nil, nil))
	near.Write(appendFrame(nil, framePing, 0, nil, nil))
	frames := 1
	for f.kind != framePong {
		if f, err = readFrame(r); err != nil {
			t.Fatal(err)
		}
		r.Discard(f.size)
		frames++
	}
	if frames > 2*atOnceOut/maxFrame+4 {
		t.Errorf("%d frames came after all", frames)
	}
	near.Close()
	<-l.over
	if held := s.linkMemory.used.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

// TestWhoReadsNothingCannotMakeANodeHoldAnswers asks for refusals and pongs without end.
func TestWhoReadsNothingCannotMakeANodeHoldAnswers(t *testing.T) {
	for name, frame := range map[string][]byte{
		"refusals": appendFrame(nil, frameOpen|frameLast, 1, []byte{1, 'x'}, nil),
		"pongs":    appendFrame(nil, framePing, 0, nil, nil),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			_, l := answering(t, far, func([][]byte) [][]byte { return nil })
			many, sent := bytes.Repeat(frame, 1000), 0
			for {
				n, err := near.Write(many)
				if sent += n; err != nil {
					break
				}
				if sent > 100*readyOut {
					t.Fatalf("%d bytes were taken in", sent)
				}
			}
			<-l.over
		})
	}
}

func TestFramesThatMakeNoSenseEndTheLink(t *testing.T) {
	command := append([]byte{byte(len(CommandReplica))}, CommandReplica...)
	tests := []struct {
		name  string
		bytes []byte
	}{
		{"an unknown kind", appendFrame(nil, 99, 1, nil, nil)},
		{"an answer to the answering side", appendFrame(nil, frameAnswer|frameLast, 1, nil, []byte{0, 200})},
		{"a request without command", appendFrame(nil, frameOpen|frameLast, 1, nil, nil)},
		{"a command longer than its frame", appendFrame(nil, frameOpen|frameLast, 1, nil, []byte{9, 'x'})},
		{"a frame over the limit", []byte{frameOpen, 0, 0, 0, 1, 0x40, 1}},
		{"a number that is in use", appendFrame(appendFrame(nil, frameOpen, 1, command, nil), frameOpen, 1, command, nil)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			s, l := answering(t, far, func([][]byte) [][]byte { return nil })
			go near.Write(tt.bytes)
			if _, err := io.Copy(io.Discard, near); err != nil {
				t.Error(err)
			}
			<-l.over
			if held := s.linkMemory.used.Load(); held != 0 {
				t.Errorf("%d bytes are still held", held)
			}
		})
	}
}

func TestSilentLinksAreGivenUp(t *testing.T) {
	t.Run("by the caller, when no answer to its ping comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far)
			defer far.Close()
			c := newCaller(near)
			began := time.Now()
			if _, _, err := c.ask(t.Context(), CommandReplica, nil, 100, nil); !errors.Is(err, errLinkClosed) {
				t.Error(err)
			}
			if d := time.Since(began); d != callerGone*linkTick {
				t.Errorf("after %v", d)
			}
			c.Close()
		})
	})
	t.Run("but not while it answers", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			e := joined(t, func([][]byte) [][]byte { <-release; return [][]byte{nil} })
			time.AfterFunc(5*time.Minute, func() { close(release) })
			if status, _, err := e.ask(t.Context(), nil); status != 200 || err != nil {
				t.Error(status, err)
			}
		})
	})
	t.Run("by the called side, when there are no requests", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e := joined(t, func([][]byte) [][]byte { return [][]byte{nil} })
			<-e.called.over
			if d := time.Since(began); d != linkIdleEnd {
				t.Errorf("after %v", d)
			}
		})
	})
	t.Run("and a request that does not come to its end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			s, l := answering(t, far, func([][]byte) [][]byte { return nil })
			began := time.Now()
			near.Write(appendFrame(nil, frameOpen, 1, append([]byte{byte(len(CommandReplica))}, CommandReplica...), []byte("half")))
			f, err := readFrame(bufio.NewReader(near))
			if d := time.Since(began); err != nil || f.kind != frameStop || f.id != 1 || d != s.lim.Hop {
				t.Errorf("%+v after %v, %v", f, d, err)
			}
			if held := s.linkMemory.used.Load(); held != 0 {
				t.Errorf("%d bytes are still held", held)
			}
			near.Close()
			<-l.over
		})
	})
}

func TestShutdownLetsRequestsOnLinksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, release := make(chan struct{}), make(chan struct{})
		e := joined(t, func([][]byte) [][]byte { close(started); <-release; return [][]byte{make([]byte, 100<<10)} })
		var down atomic.Bool
		go func() {
			<-started
			go func() {
				e.server.Shutdown(context.Background())
				down.Store(true)
			}()
			synctest.Wait()
			if err := e.caller.Err(); err != errLeaving || down.Load() {
				t.Errorf("the caller knows %v; the server is down: %v", err, down.Load())
			}
			close(release)
		}()
		if status, body, err := e.ask(t.Context(), nil); err != nil || status != 200 || len(body) != 4+100<<10 {
			t.Errorf("status %d, %d bytes, %v", status, len(body), err)
		}
		<-e.called.over
		<-e.caller.done
	})
}

func TestWhatIsOnItsWayWhenALinkIsToBeClosedIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		_, l := answering(t, far, func(parts [][]byte) [][]byte { time.Sleep(10 * leaveWait); return parts })
		r := bufio.NewReader(near)
		go l.leave()
		if f, err := readFrame(r); err != nil || f.kind != frameLeave {
			t.Fatalf("%+v, %v", f, err)
		}
		time.Sleep(leaveWait / 2)
		if _, err := near.Write(appendFrame(nil, frameOpen|frameLast, 1, append([]byte{byte(len(CommandReplica))}, CommandReplica...), nil)); err != nil {
			t.Fatal(err)
		}
		if f, err := readFrame(r); err != nil || f.kind != frameAnswer || f.id != 1 {
			t.Errorf("%+v, %v", f, err)
		}
		near.Close()
		<-l.over
	})
}

func TestARetiredLinkEndsWithItsLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		e := joined(t, func([][]byte) [][]byte { <-release; return [][]byte{nil} })
		retired := make(chan struct{})
		go func() {
			synctest.Wait()
			go func() { e.caller.retire(t.Context()); close(retired) }()
			synctest.Wait()
			if _, _, err := e.ask(t.Context(), nil); !errors.Is(err, errNotSent) {
				t.Errorf("another request: %v", err)
			}
			close(release)
		}()
		if status, _, err := e.ask(t.Context(), nil); status != 200 || err != nil {
			t.Errorf("status %d, %v", status, err)
		}
		<-retired
		<-e.called.over
	})
	synctest.Test(t, func(t *testing.T) {
		e := joined(t, func(parts [][]byte) [][]byte { time.Sleep(time.Hour); return parts })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { synctest.Wait(); e.caller.retire(ctx) }()
		began := time.Now()
		if _, _, err := e.ask(t.Context(), nil); !errors.Is(err, errLinkClosed) || time.Since(began) != time.Minute {
			t.Errorf("a request that has no end: %v after %v", err, time.Since(began))
		}
	})
}

func TestABrokenLinkEndsItsRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		c := newCaller(near)
		began := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if _, _, err := c.ask(t.Context(), CommandReplica, make([]byte, 100<<10), 100, nil); !errors.Is(err, errLinkClosed) || errors.Is(err, errNotSent) {
					t.Error(err)
				}
			})
		}
		io.ReadFull(far, make([]byte, 50<<10))
		synctest.Wait()
		far.Close()
		all.Wait()
		if _, _, err := c.ask(t.Context(), CommandReplica, nil, 100, nil); !errors.Is(err, errNotSent) || !errors.Is(err, errLinkClosed) {
			t.Errorf("and later: %v", err)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("after %v", d)
		}
		c.Close()
	})
}

func TestAPanicAnswersNothingAndSparesTheLink(t *testing.T) {
	e := joined(t, func(parts [][]byte) [][]byte {
		if len(parts) == 0 {
			panic("a mistake")
		}
		return parts
	})
	if _, _, err := e.ask(t.Context(), nil); !errors.Is(err, errNoAnswer) {
		t.Error(err)
	}
	if status, _, err := e.ask(t.Context(), MarshalParts([][]byte{{1}})); status != 200 || err != nil {
		t.Error(status, err)
	}
}

// FuzzLink sends anything to both ends of a link.
func FuzzLink(f *testing.F) {
	f.Add(appendFrame(nil, frameOpen|frameLast, 1, append([]byte{byte(len(CommandReplica))}, CommandReplica...), []byte{0, 0, 0, 1, 'x'}))
	f.Add(appendFrame(appendFrame(nil, frameAnswer, 1, []byte{0, 200}, []byte("be")), frameMore|frameLast, 1, nil, []byte("gun")))
	f.Add(appendFrame(appendFrame(nil, frameStop, 1, nil, nil), frameLeave, 0, nil, nil))
	f.Add([]byte(strings.Repeat("\x05", 100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		s, l := answering(t, far, func(parts [][]byte) [][]byte { return parts })
		go io.Copy(io.Discard, near)
		near.Write(b)
		near.Close()
		<-l.over
		if held := s.linkMemory.used.Load(); held != 0 {
			t.Errorf("%d bytes are still held", held)
		}

		near, far = net.Pipe()
		c := newCaller(near)
		var answer []byte
		var asked sync.WaitGroup
		asked.Go(func() { _, answer, _ = c.ask(context.Background(), CommandReplica, nil, 1000, nil) })
		io.ReadFull(far, make([]byte, frameHead+1+len(CommandReplica)))
		go io.Copy(io.Discard, far)
		far.Write(b)
		far.Close()
		asked.Wait()
		if c.Close(); len(answer) > 1000 {
			t.Errorf("an answer of %d bytes", len(answer))
		}
	})
}

func BenchmarkLinkMessage(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1KiB", 1 << 10}, {"1MB", 1_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			e := joined(b, func(parts [][]byte) [][]byte { return parts })
			body := MarshalParts([][]byte{make([]byte, size.n)})
			b.SetBytes(int64(2 * size.n))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := e.ask(b.Context(), body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
