package seed

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hearth/node/keys"
)

// recordWindow is how far a record's time may be from the authority's. It is
// the window that the public network allows for uptime proofs.
const recordWindow = 5 * time.Minute

// ErrRecord is returned for an announcement that is malformed, badly signed or
// too old.
var ErrRecord = errors.New("invalid announcement")

// Record is a node's own word on where it can be reached.
type Record struct {
	Ed25519   [32]byte
	Address   netip.AddrPort // public IPv4 address and HTTPS port
	Timestamp int64          // Unix milliseconds; a later record replaces an earlier one
	Signature []byte         // 64 bytes, by the node key
}

// NewRecord signs a record with the node's key.
func NewRecord(node *keys.Pair, addr netip.AddrPort, now time.Time) Record {
	r := Record{Ed25519: node.Ed25519(), Address: addr, Timestamp: now.UnixMilli()}
	r.Signature = node.Sign(r.signed())
	return r
}

// signed is the text under the signature. Its first line keeps it apart from
// everything else that a node signs.
func (r Record) signed() []byte {
	return fmt.Appendf(nil, "hearth announce\n%x\n%s\n%d", r.Ed25519, r.Address, r.Timestamp)
}

// Check tells whether the record is the node's and of this time. The error
// wraps [ErrRecord].
func (r Record) Check(now time.Time) error {
	if age := now.Sub(time.UnixMilli(r.Timestamp)).Abs(); age > recordWindow {
		return fmt.Errorf("%w: made %v away from the authority's time", ErrRecord, age.Round(time.Second))
	}
	if !keys.Verify(r.Ed25519, r.signed(), r.Signature) {
		return fmt.Errorf("%w: bad signature", ErrRecord)
	}
	return nil
}

type recordJSON struct {
	Ed25519   string `json:"pubkey_ed25519"`
	Address   string `json:"address"`
	Timestamp int64  `json:"timestamp"`
	Signature string `json:"signature"`
}

// MarshalJSON writes the key in hexadecimal and the signature in base64.
func (r Record) MarshalJSON() ([]byte, error) {
	return json.Marshal(recordJSON{
		hex.EncodeToString(r.Ed25519[:]), r.Address.String(), r.Timestamp, base64.StdEncoding.EncodeToString(r.Signature),
	})
}

// ParseRecord reads what MarshalJSON wrote. It does not look at the signature
// or the time. The error wraps [ErrRecord].
func ParseRecord(b []byte) (Record, error) {
	fail := func(what string) (Record, error) { return Record{}, fmt.Errorf("%w: %s", ErrRecord, what) }
	var j recordJSON
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return fail("not the JSON of a record")
	}
	r := Record{Timestamp: j.Timestamp}
	key, err := parseKey(j.Ed25519)
	if err != nil {
		return fail("key of the node")
	}
	r.Ed25519 = key
	if r.Address, err = netip.ParseAddrPort(j.Address); err != nil || !usable(r.Address) {
		return fail("address")
	}
	if r.Signature, err = base64.StdEncoding.DecodeString(j.Signature); err != nil || len(r.Signature) != 64 {
		return fail("signature")
	}
	return r, nil
}

// usable reports whether clients could connect to the address: the network is
// IPv4 only.
func usable(a netip.AddrPort) bool {
	ip := a.Addr()
	return ip.Is4() && !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && a.Port() != 0
}

// parseKey reads 64 hexadecimal digits.
func parseKey(s string) (key [32]byte, err error) {
	if len(s) != 2*len(key) {
		return key, fmt.Errorf("%d digits instead of %d", len(s), 2*len(key))
	}
	_, err = hex.Decode(key[:], []byte(s))
	return key, err
}
