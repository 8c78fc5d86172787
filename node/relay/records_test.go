package relay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"hearth/node/swarm"
)

func TestTheBinaryListComesAsTheClientCanReadIt(t *testing.T) {
	net := network3(t)
	list := net.list.Load()
	want := list.Records()
	if len(want) != swarm.RecordSize*len(list.Nodes) || len(want) == 0 {
		t.Fatalf("%d bytes for %d nodes", len(want), len(list.Nodes))
	}
	// As Session's Android client asks.
	const request = `{"method":"active_nodes_bin","params":{"active_only":true,"fields":["public_ip","storage_port"]}}`

	t.Run("directly: bytes", func(t *testing.T) {
		got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(request))
		if got.status != 200 || got.header.Get("Content-Type") != "application/octet-stream" || got.body != string(want) {
			t.Errorf("got %v, %v", got, got.header)
		}
	})
	t.Run("through an onion: base64", func(t *testing.T) {
		req := net.build(net.hops(0, 1), net.nodes[2].hop(), request)
		status, body, err := req.OpenReply([]byte(net.post(0, req.Body).body))
		if err != nil || status != 200 || string(body) != base64.StdEncoding.EncodeToString(want) {
			t.Errorf("got %d %q, %v", status, body, err)
		}
	})
	t.Run("within a batch: base64", func(t *testing.T) {
		got := net.send(0, "POST", "/storage_rpc/v1", strings.NewReader(`{"method":"batch","params":{"requests":[`+request+`]}}`))
		var answer struct {
			Results []struct {
				Code int
				Body []byte
			}
		}
		if err := json.Unmarshal([]byte(got.body), &answer); err != nil || len(answer.Results) != 1 || answer.Results[0].Code != 200 || !bytes.Equal(answer.Results[0].Body, want) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}
