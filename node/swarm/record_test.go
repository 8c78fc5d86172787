package swarm

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestRecordsAreThoseOfTheStorageServer(t *testing.T) {
	n := Node{
		Ed25519: [32]byte{0xaa, 31: 0xbb}, X25519: [32]byte{7}, Swarm: 0x0102030405060708,
		Address: netip.MustParseAddrPort("1.2.3.4:259"), QUIC: 260, Version: [3]uint8{2, 9, 1}, RequestedUnlockHeight: 5,
	}
	want := "aa" + strings.Repeat("00", 30) + "bb" + "0102030405060708" + "01020304" + "0103" + "0104" + "020901"
	got := n.AppendRecord(nil)
	if hex.EncodeToString(got) != want || len(got) != RecordSize {
		t.Errorf("got  %x\nwant %s", got, want)
	}
	n.X25519, n.RequestedUnlockHeight = [32]byte{}, 0 // not in a record
	if back := DecodeRecord([RecordSize]byte(got)); back != n {
		t.Errorf("it came back as %+v", back)
	}

	out, v6 := n, n
	out.Swarm, v6.Address = None, netip.MustParseAddrPort("[::1]:259")
	list := &List{Nodes: []Node{out, n, v6, n}}
	if b := list.Records(); !bytes.Equal(b, slices.Repeat(got, 2)) {
		t.Errorf("the list has %x: nodes without a swarm or an IPv4 address do not belong there", b)
	}
	list = nil
	if b := list.Records(); len(b) > 0 {
		t.Errorf("no list has %x", b)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add(make([]byte, RecordSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < RecordSize {
			return
		}
		r := [RecordSize]byte(b)
		if back := DecodeRecord(r).AppendRecord(nil); !bytes.Equal(back, r[:]) {
			t.Errorf("%x came back as %x", r, back)
		}
	})
}
