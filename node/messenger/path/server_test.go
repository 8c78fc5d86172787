package path

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/keys"
	"hearth/node/messenger/path/pathtest"
	"hearth/node/onion"
)

func TestAServerThatNobodyReachesCostsNoNode(t *testing.T) {
	server := onion.WebServer{Host: "files.example", Target: "/x", Protocol: "http", Port: 80, X25519: keys.FromSeed([32]byte{9}).X25519()}
	n := pathtest.New(t, 20, echo)
	c := testClient(t, n)
	var asked atomic.Int64
	for _, node := range n.Nodes {
		n.Sabotage(node.Ed25519, func(w http.ResponseWriter, _ *http.Request) { asked.Add(1); w.WriteHeader(http.StatusGatewayTimeout) })
	}
	if _, err := c.Pool().For(Key{}); err != nil { // chooses the guards
		t.Fatal(err)
	}
	guards := c.Pool().Guards()
	for range 5 {
		_, err := c.AskServer(t.Context(), server, []byte("x"), nil)
		if !errors.Is(err, ErrPath) {
			t.Fatalf("error %v", err)
		}
	}
	if asked.Load() < 10 {
		t.Errorf("only %d tries", asked.Load())
	}
	if c.Pool().Size() != 20 || !slices.Equal(c.Pool().Guards(), guards) {
		t.Errorf("%d nodes are left, guards %x, before %x", c.Pool().Size(), c.Pool().Guards(), guards)
	}
}

func TestCallingATransferOffIsNobodysFaultHoweverLate(t *testing.T) {
	server := onion.WebServer{Host: "files.example", Target: "/x", X25519: keys.FromSeed([32]byte{9}).X25519()}
	synctest.Test(t, func(t *testing.T) {
		n := pathtest.New(t, 20, echo)
		n.Web(func(ctx context.Context, _ *onion.Server) (int, []byte) { <-ctx.Done(); return 500, nil })
		client := testClient(t, n)
		if _, err := client.Pool().For(Key{}); err != nil { // chooses the guards
			t.Fatal(err)
		}
		guards := client.Pool().Guards()
		for range 6 * MaxStrikes {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(FileLimit-time.Second, cancel)
			if _, err := client.AskServer(ctx, server, []byte("x"), nil); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if now := client.Pool().Guards(); !slices.Equal(now, guards) {
			t.Errorf("the guards are %x, before %x", now, guards)
		}
	})
}

func TestAnAnswerOfAServerIsBounded(t *testing.T) {
	server := onion.WebServer{Host: "files.example", Target: "/x", X25519: keys.FromSeed([32]byte{9}).X25519()}
	n := pathtest.New(t, 20, echo)
	c := testClient(t, n)
	for _, node := range n.Nodes {
		n.Sabotage(node.Ed25519, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		})
	}
	var sent, most int64
	_, err := c.AskServer(t.Context(), server, bytes.Repeat([]byte("x"), 100_000), func(s, received, _ int64) { sent, most = s, max(most, received) })
	if !errors.Is(err, ErrPath) || sent < 100_000 || most > MaxFileReply+1 {
		t.Errorf("%d bytes sent, %d received, %v", sent, most, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.AskServer(ctx, server, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
