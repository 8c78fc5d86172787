package files

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"hearth/node/attachment"
	"hearth/node/bt"
	"hearth/node/swarm"
)

// What nodes say to each other: a verb and a bt dictionary. The answer is a
// decimal status and, with 200, another one.
const (
	// verbOffer {e expires, i id, s size, u uploaded}: keep this file; take it
	// from me or anybody. Answer {e expires} when it is kept.
	verbOffer = "offer"
	// verbRead {i id, n bytes, o offset}: give me a piece. Answer {d data, e
	// expires, s size, u uploaded}.
	verbRead = "read"
	// verbDigest {}: what do you keep of our swarm, in short? Answer {d digest}.
	verbDigest = "digest"
	// verbList {a after, b bucket}: the files of one part of the digest, in the
	// order of their IDs. Answer {f files, m more}.
	verbList = "list"
)

const (
	pieceSize = 512 << 10 // of a file on its way between nodes
	window    = 4         // pieces asked for at a time

	buckets    = 256
	recordSize = 33 + 8 + 4 // id, expires, size
	maxRecords = 8192       // in one answer

	// lateness is how long after the first copy is on a disk an upload waits
	// for the other members. Those that take longer get theirs by comparing.
	lateness = 8 * time.Second
	// skew is how much further than TTL another node's clock may put an end.
	skew = time.Hour
	// patience is how long one comparison with one member may take. What is
	// missing then comes next time, and a member that lies or dawdles does
	// not keep the others away.
	patience = 5 * time.Minute
	// margin: what expires so soon need not be the same everywhere.
	margin = time.Minute
)

var errRefused = errors.New("refused by the other node")

// call sends a verb and reads the dictionary of the answer.
func (s *Service) call(ctx context.Context, to swarm.Node, verb string, dict bt.Dict) (*bt.DictReader, error) {
	b, err := bt.Marshal(dict)
	if err != nil {
		return nil, err
	}
	parts, err := s.cfg.Send(ctx, to, [][]byte{[]byte(verb), b})
	if err != nil {
		return nil, err
	}
	if len(parts) != 2 {
		return nil, fmt.Errorf("%w: %d parts", errRefused, len(parts))
	}
	switch string(parts[0]) {
	case "200":
		return bt.ReadDict(parts[1])
	case "404":
		return nil, errAbsent
	case "507":
		return nil, errFull
	}
	return nil, fmt.Errorf("%w: status %.16q", errRefused, parts[0])
}

// Peer answers another node. The caller vouches that from is the key of a node
// in the list and that the answer reaches nobody else.
func (s *Service) Peer(ctx context.Context, from [32]byte, parts [][]byte) [][]byte {
	if len(parts) != 2 {
		return status(400)
	}
	ctx, done := s.detach(ctx)
	defer done()
	var answer bt.Dict
	d, err := bt.ReadDict(parts[1])
	if err == nil {
		switch string(parts[0]) {
		case verbOffer:
			answer, err = s.offered(ctx, from, d)
		case verbRead:
			answer, err = s.readFor(ctx, d)
		case verbDigest:
			sums := s.digest()
			answer = bt.Dict{"d": sums[:]}
		case verbList:
			answer, err = s.listFor(d)
		default:
			return status(404)
		}
	}
	switch {
	case errors.Is(err, errAbsent), errors.Is(err, errDamaged):
		return status(404)
	case errors.Is(err, errFull):
		return status(507)
	case errors.Is(err, errNotOurs):
		return status(421)
	case errors.Is(err, bt.ErrSyntax), errors.Is(err, bt.ErrType), errors.Is(err, bt.ErrRange), errors.Is(err, errForm):
		return status(400)
	case err != nil:
		s.cfg.Log.Debug("a file request of another node", "verb", string(parts[0]), "error", err)
		return status(500)
	}
	b, err := bt.Marshal(answer)
	if err != nil {
		return status(500)
	}
	return [][]byte{[]byte("200"), b}
}

func status(code int) [][]byte { return [][]byte{strconv.AppendInt(nil, int64(code), 10), {}} }

var (
	errForm    = errors.New("malformed request of another node")
	errNotOurs = errors.New("file of another swarm")
)

// fields reads values from a dictionary by ascending key.
type fields struct {
	d   *bt.DictReader
	err error
}

func (f *fields) int(key string, least, most int64) (n int64) {
	if ok := f.find(key); ok {
		n, f.err = f.d.Int()
		if f.err == nil && (n < least || n > most) {
			f.err = fmt.Errorf("%w: %s is %d", errForm, key, n)
		}
	}
	return n
}

func (f *fields) bytes(key string, size int) (b []byte) {
	if ok := f.find(key); ok {
		b, f.err = f.d.Bytes()
		if f.err == nil && size >= 0 && len(b) != size {
			f.err = fmt.Errorf("%w: %s of %d bytes", errForm, key, len(b))
		}
	}
	return b
}

