package engine

import (
	"errors"
	"sync"

	dbm "github.com/cometbft/cometbft-db"
	"github.com/cometbft/cometbft/config"
)

// CometBFT closes its databases while goroutines that talk to peers may still
// read from them, and those panic on the error. For a program that ends anyway
// nobody notices; here the process goes on. So a database that was closed is an
// empty one.

var errClosed = errors.New("database is closed")

// closingDB is a database that can be read while it is being closed.
type closingDB struct {
	dbm.DB
	mu     sync.RWMutex
	closed bool
}

func openDB(c *config.DBContext) (dbm.DB, error) {
	db, err := config.DefaultDBProvider(c)
	if err != nil {
		return nil, err
	}
	return &closingDB{DB: db}, nil
}

func (c *closingDB) Get(key []byte) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, nil
	}
	return c.DB.Get(key)
}

func (c *closingDB) Has(key []byte) (bool, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return false, nil
	}
	return c.DB.Has(key)
}

func (c *closingDB) Iterator(start, end []byte) (dbm.Iterator, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, errClosed
	}
	return c.DB.Iterator(start, end)
}

func (c *closingDB) ReverseIterator(start, end []byte) (dbm.Iterator, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return nil, errClosed
	}
	return c.DB.ReverseIterator(start, end)
}

func (c *closingDB) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.DB.Close()
}

// life lets calls of the engine finish before the state is closed, and turns
// later ones away.
type life struct {
	mu   sync.RWMutex
	over bool
}

// enter is false when it is over; else leave has to follow.
func (l *life) enter() bool {
	l.mu.RLock()
	if l.over {
		l.mu.RUnlock()
		return false
	}
	return true
}

func (l *life) leave() { l.mu.RUnlock() }

// end waits for the calls under way.
func (l *life) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
}
