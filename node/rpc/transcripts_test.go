package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"hearth/node/bt"
	"hearth/node/swarm"
)

// transcripts are requests to the real storage server and its answers.
type transcripts struct {
	Nodes []struct {
		Role      string
		Seed      string `json:"ed25519_seed"`
		Swarm     string `json:"swarm_id"`
		HTTPSPort uint16 `json:"https_port"`
	}
	Requests   []transcript
	MemberDown []transcript `json:"member_down"`
	Forwarded  []struct {
		Method      string
		Body, Reply []byte
	}
	StorageCC []struct {
		Name, Method string
		Body         []byte
		Reply        [][]byte
	} `json:"storage_cc"`
}

type transcript struct {
	Name, Node    string
	Status        int
	Request       string
	RequestBase64 []byte `json:"request_base64"`
	Now           int64
	Response      json.RawMessage
	Text          string
}

func loadTranscripts(t *testing.T) (transcripts, *testNetwork) {
	t.Helper()
	file, err := os.ReadFile("testdata/transcripts.json")
	if err != nil {
		t.Fatal(err)
	}
	// The large messages are written out here and not in the file.
	file = regexp.MustCompile(`@(\d+) and x up to (\d+) bytes@`).ReplaceAllFunc(file, func(m []byte) []byte {
		var head string
		var size int
		fmt.Sscanf(string(m), "@%s and x up to %d bytes@", &head, &size)
		message := head + strings.Repeat("x", size-len(head))
		return []byte(base64.StdEncoding.EncodeToString([]byte(message)))
	})
	var tr transcripts
	if err := json.Unmarshal(file, &tr); err != nil {
		t.Fatal(err)
	}
	n := newNetwork()
	for _, node := range tr.Nodes {
		if node.Role == "recorder" {
			continue // it was a member for a part of the recording only
		}
		seed, err := hex.DecodeString(node.Seed)
		if err != nil {
			t.Fatal(err)
		}
		id, err := strconv.ParseUint(node.Swarm, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		n.add(t, node.Role, [32]byte(seed), swarm.ID(id), node.HTTPSPort)
	}
	n.names["dead"].down = true
	return tr, n
}

// TestAnswersEqualTheStorageServers sends the recorded requests, in their order,
// to nodes with the same keys and compares every answer, signatures included.
func TestAnswersEqualTheStorageServers(t *testing.T) {
	tr, n := loadTranscripts(t)
	if len(tr.Requests) < 150 {
		t.Fatalf("only %d recorded requests", len(tr.Requests))
	}
	for _, c := range tr.Requests {
		t.Run(c.Name, func(t *testing.T) {
			if c.Name != "delete_before namespace all" {
				c.replay(t, n)
				return
			}
			// Upstream deletes the messages and then fails to write the answer.
			n.now = time.UnixMilli(c.Now)
			r := n.names[c.Node].Handle(t.Context(), []byte(c.Request))
			element := at(asJSON(t, r.Body), "swarm", "0d00c95ce940cd2d997fa4dbd09a8d8742a919f59a7f664c0ee9c0a23fe3a51b")
			deleted, _ := at(element, "deleted").(map[string]any)
			if r.Status != 200 || len(deleted) != 2 {
				t.Errorf("got %d %v", r.Status, r.Body)
			}
		})
	}
}

func TestAnswersEqualTheStorageServersWhileAMemberIsDown(t *testing.T) {
	tr, n := loadTranscripts(t)
	n.names["A3"].down = true
	cases := 0
	for _, c := range tr.MemberDown {
		if strings.Contains(c.Name, "onion") {
			continue
		}
		cases++
		t.Run(c.Name, func(t *testing.T) { c.replay(t, n) })
	}
	if cases < 3 {
		t.Fatalf("%d cases", cases)
	}
}

func (c transcript) replay(t *testing.T, n *testNetwork) {
	n.now = time.UnixMilli(c.Now)
	node := n.names[c.Node]
	var want any
	if c.Response == nil {
		want = c.Text
	} else {
		want = unmarshal(t, c.Response)
	}
	node.cfg.ServiceNodes = func(json.RawMessage) (json.RawMessage, error) {
		return json.Marshal(at(want, "result"))
	}
	body := []byte(c.Request)
	if c.RequestBase64 != nil {
		body = c.RequestBase64
	}
	r := node.Handle(t.Context(), body)
	encoded, err := json.Marshal(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := unmarshal(t, encoded); r.Status != c.Status || !reflect.DeepEqual(got, adapt(want)) {
		t.Errorf("request %.600s\n got %d %.3000v\nwant %d %.3000v", body, r.Status, got, c.Status, adapt(want))
	}
}

// adapt changes the recorded answers where this node differs on purpose.
func adapt(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = adapt(v[k])
		}
		if _, ok := v["port_omq"]; ok { // not served here
			v["port_omq"], v["port_quic"] = json.Number("0"), json.Number("0")
		}
		if v["data"] == "=" { // upstream's base64 of an empty message
			v["data"] = ""
		}
	case []any:
		for i := range v {
			v[i] = adapt(v[i])
		}
	}
	return v
}

