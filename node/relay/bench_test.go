package relay

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"hearth/node/rpc"
)

// What the server itself costs, HTTPS, limits and figures, for a request and an
// answer of the usual sizes and for the largest file.
func BenchmarkRequest(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1KiB", 1 << 10}, {"10MB", 10_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			answer := strings.Repeat("x", size.n)
			net := network3(b, func(k int, c *Config) {
				c.Storage = storageFunc(func(context.Context, []byte) rpc.Response { return rpc.Response{Status: 200, Body: answer} })
			})
			c := client(b)
			b.SetBytes(int64(2 * size.n))
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.Post("https://"+net.nodes[0].addr.String()+"/storage_rpc/v1", "", strings.NewReader(answer))
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				// A single sender may be faster than the limit of its address.
				if resp.StatusCode != http.StatusTooManyRequests && (n != int64(size.n) || err != nil) {
					b.Fatal(n, err)
				}
			}
		})
	}
}
