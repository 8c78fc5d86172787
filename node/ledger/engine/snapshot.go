package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cosmos/iavl"
	"github.com/klauspost/compress/zstd"

	"hearth/node/wholefile"
)

// A snapshot is a file with all nodes of one version of the tree, in the order
// of iavl's exporter, because the root depends on the history of the tree and
// not on its keys and values alone:
//
//	for each node  height (1 byte), version (uvarint), and for leaves (height 0)
//	               key and value, each with its length (uvarint)
//
// compressed with Zstandard, and cut into chunks.
const (
	snapshotFormat = 1
	chunkSize      = 256 << 10
	maxChunks      = 1024
	maxUnpacked    = 1 << 30
	maxStateKey    = 256
	maxStateValue  = 1 << 20
	maxTreeHeight  = 64
)

// ErrSnapshot reports bytes that are no snapshot of the ledger's state.
var ErrSnapshot = errors.New("unusable snapshot")

// writeSnapshot writes the nodes of a version.
func writeSnapshot(w io.Writer, t *iavl.ImmutableTree) error {
	exporter, err := t.Export()
	if err != nil {
		return fmt.Errorf("exporting the ledger's state: %w", err)
	}
	defer exporter.Close()
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return fmt.Errorf("compressing a snapshot: %w", err)
	}
	defer z.Close()
	var b []byte
	for {
		n, err := exporter.Next()
		if errors.Is(err, iavl.ErrorExportDone) {
			return z.Close()
		} else if err != nil {
			return fmt.Errorf("exporting the ledger's state: %w", err)
		}
		b = append(b[:0], byte(n.Height))
		b = binary.AppendUvarint(b, uint64(n.Version))
		if n.Height == 0 {
			b = append(binary.AppendUvarint(b, uint64(len(n.Key))), n.Key...)
			b = append(binary.AppendUvarint(b, uint64(len(n.Value))), n.Value...)
		}
		if _, err := z.Write(b); err != nil {
			return fmt.Errorf("writing a snapshot: %w", err)
		}
	}
}

// readSnapshot builds the version of that height in an empty tree.
func readSnapshot(r io.Reader, t *iavl.MutableTree, height int64) error {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(1<<20))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	defer z.Close()
	in := bufio.NewReader(io.LimitReader(z, maxUnpacked))
	importer, err := t.Import(height)
	if err != nil {
		return fmt.Errorf("importing a snapshot: %w", err)
	}
	defer importer.Close()
	// The importer finds the keys of inner nodes itself: the lowest key of the
	// right side. It trusts heights and versions; what makes it panic ends here.
	var lowest [][]byte
	var heights []int8
	for {
		h, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
		n := &iavl.ExportNode{Height: int8(h)}
		v, err := binary.ReadUvarint(in)
		if err != nil || v == 0 || v > uint64(height) || h > maxTreeHeight {
			return fmt.Errorf("%w: node of height %d and version %d", ErrSnapshot, h, v)
		}
		n.Version = int64(v)
		last := len(lowest) - 1
		if h == 0 {
			if n.Key, err = readBytes(in, 1, maxStateKey); err == nil {
				n.Value, err = readBytes(in, 0, maxStateValue)
			}
			if err != nil {
				return err
			}
			lowest, heights = append(lowest, n.Key), append(heights, 0)
		} else {
			if last < 1 || max(heights[last], heights[last-1])+1 != n.Height {
				return fmt.Errorf("%w: inner node without its two sides", ErrSnapshot)
			}
			n.Key = lowest[last]
			lowest, heights = lowest[:last], append(heights[:last-1], n.Height)
		}
		if len(lowest) > maxTreeHeight+2 {
			return fmt.Errorf("%w: too many open branches", ErrSnapshot)
		}
		if err := importer.Add(n); err != nil {
			return fmt.Errorf("%w: %w", ErrSnapshot, err)
		}
	}
	if len(lowest) != 1 {
		return fmt.Errorf("%w: %d roots", ErrSnapshot, len(lowest))
	}
	if err := importer.Commit(); err != nil {
		return fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return nil
}

func readBytes(r *bufio.Reader, least, most uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n < least || n > most {
		return nil, fmt.Errorf("%w: %d bytes where %d to %d belong", ErrSnapshot, n, least, most)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	return b, nil
}

// snapshot is one that other nodes can have.
type snapshot struct {
	height int64
	hash   [32]byte
	chunks uint32
}

// snapshots are the files of a folder.
type snapshots struct {
	dir  string
	keep int
	all  []snapshot // ascending by height
}

func openSnapshots(dir string, keep int) (*snapshots, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of snapshots: %w", err)
	}
	s := &snapshots{dir: dir, keep: keep}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of snapshots: %w", err)
	}
	for _, e := range entries {
		number, ours := strings.CutSuffix(e.Name(), ".snapshot")
		height, err := strconv.ParseInt(number, 10, 64)
		if !ours || err != nil {
			continue
		}
		b, err := os.ReadFile(s.path(height))
		if err != nil {
			return nil, fmt.Errorf("reading a snapshot: %w", err)
		}
		s.add(height, b)
	}
	slices.SortFunc(s.all, func(a, b snapshot) int { return cmp.Compare(a.height, b.height) })
	return s, nil
}

func (s *snapshots) path(height int64) string {
	return filepath.Join(s.dir, strconv.FormatInt(height, 10)+".snapshot")
}

func (s *snapshots) add(height int64, b []byte) {
	s.all = append(s.all, snapshot{height, sha256.Sum256(b), uint32((len(b) + chunkSize - 1) / chunkSize)})
}

// take makes a snapshot and deletes the oldest when there are enough.
func (s *snapshots) take(t *iavl.ImmutableTree) error {
	var b bytes.Buffer
	if err := writeSnapshot(&b, t); err != nil {
		return err
	}
	if b.Len() > maxChunks*chunkSize {
		return fmt.Errorf("%w: %d bytes", ErrSnapshot, b.Len())
	}
	if err := wholefile.Write(s.path(t.Version()), b.Bytes()); err != nil {
		return fmt.Errorf("writing a snapshot: %w", err)
	}
	s.add(t.Version(), b.Bytes())
	for len(s.all) > s.keep {
		if err := os.Remove(s.path(s.all[0].height)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting a snapshot: %w", err)
		}
		s.all = s.all[1:]
	}
	return nil
}

// chunk returns a part of a snapshot, nil when there is none.
func (s *snapshots) chunk(height int64, index uint32) []byte {
	if !slices.ContainsFunc(s.all, func(x snapshot) bool { return x.height == height && index < x.chunks }) {
		return nil
	}
	f, err := os.Open(s.path(height))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, chunkSize)
	n, err := f.ReadAt(b, int64(index)*chunkSize)
	if n == 0 || err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	return b[:n]
}

// oldest is the height of the oldest snapshot, math.MaxInt64 when there is none.
func (s *snapshots) oldest() int64 {
	if len(s.all) == 0 {
		return math.MaxInt64
	}
	return s.all[0].height
}

// restoring is a snapshot on its way in.
type restoring struct {
	height int64
	hash   [32]byte
	root   []byte // from a proven header
	chunks uint32
	next   uint32
	bytes  bytes.Buffer
}
