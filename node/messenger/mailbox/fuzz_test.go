package mailbox

import (
	"errors"
	"strings"
	"testing"

	"hearth/node/wire"
)

func FuzzParseSwarm(f *testing.F) {
	f.Add([]byte(`{"snodes":[{"ip":"1.2.3.4","port":"22021","port_https":22021,"pubkey_ed25519":"` + strings.Repeat("ab", 32) + `","pubkey_x25519":"` + strings.Repeat("cd", 32) + `"}],"swarm":"abc","t":1}`))
	f.Add([]byte(`{"snodes":[{"port_https":1e99},null,7],"swarm":"ffffffffffffffff"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := ParseSwarm(b)
		if err != nil {
			if !errors.Is(err, ErrReply) {
				t.Fatal(err)
			}
			return
		}
		if len(members) > maxMembers {
			t.Fatalf("%d members", len(members))
		}
		for _, m := range members {
			if !m.Address.Addr().Is4() || m.Address.Port() == 0 || m.Ed25519 == [32]byte{} || m.X25519 == [32]byte{} {
				t.Fatalf("useless member %+v", m)
			}
		}
	})
}

func FuzzParseStore(f *testing.F) {
	f.Add([]byte(`{"swarm":{"` + strings.Repeat("ab", 32) + `":{"hash":"x","signature":"AA==","already":1,"failed":0}},"hash":"` + strings.Repeat("A", 43) + `"}`))
	f.Add([]byte(`{"swarm":{"` + strings.Repeat("ab", 32) + `":[]},"hash":"` + strings.Repeat("A", 43) + `"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStore(b)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		if len(s.Members) > maxMembers {
			t.Fatalf("%d members", len(s.Members))
		}
	})
}

func FuzzParseRetrieve(f *testing.F) {
	f.Add([]byte(`{"messages":[{"hash":"` + strings.Repeat("A", 43) + `","timestamp":1,"expiration":2,"data":"aGVsbG8="}],"more":false,"t":1}`))
	f.Add([]byte(`{"messages":[{"hash":"` + strings.Repeat("A", 43) + `","timestamp":"1","expiry":null,"data":"aGVsbG8"}],"more":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, _, err := ParseRetrieve(b)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		for _, m := range messages {
			if len(m.Hash) != hashSize || len(m.Data) > wire.MaxData {
				t.Fatalf("hash of %d, data of %d bytes", len(m.Hash), len(m.Data))
			}
		}
	})
}

func FuzzParseMonitor(f *testing.F) {
	f.Add([]byte(`{"success":1,"results":[{"n":0,"messages":[{"hash":"` + strings.Repeat("A", 43) + `","timestamp":1,"expiration":2,"data":"aGVsbG8="}],"more":false}],"t":1}`))
	f.Add([]byte(`{"success":1,"results":[{"n":"0","messages":[{"hash":"` + strings.Repeat("A", 43) + `"}]},7,{}]}`))
	f.Add([]byte(`{"errcode":5,"error":"Signature verification failed"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		messages, _, err := ParseMonitor(b, 0)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		for _, m := range messages {
			if len(m.Hash) != hashSize || len(m.Data) == 0 || len(m.Data) > wire.MaxData {
				t.Fatalf("hash of %d, data of %d bytes", len(m.Hash), len(m.Data))
			}
		}
	})
}

func FuzzParseBatch(f *testing.F) {
	f.Add([]byte(`{"results":[{"code":200,"body":{"messages":[]}},{"code":421,"body":"text"}]}`))
	f.Add([]byte(`{"results":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		results, err := ParseBatch(b)
		if err != nil && !errors.Is(err, ErrReply) {
			t.Fatal(err)
		}
		if len(results) > maxResults {
			t.Fatalf("%d results", len(results))
		}
	})
}

func FuzzParseNodeList(f *testing.F) {
	f.Add([]byte(`{"result":{"status":"OK","height":7,"service_node_states":[{"public_ip":"1.2.3.4","storage_port":22021,"pubkey_ed25519":"` + strings.Repeat("ab", 32) + `","pubkey_x25519":"` + strings.Repeat("cd", 32) + `"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseNodeList(b)
		if err != nil {
			if !errors.Is(err, ErrReply) {
				t.Fatal(err)
			}
			return
		}
		if len(l.Nodes) == 0 {
			t.Fatal("an empty list without an error")
		}
	})
}