func (f *fields) id() (id attachment.ID) {
	copy(id[:], f.bytes("i", len(id)))
	return id
}

func (f *fields) find(key string) bool {
	if f.err != nil {
		return false
	}
	ok, err := f.d.Find(key)
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s missing", errForm, key)
	}
	f.err = err
	return err == nil
}

const maxTime = 1 << 52 // ms; far away, and safe to calculate with

// offered handles an offer: the file is kept when it is answered.
func (s *Service) offered(ctx context.Context, from [32]byte, d *bt.DictReader) (bt.Dict, error) {
	now := s.cfg.Now()
	f := fields{d: d}
	m := meta{expires: f.int("e", now.UnixMilli(), maxTime), id: f.id()}
	m.size = f.int("s", 1, attachment.MaxUpload)
	m.uploaded = f.int("u", 0, maxTime)
	if f.err != nil {
		return nil, f.err
	}
	m.expires = min(m.expires, now.Add(TTL+skew).UnixMilli())
	if _, own := s.members(m.id); !own {
		return nil, errNotOurs
	}
	sender, ok := s.cfg.List().Find(from)
	if !ok {
		return nil, errNotOurs
	}
	expires, err := s.take(ctx, m, &sender)
	if err != nil {
		return nil, err
	}
	return bt.Dict{"e": expires}, nil
}

// readFor gives another node a piece.
func (s *Service) readFor(ctx context.Context, d *bt.DictReader) (bt.Dict, error) {
	f := fields{d: d}
	id := f.id()
	n := f.int("n", 0, pieceSize)
	at := f.int("o", 0, attachment.MaxUpload)
	if f.err != nil {
		return nil, f.err
	}
	m, content, lent := s.borrowed(id)
	if !lent {
		var ok bool
		if m, ok = s.store.info(id); !ok {
			return nil, errAbsent
		}
	}
	n = min(n, max(m.size-at, 0))
	data := []byte{}
	switch {
	case n == 0:
	case lent:
		data = content[at : at+n]
	default:
		if at == 0 {
			if err := s.store.check(ctx, m, 0); err != nil {
				s.Wake()
				return nil, err
			}
		}
		data = make([]byte, n)
		if err := s.store.readAt(id, data, at); err != nil {
			return nil, fmt.Errorf("%w: %w", errAbsent, err)
		}
	}
	return bt.Dict{"d": data, "e": m.expires, "s": m.size, "u": m.uploaded}, nil
}

// digest sums up the files of the own swarm, in parts by the first byte of their
// IDs. The parts of two members are equal when they keep the same files until the
// same moments.
func (s *Service) digest() (sums [buckets * 8]byte) {
	list := s.cfg.List()
	self, _ := list.Find(s.self)
	soon := s.cfg.Now().Add(margin).UnixMilli()
	s.store.each(func(id attachment.ID, e entry) {
		if in, _ := list.Of(id.Place()); in != self.Swarm || e.expires < soon {
			return
		}
		at := 8 * int(id[0])
		part := sums[at : at+8]
		// IDs are hashes already, so little mixing is enough to tell apart
		// what lives until different moments.
		mixed := (binary.BigEndian.Uint64(id[1:]) + uint64(e.expires)) * 0x9e3779b97f4a7c15
		binary.BigEndian.PutUint64(part, binary.BigEndian.Uint64(part)^mixed^mixed>>32)
	})
	return sums
}

func (s *Service) listFor(d *bt.DictReader) (bt.Dict, error) {
	f := fields{d: d}
	after := f.bytes("a", -1)
	bucket := f.int("b", 0, buckets-1)
	if f.err != nil {
		return nil, f.err
	}
	list := s.cfg.List()
	self, _ := list.Find(s.self)
	found := make(map[attachment.ID]entry)
	s.store.each(func(id attachment.ID, e entry) {
		if int64(id[0]) != bucket || bytes.Compare(id[:], after) <= 0 {
			return
		}
		if in, _ := list.Of(id.Place()); in == self.Swarm {
			found[id] = e
		}
	})
	ids := slices.SortedFunc(maps.Keys(found), func(a, b attachment.ID) int { return bytes.Compare(a[:], b[:]) })
	more := 0
	if len(ids) > maxRecords {
		ids, more = ids[:maxRecords], 1
	}
	records := make([]byte, 0, len(ids)*recordSize)
	for _, id := range ids {
		records = append(records, id[:]...)
		records = binary.BigEndian.AppendUint64(records, uint64(found[id].expires))
		records = binary.BigEndian.AppendUint32(records, uint32(found[id].size))
	}
	return bt.Dict{"f": records, "m": more}, nil
}
