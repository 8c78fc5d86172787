package archive

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/chacha20poly1305"
)

// A download that is not complete lies beside the files under the same name with an
// ending: one sealed piece after the other, each with its length in front and bound
// to its place. A piece that a power cut left half written is cut off when it is
// read.

const partial = ".part" // what a file is called while pieces of it are missing

// pieceHead is the size of what stands in a piece besides its bytes: how large the
// whole is.
const pieceHead = 8

// Partial returns the bytes of an attachment that are on this device already, from
// its beginning, and how many there will be; nothing when none are. What is read
// was sealed by this device, but not yet checked against the attachment. The error
// is that of the disk.
func (a *Archive) Partial(f Attachment) (content []byte, total int64, err error) {
	name := hex.EncodeToString(a.fileTag(f)) + partial
	a.shelf.mu.Lock()
	defer a.shelf.mu.Unlock()
	if _, ok := a.shelf.files[name]; !ok {
		return nil, 0, nil
	}
	content, total, _, err = a.readPieces(name, a.fileTag(f))
	return content, total, err
}

// readPieces gives the pieces in their order and the length of the file up to their
// end. The caller holds the lock of the shelf.
func (a *Archive) readPieces(name string, tag []byte) (content []byte, total, end int64, err error) {
	sealed, err := os.ReadFile(filepath.Join(a.shelf.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, 0, fmt.Errorf("reading a file: %w", err)
	}
	for rest := sealed; len(rest) >= 4; {
		size := int64(binary.BigEndian.Uint32(rest))
		if size > int64(len(rest))-4 {
			break
		}
		piece, err := a.open(bucketFiles, pieceName(tag, int64(len(content))), rest[4:4+size])
		if err != nil || len(piece) < pieceHead {
			break
		}
		total = int64(binary.BigEndian.Uint64(piece))
		content = append(content, piece[pieceHead:]...)
		rest = rest[4+size:]
		end += 4 + size
	}
	return content, total, end, nil
}

// pieceName is what a piece is sealed for: its file and its place in it.
func pieceName(tag []byte, at int64) []byte {
	return binary.BigEndian.AppendUint64(slices.Concat(tag, []byte(partial)), uint64(at))
}

// KeepPart keeps the next bytes of an attachment that is being downloaded, those
// from at on, of total. It returns when they are on the disk. What is there from
// at on already is replaced; bytes for which there is no room are not kept, which
// is no error. The errors are [ErrNoMessage] when the message is no longer there,
// and those of the disk.
func (a *Archive) KeepPart(r Ref, f Attachment, at, total int64, part []byte) error {
	tag := a.fileTag(f)
	if err := a.nameFile(r, f); err != nil {
		return err
	}
	a.shelf.hold(hex.EncodeToString(tag))
	defer a.ReleaseFile(f) // which looks whether the message is still there
	name := hex.EncodeToString(tag) + partial
	piece := binary.BigEndian.AppendUint64(make([]byte, 0, pieceHead+len(part)), uint64(total))
	piece = append(piece, part...)
	sealed := make([]byte, 4+chacha20poly1305.NonceSizeX, 4+chacha20poly1305.NonceSizeX+len(piece)+a.aead.Overhead())
	if _, err := io.ReadFull(a.rand, sealed[4:]); err != nil {
		return fmt.Errorf("drawing a nonce: %w", err)
	}
	sealed = a.aead.Seal(sealed, sealed[4:], piece, place(bucketFiles, pieceName(tag, at)))
	binary.BigEndian.PutUint32(sealed, uint32(len(sealed)-4))

	s := &a.shelf
	s.mu.Lock()
	defer s.mu.Unlock()
	have, _, end, err := a.readPieces(name, tag)
	if err != nil {
		return err
	}
	if int64(len(have)) != at {
		// Not what this device has written down: it begins anew, or not at all.
		if at != 0 {
			return nil
		}
		end = 0
	}
	if err := s.makeRoom(name, end+int64(len(sealed))); errors.Is(err, ErrNoRoom) {
		return nil
	} else if err != nil {
		return err
	}
	if err := appendSynced(s.dir, name, end, sealed); err != nil {
		return fmt.Errorf("keeping a file: %w", err)
	}
	s.forget(name)
	s.files[name] = kept{end + int64(len(sealed)), a.now()}
	s.used += end + int64(len(sealed))
	return nil
}

// DropPart forgets what there is of a download.
func (a *Archive) DropPart(f Attachment) {
	a.shelf.remove(hex.EncodeToString(a.fileTag(f)) + partial)
}

// appendSynced writes b behind the first end bytes of a file and cuts off what was
// there.
func appendSynced(dir, name string, end int64, b []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = f.Truncate(end); err == nil {
		_, err = f.WriteAt(b, end)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// nameFile says that a file of a message, whole or in part, is on this device.
func (a *Archive) nameFile(r Ref, f Attachment) error {
	tag := a.fileTag(f)
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.db.Update(func(tx *bbolt.Tx) error {
		m, _, err := a.lookUp(tx, r)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(m.Attachments, func(of Attachment) bool { return string(a.fileTag(of)) == string(tag) }) {
			return ErrNoMessage
		}
		if tx.Bucket(bucketFiles).Get(tag) != nil {
			return nil
		}
		return a.put(tx, bucketFiles, tag, nil)
	})
}

// tagOf reads the name of a file in the folder.
func tagOf(name string) (tag []byte, ok bool) {
	tag, err := hex.DecodeString(strings.TrimSuffix(name, partial))
	return tag, err == nil && len(tag) == tagSize
}
