package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"hearth/node/onion"
)

// fakeFiles answers what begins with its name.
type fakeFiles struct{ name string }

func (f fakeFiles) Request(_ context.Context, from string, post []byte) ([]byte, bool) {
	blob, _, err := onion.ParseFrame(post)
	switch {
	case err != nil || !bytes.HasPrefix(blob, []byte(f.name)):
		return nil, false
	case bytes.HasSuffix(blob, []byte("busy")):
		return nil, true
	case bytes.HasSuffix(blob, []byte("from")):
		return []byte(from), true
	}
	return append([]byte("files of "), blob...), true
}

func (f fakeFiles) Peer(_ context.Context, from [32]byte, parts [][]byte) [][]byte {
	return append([][]byte{[]byte(f.name), from[:]}, parts...)
}

func TestFileRequests(t *testing.T) {
	plain := newWeb(t, "", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "the web: "+r.Host)
	})
	net := network3(t, func(k int, c *Config) {
		if k < 2 {
			c.Files = fakeFiles{[]string{"first", "second"}[k]}
		}
		w := &web{host: "filev2.GetSession.org", addr: plain.addr}
		c.Exit = w.exit()
	})
	address := func(k int) string {
		return `"host":"` + net.nodes[k].addr.Addr().String() + `","port":` + portOf(net.nodes[k])
	}
	key := func(k int) string {
		b := net.nodes[k].keys.Ed25519()
		return string(b[:])
	}
	server := `"host":"filev2.GetSession.org","port":80,"protocol":"http"`
	const target = `"target":"/oxen/v4/lsrpc"`
	for _, tt := range []struct {
		name, blob, control string
		status              int
		want                string
	}{
		{"to the file server, for this node", "first one", server + "," + target, 200, "files of first one"},
		{"to the file server, for somebody else", "other", server + "," + target, 200, "the web: filev2.GetSession.org"},
		{"to the file server by another path", "first one", server + `,"target":"/oxen/v3/lsrpc"`, 200, "the web: filev2.GetSession.org"},
		{"when there is too much to do", "first busy", server + "," + target, 503, "Server busy, try again later"},
		{"to this node by its address", "first one", address(0) + "," + target, 200, "files of first one"},
		{"to this node under another key", "other", address(0) + "," + target, 400, "Invalid ciphertext"},
		{"to another node by its address", "second one", address(1) + "," + target, 200, "files of second one"},
		{"to another node under another key", "first one", address(1) + "," + target, 400, "Invalid ciphertext"},
		{"to another node that has too much to do", "second busy", address(1) + "," + target, 503, "Server busy, try again later"},
		{"directly, which is told with the address", "first from", server + "," + target, 200, "127.0.0.1/32"},
		{"over another node, which is told with its key", "second from", address(1) + "," + target, 200, key(0)},
		{"to a node without files", "third", address(2) + "," + target, 404, "no files here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sent := onion.EncodeFrame([]byte(tt.blob), []byte("{"+tt.control+"}"))
			entry, _ := layerTo(t, net.nodes[0].keys, sent)
			if got := net.post(0, entry); got.status != tt.status || got.body != tt.want {
				t.Errorf("got %v, want %d %q", got, tt.status, tt.want)
			}
		})
	}
	t.Run("of a node that is not ready", func(t *testing.T) {
		reasons := []string{"tired"}
		net.nodes[1].notReady.Store(&reasons)
		defer net.nodes[1].notReady.Store(nil)
		entry, _ := layerTo(t, net.nodes[0].keys, onion.EncodeFrame([]byte("second"), []byte("{"+address(1)+","+target+"}")))
		if got := net.post(0, entry); got.status != 503 {
			t.Errorf("got %v", got)
		}
	})
	t.Run("in several parts", func(t *testing.T) {
		parts, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandFileRequest, [][]byte{{1}, {2}})
		if err != nil || len(parts) != 2 || string(parts[0]) != "400" {
			t.Errorf("got %q, %v", parts, err)
		}
	})
}

func TestFileServicesOfTwoNodes(t *testing.T) {
	net := network3(t, func(k int, c *Config) {
		if k < 2 {
			c.Files = fakeFiles{[]string{"first", "second"}[k]}
		}
	})
	own := net.nodes[0].keys.Ed25519()
	parts, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandFiles, [][]byte{[]byte("a"), []byte("b")})
	if err != nil || len(parts) != 4 || string(parts[0]) != "second" || !bytes.Equal(parts[1], own[:]) || string(parts[3]) != "b" {
		t.Errorf("got %q, %v", parts, err)
	}
	if parts, err := net.nodes[0].links.Request(t.Context(), net.member(2), CommandFiles, [][]byte{{}, {}}); !errors.Is(err, ErrRefused) {
		t.Errorf("a node without files: %q, %v", parts, err)
	}
	large := make([]byte, maxStorageMessage+1)
	if parts, err := net.nodes[0].links.Request(t.Context(), net.member(1), CommandFiles, [][]byte{large, {}}); err == nil {
		t.Errorf("a message above the limit: %d parts", len(parts))
	}
}

func portOf(n *node) string {
	_, port, _ := net.SplitHostPort(n.addr.String())
	return port
}