func unmarshal(t *testing.T, b []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestForwardedRequestsEqualTheStorageServers checks what a real node sent to
// the other members against what this one makes of the same request: reading and
// writing it again gives the same bytes.
func TestForwardedRequestsEqualTheStorageServers(t *testing.T) {
	tr, _ := loadTranscripts(t)
	if len(tr.Forwarded) < 10 {
		t.Fatalf("only %d recorded requests", len(tr.Forwarded))
	}
	for i, c := range tr.Forwarded {
		t.Run(fmt.Sprint(i, " ", c.Method), func(t *testing.T) {
			n, nodes := swarmOf(t, 2)
			v, err := bt.Unmarshal(c.Body)
			if err != nil {
				t.Fatal(err)
			}
			dict := v.(bt.Dict)
			for _, k := range []string{"timestamp", "sig_timestamp", "before"} {
				if ts, ok := dict[k].(int64); ok {
					n.now = time.UnixMilli(ts)
				}
			}
			if n.now.UnixMilli() == 1_800_000_000_000 { // no time in it: any before the expiry
				n.now = time.UnixMilli(1_795_433_416_600)
			}
			do, err := endpoints[c.Method].parse(&params{bt: dict})
			if err != nil {
				t.Fatal(err)
			}
			if r := do(nodes[0].Service.call(t.Context(), false))(); r.Status != 200 {
				t.Fatalf("refused: %d %v", r.Status, r.Body)
			}
			if got := nodes[1].received; len(got) != 1 || got[0] != c.Method || !bytes.Equal(nodes[1].bodies[0], c.Body) {
				t.Errorf("forwarded %v %q\nwant %q", got, nodes[1].bodies, c.Body)
			}
		})
	}
}

func TestRepliesToPeersEqualTheStorageServers(t *testing.T) {
	tr, n := loadTranscripts(t)
	if len(tr.StorageCC) < 4 {
		t.Fatalf("only %d recorded requests", len(tr.StorageCC))
	}
	for _, c := range tr.StorageCC {
		t.Run(c.Name, func(t *testing.T) {
			if v, err := bt.Unmarshal(c.Body); err == nil {
				if ts, ok := v.(bt.Dict)["timestamp"].(int64); ok {
					n.now = time.UnixMilli(ts)
				}
			}
			// Which member was asked is not recorded; its signature tells.
			var answers []string
			for _, name := range []string{"A1", "A2", "A3", "B1", "B2", "B3"} {
				got := n.names[name].HandleForwarded(t.Context(), c.Method, c.Body)
				if reflect.DeepEqual(got, c.Reply) || len(got) == 0 && len(c.Reply) == 0 {
					return
				}
				answers = append(answers, fmt.Sprintf("%q", got))
			}
			t.Errorf("got %s\nwant %q", strings.Join(answers, "\n"), c.Reply)
		})
	}
}
