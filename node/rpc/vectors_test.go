package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"testing"
	"time"

	"hearth/node/account"
	"hearth/node/bt"
	"hearth/node/internal/vectortest"
	"hearth/node/keys"
)

func mustID(t testing.TB, text string) account.ID {
	t.Helper()
	id, err := account.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestMessageHashVectors(t *testing.T) {
	type vector struct {
		Pubkey    string
		Namespace int16
		Data      []byte `json:"data_b64"`
		Hash      string
	}
	var file struct{ Vectors []vector }
	vectortest.Load(t, "message-hash.json", &file)
	vectortest.Each(t, "message-hash", file.Vectors, func(t *testing.T, v vector) {
		if got := MessageHash(mustID(t, v.Pubkey), v.Namespace, v.Data); got != v.Hash {
			t.Errorf("got %s, want %s", got, v.Hash)
		}
	})
}

// requestParams are the parameters that signed texts are made of.
type requestParams struct {
	Namespace    json.RawMessage
	Timestamp    int64
	SigTimestamp int64 `json:"sig_timestamp"`
	Before       int64
	Expiry       int64
	Messages     []string
	Shorten      bool
	Extend       bool
	Revoke       []string
	Unrevoke     []string
}

func (p requestParams) scope(t *testing.T) Scope {
	if string(p.Namespace) == `"all"` {
		return AllNamespaces
	}
	var s Scope
	if p.Namespace != nil {
		if err := json.Unmarshal(p.Namespace, &s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// text is the signed text of a request as a client makes it.
func (p requestParams) text(t *testing.T, method string) []byte {
	scope := p.scope(t)
	mode := ExpireSet
	switch {
	case p.Shorten:
		mode = ExpireShorten
	case p.Extend:
		mode = ExpireExtend
	}
	tokens := func(texts []string) (list []Token) {
		for _, text := range texts {
			token, err := ParseToken(text)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, token)
		}
		return list
	}
	switch method {
	case "store":
		if p.SigTimestamp == 0 {
			p.SigTimestamp = p.Timestamp
		}
		return StoreText(int16(scope), p.SigTimestamp)
	case "retrieve":
		return RetrieveText(int16(scope), p.Timestamp)
	case "delete":
		return DeleteText(p.Messages)
	case "delete_all":
		return DeleteAllText(scope, p.Timestamp)
	case "delete_before":
		return DeleteBeforeText(scope, p.Before)
	case "expire":
		return ExpireText(mode, []int64{p.Expiry}, p.Messages)
	case "expire_all":
		return ExpireAllText(scope, p.Expiry)
	case "get_expiries":
		return GetExpiriesText(p.Timestamp, p.Messages)
	case "revoke_subaccount":
		return RevokeText(p.Timestamp, tokens(p.Revoke))
	case "unrevoke_subaccount":
		return UnrevokeText(p.Timestamp, tokens(p.Unrevoke))
	}
	t.Fatalf("no signed text for %s", method)
	return nil
}

func TestSignatureVectors(t *testing.T) {
	type vector struct {
		requestParams
		Method, Signer string
		Mode           ExpireMode
		SignedASCII    string         `json:"signed_ascii"`
		SignedHex      vectortest.Hex `json:"signed_hex"`
		Token          string         `json:"subaccount_token_hex"`
		Signature      []byte         `json:"signature_base64"`
	}
	type hashVector struct {
		Account   string
		Namespace int16
		Data      []byte `json:"data_base64"`
		Hash      string
	}
	type sizeVector struct {
		Namespaces []int16
		MaxSize    []int `json:"max_size"`
	}
	var file struct {
		Keys            map[string]json.RawMessage
		Signatures      struct{ Vectors []vector }
		MessageHash     []hashVector `json:"message_hash"`
		RetrieveMaxSize struct {
			Vectors  []sizeVector
			Computed []sizeVector `json:"computed_by_us_from_the_rule"`
		} `json:"retrieve_max_size"`
	}
	vectortest.Load(t, "signatures.json", &file)
	pairs := make(map[string]*keys.Pair)
	for _, name := range []string{"group", "user"} {
		var k struct {
			Account string         `json:"account_id"`
			Seed    vectortest.Hex `json:"ed25519_seed32_hex"`
			Public  vectortest.Hex `json:"ed25519_public_hex"`
		}
		if err := json.Unmarshal(file.Keys[name], &k); err != nil {
			t.Fatal(err)
		}
		pairs[name] = keys.FromSeed([32]byte(k.Seed))
		if pairs[name].Ed25519() != [32]byte(k.Public) {
			t.Fatalf("%s: another public key", name)
		}
		key := pairs[name].Ed25519()
		if name == "user" {
			key = pairs[name].X25519()
		}
		if mustID(t, k.Account).Key() != key {
			t.Errorf("%s: the account %s has another key", name, k.Account)
		}
	}
	vectortest.Each(t, "signatures", file.Signatures.Vectors, func(t *testing.T, v vector) {
		p := v.requestParams
		p.Shorten, p.Extend = v.Mode == ExpireShorten, v.Mode == ExpireExtend
		if v.Token != "" {
			p.Revoke = []string{v.Token}
		}
		text := p.text(t, v.Method)
		want := []byte(v.SignedASCII)
		if v.SignedHex != nil {
			want = v.SignedHex
		}
		if !bytes.Equal(text, want) {
			t.Fatalf("text %q, want %q", text, want)
		}
		if got := pairs[v.Signer].Sign(text); !bytes.Equal(got, v.Signature) {
			t.Errorf("signature %x, want %x", got, v.Signature)
		}
	})
	vectortest.Each(t, "message_hash", file.MessageHash, func(t *testing.T, v hashVector) {
		if got := MessageHash(mustID(t, v.Account), v.Namespace, v.Data); got != v.Hash {
			t.Errorf("got %s, want %s", got, v.Hash)
		}
	})
	sizes := func(t *testing.T, v sizeVector) {
		if got := MaxSizes(v.Namespaces); !slices.Equal(got, v.MaxSize) {
			t.Errorf("namespaces %v: got %v, want %v", v.Namespaces, got, v.MaxSize)
		}
	}
	vectortest.Each(t, "retrieve_max_size", file.RetrieveMaxSize.Vectors, sizes)
	vectortest.Each(t, "retrieve_max_size by the rule", file.RetrieveMaxSize.Computed, sizes)
}

func TestStorageSignatureVectors(t *testing.T) {
	type seed struct {
		Seed   vectortest.Hex `json:"ed25519_seed"`
		Public vectortest.Hex `json:"ed25519_pubkey"`
		X25519 vectortest.Hex `json:"x25519_pubkey"`
	}
	type token struct {
		Hex            string `json:"token_hex"`
		B64            string `json:"token_b64"`
		Prefix         byte
		Flags          Access
		OwnerSignature []byte `json:"owner_signature_b64"`
	}
	type request struct {
		Method, Account string
		SignedBy        string         `json:"signed_by"`
		Message         vectortest.Hex `json:"message_hex"`
		MessageText     string         `json:"message_text"` // absent where a part is binary
		Signature       []byte         `json:"signature_b64"`
		Params          json.RawMessage
	}
	type monitor struct {
		SignedText string         `json:"signed_text"`
		Signature  vectortest.Hex `json:"signature_hex"`
		Request    vectortest.Hex `json:"request_bt_hex"`
	}
	type result struct {
		Method    string
		Message   vectortest.Hex `json:"message_hex"`
		Signature []byte         `json:"signature_b64"`
		Result    struct {
			Hash      string
			Deleted   []string
			Updated   []string
			Expiry    int64
			Unchanged map[string]int64
			Signature []byte
		} `json:"member_result"`
	}
	var file struct {
		Keys struct {
			Account struct {
				seed
				ID string `json:"session_id"`
			}
			Group struct {
				seed
				ID string `json:"account"`
			}
			Subaccount seed
			Server     seed `json:"storage_server"`
		}
		Tokens   []token   `json:"subaccount_tokens"`
		Requests []request `json:"client_requests"`
		Monitor  []monitor `json:"monitor_requests"`
		Results  []result  `json:"server_results"`
	}
	vectortest.Load(t, "storage-signatures.json", &file)
	owner := keys.FromSeed([32]byte(file.Keys.Account.Seed))
	group := keys.FromSeed([32]byte(file.Keys.Group.Seed))
	delegate := keys.FromSeed([32]byte(file.Keys.Subaccount.Seed))
	server := keys.FromSeed([32]byte(file.Keys.Server.Seed))
	userID, groupID := mustID(t, file.Keys.Account.ID), mustID(t, file.Keys.Group.ID)
	for pair, k := range map[*keys.Pair]seed{owner: file.Keys.Account.seed, group: file.Keys.Group.seed, delegate: file.Keys.Subaccount, server: file.Keys.Server} {
		if pair.Ed25519() != [32]byte(k.Public) || k.X25519 != nil && pair.X25519() != [32]byte(k.X25519) {
			t.Errorf("the seed of %x gives other keys", k.Public)
		}
	}
	if userID.Key() != owner.X25519() || groupID.Key() != group.Ed25519() {
		t.Error("the accounts have other keys")
	}

	vectortest.Each(t, "subaccount_tokens", file.Tokens, func(t *testing.T, v token) {
		got := NewToken(groupID, v.Flags, delegate.Ed25519())
		for _, text := range []string{v.Hex, v.B64} {
			parsed, err := ParseToken(text)
			if err != nil || parsed != got {
				t.Errorf("%s is %x, %v; want %x", text, parsed, err, got)
			}
		}
		if got.Prefix() != v.Prefix || got.Access() != v.Flags || got.Delegate() != delegate.Ed25519() {
			t.Errorf("token %x reads differently", got)
		}
		if sig := group.Sign(got[:]); !bytes.Equal(sig, v.OwnerSignature) {
			t.Errorf("owner's signature %x, want %x", sig, v.OwnerSignature)
		}
	})

	var methods []string
	vectortest.Each(t, "client_requests", file.Requests, func(t *testing.T, v request) {
		methods = append(methods, v.Method)
		var p requestParams
		if err := json.Unmarshal(v.Params, &p); err != nil {
			t.Fatal(err)
		}
		text := p.text(t, v.Method)
		if !bytes.Equal(text, v.Message) || v.MessageText != "" && string(text) != v.MessageText {
			t.Fatalf("text %q, want %q", text, v.Message)
		}
		var named struct{ Pubkey, PubKey string }
		if err := json.Unmarshal(v.Params, &named); err != nil || named.Pubkey+named.PubKey != v.Account {
			t.Errorf("the request is for %s%s, %v; want %s", named.Pubkey, named.PubKey, err, v.Account)
		}
		signer := owner
		switch {
		case v.SignedBy == "subaccount":
			signer = delegate
		case v.Account == file.Keys.Group.ID:
			signer = group
		}
		if sig := signer.Sign(text); !bytes.Equal(sig, v.Signature) {
			t.Fatalf("signature %x, want %x", sig, v.Signature)
		}

		// The service must accept the request as it is, at the time that it was
		// made, and refuse it when one bit of the signature is different.
		n, nodes := swarmOf(t, 1)
		n.now = time.UnixMilli(1_700_000_000_123)
		body, err := json.Marshal(map[string]any{"method": v.Method, "params": v.Params})
		if err != nil {
			t.Fatal(err)
		}
		if r := nodes[0].Handle(t.Context(), body); r.Status != 200 {
			t.Errorf("refused: %d %v", r.Status, r.Body)
		}
		v.Signature[10] ^= 1
		var params map[string]any
		d := json.NewDecoder(bytes.NewReader(v.Params))
		d.UseNumber()
		if err := d.Decode(&params); err != nil {
			t.Fatal(err)
		}
		params["signature"] = base64.StdEncoding.EncodeToString(v.Signature)
		if status, answer := nodes[0].call(t, v.Method, params); status != 401 {
			t.Errorf("another signature: %d %v", status, answer)
		}
	})
	for _, m := range slices.Sorted(maps.Keys(endpoints)) {
		if endpoints[m].forwardable && !slices.Contains(methods, m) {
			t.Errorf("no case signs %s", m)
		}
	}

	vectortest.Each(t, "monitor_requests", file.Monitor, func(t *testing.T, v monitor) {
		decoded, err := bt.Unmarshal(v.Request)
		if err != nil {
			t.Fatal(err)
		}
		d := decoded.(bt.Dict)
		id := userID
		if p, ok := d["p"].([]byte); ok {
			id = account.ID(p)
		}
		var namespaces []int16
		for _, ns := range d["n"].([]any) {
			namespaces = append(namespaces, int16(ns.(int64)))
		}
		text := MonitorText(id, d["t"].(int64), d["d"] == int64(1), namespaces)
		if string(text) != v.SignedText {
			t.Errorf("text %q, want %q", text, v.SignedText)
		}
		who := credentials{owner: id, signature: d["s"].([]byte)}
		if !bytes.Equal(who.signature, v.Signature) {
			t.Error("another signature in the request")
		}
		if key, ok := d["P"].([]byte); ok {
			who.ed25519 = (*[32]byte)(key)
		}
		if tok, ok := d["T"].([]byte); ok {
			who.token = (*Token)(tok)
			who.tokenSig = d["S"].([]byte)
		}
		if !who.verify(text, Read) {
			t.Error("the signature is not accepted")
		}
	})

	const first, second = "ro2z6x3kPlx5hUwHsG6bnchzfLpfLY0t3uLCKScd6bo", "eusvOk3nkWhSmVSiHjC0knEpa+t9/4ipxGVwFp6MJ5s"
	readWrite := NewToken(groupID, Read|Write, delegate.Ed25519())
	all := NewToken(groupID, Read|Write|Delete, delegate.Ed25519())
	vectortest.Each(t, "server_results", file.Results, func(t *testing.T, v result) {
		var text []byte
		switch r := v.Result; v.Method {
		case "store":
			text = StoreResultText(r.Hash)
		case "delete":
			text = DeleteResultText(userID, []string{first, second}, r.Deleted)
		case "delete_all", "delete_before":
			text = AffectedResultText(userID, 1_700_000_000_123, r.Deleted)
		case "expire_all":
			text = AffectedResultText(userID, 1_701_209_600_123, r.Updated)
		case "expire":
			text = ExpireResultText(userID, []int64{r.Expiry}, []string{first, second}, r.Updated, r.Unchanged)
		case "revoke_subaccount":
			text = RevokeResultText(groupID, 1_700_000_000_123, []Token{all})
		case "unrevoke_subaccount":
			text = RevokeResultText(groupID, 1_700_000_000_123, []Token{all, readWrite})
		default:
			t.Fatalf("unknown method %s", v.Method)
		}
		if !bytes.Equal(text, v.Message) {
			t.Fatalf("text %q, want %q", text, v.Message)
		}
		if sig := server.Sign(text); !bytes.Equal(sig, v.Signature) || !bytes.Equal(sig, v.Result.Signature) {
			t.Errorf("signature %x, want %x", sig, v.Signature)
		}
	})
}
