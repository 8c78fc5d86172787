package onion

import (
	"fmt"
	"math"

	"hearth/node/bt"
	"hearth/node/keys"
)

// Layer is one encrypted layer as it arrives at the node that it is for.
type Layer struct {
	Ciphertext   []byte
	EphemeralKey [32]byte // X25519, the client's, of this layer alone
	EncType      EncType
	// HopNo counts the links behind this node: 0 at the entry, unless the
	// client began at a higher number to hide where the path begins.
	HopNo int
}

// ParseEntry reads the body of a client's request: a frame of the first
// ciphertext and JSON with ephemeral_key and, optionally, enc_type and hop_no.
// The ciphertext shares memory with body. Errors are [ErrMalformed]; their text
// is what the answer says after [PrefixEntry]. No hop number is too high here,
// the next node refuses it; the size of body is the caller's to limit
// ([MaxRequest]).
func ParseEntry(body []byte) (Layer, error) {
	blob, text, err := splitFrame(body)
	if err != nil {
		return Layer{}, err
	}
	control, err := parseObject(text)
	if err != nil {
		return Layer{}, err
	}
	var key, encType, hopNo []byte
	for name, raw := range control.members() {
		switch name {
		case "ephemeral_key":
			key = raw
		case "enc_type":
			encType = raw
		case "hop_no":
			hopNo = raw
		}
	}
	l := Layer{Ciphertext: blob}
	if l.EphemeralKey, err = keyValue("ephemeral_key", key); err != nil {
		return Layer{}, err
	}
	if l.EncType, err = encTypeValue("enc_type", encType); err != nil {
		return Layer{}, err
	}
	if hopNo != nil {
		n, err := intValue("hop_no", hopNo)
		if err != nil {
			return Layer{}, err
		}
		// A hop counts on from here, which must not overflow.
		l.HopNo = int(min(max(n, 0), math.MaxInt32-1))
	}
	return l, nil
}

// MarshalBT encodes the layer as one node sends it to the next: a bt dictionary
// of data, enc_type, ephemeral_key (32 raw bytes) and hop_no.
func (l Layer) MarshalBT() []byte {
	enc := l.EncType
	if enc == "" {
		enc = GCM
	}
	const others = 100 // more than everything but the ciphertext takes
	b := make([]byte, 0, len(l.Ciphertext)+others)
	b = append(b, "d4:data"...)
	b = bt.AppendBytes(b, l.Ciphertext)
	b = append(b, "8:enc_type"...)
	b = bt.AppendBytes(b, enc)
	b = append(b, "13:ephemeral_key"...)
	b = bt.AppendBytes(b, l.EphemeralKey[:])
	b = append(b, "6:hop_no"...)
	b = bt.AppendInt(b, int64(l.HopNo))
	return append(b, 'e')
}

// ParseLayerBT reads what [Layer.MarshalBT] of another node wrote. The
// ciphertext shares memory with b. Unknown keys are skipped, a key out of order
// counts as absent, a missing enc_type is [GCM] and a missing or low hop_no is
// 1. The error is [ErrPathLength] for a hop_no above [MaxHops] and otherwise
// [ErrMalformed], whose text is what the answer says after [PrefixLayer].
func ParseLayerBT(b []byte) (Layer, error) {
	l, err := parseLayerBT(b)
	if err != nil {
		return Layer{}, err
	}
	if l.HopNo > MaxHops {
		return Layer{}, ErrPathLength
	}
	return l, nil
}

func parseLayerBT(b []byte) (Layer, error) {
	l := Layer{EncType: GCM, HopNo: 1}
	r, err := bt.ReadDict(b)
	if err != nil {
		return l, asDetail(err)
	}
	data, err := bytesAt(r, "data")
	if err != nil {
		return l, err
	}
	if data == nil {
		return l, detail("required data payload not found")
	}
	l.Ciphertext = data

	name, err := bytesAt(r, "enc_type")
	if err != nil {
		return l, err
	}
	if name != nil {
		if l.EncType, err = ParseEncType(string(name)); err != nil {
			return l, err
		}
	}

	key, err := bytesAt(r, "ephemeral_key")
	if err != nil {
		return l, err
	}
	if key == nil {
		return l, detail("ephemeral key not found")
	}
	if len(key) != len(l.EphemeralKey) {
		return l, detail(fmt.Sprintf("Key data is invalid: expected %d bytes, received %d", len(l.EphemeralKey), len(key)))
	}
	l.EphemeralKey = [32]byte(key)

	found, err := r.Find("hop_no")
	if err != nil {
		return l, asDetail(err)
	}
	if found {
		n, err := r.Int()
		if err != nil {
			return l, asDetail(err)
		}
		l.HopNo = int(min(max(n, 1), math.MaxInt32-1))
	}
	return l, asDetail(r.Close())
}

// bytesAt returns the byte string at key, never nil when the key is there.
func bytesAt(r *bt.DictReader, key string) ([]byte, error) {
	found, err := r.Find(key)
	if err != nil || !found {
		return nil, asDetail(err)
	}
	b, err := r.Bytes()
	return b, asDetail(err)
}

// asDetail makes a parser's error one whose text goes into an answer.
func asDetail(err error) error {
	if err == nil {
		return nil
	}
	return detail(err.Error())
}

// channel derives the key that node shares with the client for this layer.
func (l Layer) channel(node *keys.Pair) (channel, error) {
	shared, err := node.Shared(l.EphemeralKey)
	if err != nil {
		return channel{}, err
	}
	return newChannel(l.EncType, shared, l.EphemeralKey, node.X25519()), nil
}
