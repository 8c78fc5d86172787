package devnet_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"

	"hearth/node/api"
	"hearth/node/messenger"
)

// meteredConn lets so many bytes in, and counts them.
type meteredConn struct {
	net.Conn
	left, read *atomic.Int64
}

func (c meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	if c.left.Add(-int64(n)) < 0 {
		c.Close()
		return 0, errors.New("the line is cut")
	}
	return n, err
}

func TestADownloadThatIsCutGoesOnAfterARestart(t *testing.T) {
	t.Parallel() // it mostly waits
	n := messengerNetwork(t)
	alice := talk(t, n, 1, nil)
	file := filepath.Join(t.TempDir(), "bob.db")
	var left, read atomic.Int64
	left.Store(1 << 40)
	metered := func(c *messenger.Config) {
		c.DBPath = file
		dial := c.Dial
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return meteredConn{conn, &left, &read}, err
		}
	}
	bob := talk(t, n, 2, metered)
	alice.knows(bob)
	bob.knows(alice)
	content := random(t, 6_000_000)
	alice.sendsFile(bob, &api.FileHead{Name: "f"}, content)
	m := bob.getsFile(alice)
	req := &api.FetchFileRequest{With: alice.id, Id: m.Id}

	left.Store(4_000_000)
	var far uint64
	err := bob.FetchFileTo(t.Context(), req, &bytes.Buffer{}, func(p *api.Transfer) error {
		far = max(far, p.Done)
		return nil
	})
	if err == nil || far < 2_000_000 {
		t.Fatalf("it got %d bytes, %v", far, err)
	}
	bob.stop()

	left.Store(1 << 40)
	bob = talk(t, n, 2, metered)
	read.Store(0)
	got, err := bob.fetch(req)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if n := read.Load(); n > 5_000_000 {
		t.Errorf("%d bytes were fetched for the rest", n)
	}
}
