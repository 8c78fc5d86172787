package light

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"hearth/node/ledger"
	"hearth/node/wholefile"
)

// Anchor is a trusted header and the ledger that it belongs to: all that somebody
// who is no node has to know in order to prove the list.
type Anchor struct {
	Chain string
	Trust
}

// String is the form for files and people: chain, colon, height, colon, hash.
func (a Anchor) String() string { return a.Chain + ":" + a.Trust.String() }

// MarshalText writes what String gives.
func (a Anchor) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads it. The error is [ErrTrust].
func (a *Anchor) UnmarshalText(b []byte) error {
	b = bytes.TrimSpace(b)
	// The name of a chain may have colons.
	end := bytes.LastIndexByte(b[:max(0, bytes.LastIndexByte(b, ':'))], ':')
	if end < 1 || end > ledger.MaxChain {
		return fmt.Errorf("%w: want chain:height:hash", ErrTrust)
	}
	a.Chain = string(b[:end])
	return a.Trust.UnmarshalText(b[end+1:])
}

// keepEvery is the least time between two writes of a [Keeper]: little against
// [TrustingPeriod], and little wear for an SD card.
const keepEvery = time.Hour

// Keeper is the anchor of one client, which it keeps in a file from run to run. It
// is safe for concurrent use.
type Keeper struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	mu      sync.Mutex
	anchor  Anchor
	written time.Time
}

// OpenKeeper begins with the header in the file, or with the one that a release or
// a person vouches for now, whichever is newer; one of another ledger replaces what
// is in the file. Given the zero Anchor, only the file counts. The error is
// [fs.ErrNotExist] when there is neither, and [ErrTrust] for a file that cannot be
// read.
func OpenKeeper(path string, given Anchor, now func() time.Time, log *slog.Logger) (*Keeper, error) {
	k := &Keeper{path: path, now: now, log: log, anchor: given}
	b, err := os.ReadFile(path)
	var kept Anchor
	if err == nil {
		if err = kept.UnmarshalText(b); err != nil {
			err = fmt.Errorf("%s: %w", path, err)
		}
	}
	switch {
	case given == Anchor{}:
		if err != nil {
			return nil, err
		}
		k.anchor = kept
		return k, nil
	case err == nil && kept.Chain == given.Chain && kept.Height >= given.Height:
		k.anchor = kept
		return k, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		log.Warn("the trusted header of earlier runs is given up", "error", err)
	}
	return k, k.write()
}

// Anchor is the newest trusted header.
func (k *Keeper) Anchor() Anchor {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.anchor
}

// Save takes a header over that was proven. It is written at most once in an hour;
// what goes lost with a power cut is proven again.
func (k *Keeper) Save(t Trust) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.Height <= k.anchor.Height {
		return
	}
	k.anchor.Trust = t
	if age := k.now().Sub(k.written); age >= 0 && age < keepEvery {
		return
	}
	if err := k.write(); err != nil {
		k.log.Error("the trusted header is not kept", "error", err)
	}
}

// write is called with k.mu held, or before anybody else knows k.
func (k *Keeper) write() error {
	if err := wholefile.Write(k.path, []byte(k.anchor.String()+"\n")); err != nil {
		return fmt.Errorf("keeping the trusted header: %w", err)
	}
	k.written = k.now()
	return nil
}
