package rpc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hearth/node/storage"
)

// Every request that changes something is carried out under a stamp, by which
// the database orders what happens in a swarm. The node that the client talks to
// gives it; the other members take it over when it comes with the request and is
// near their own time.

type stampKey struct{}

// WithStamp returns the context of a request that another node took under a
// stamp (µs since 1970).
func WithStamp(ctx context.Context, stamp int64) context.Context {
	return context.WithValue(ctx, stampKey{}, stamp)
}

// StampOf returns the stamp that a request came with, or is to be sent with; 0
// when it has none.
func StampOf(ctx context.Context) int64 {
	stamp, _ := ctx.Value(stampKey{}).(int64)
	return stamp
}

// StampTolerance is how far a stamp may be ahead of this node's clock, and for
// one that comes with a request also behind it.
const StampTolerance = 60 * time.Second

func (s *Service) stamp(ctx context.Context) int64 {
	if stamp := StampOf(ctx); stamp != 0 {
		if off := time.UnixMicro(stamp).Sub(s.cfg.Now()); off.Abs() <= StampTolerance {
			return stamp
		}
	}
	return s.cfg.DB.NextStamp()
}

// proofWindow is how far the time that an owner signed may be from the stamp of
// the request, in ms: the window for clients, and as much again for a node whose
// stamps run ahead of its clock because another's do.
const proofWindow = 2*signatureWindow + 10_000

// ErrProof is returned for a change that the owner did not ask for.
var ErrProof = errors.New("the account did not ask for this change")

// The first byte of a proof says what follows the signature.
const (
	proofEd25519 = 1 << iota // 32 bytes
	proofToken               // the owner's signature of the delegate's token, 64 bytes
	proofPlain               // nothing, but: the request was signed without the word "extend"
)

// change completes what the request does with its owner, its stamp and what
// shows others that the owner asked for it.
func (c *credentials) change(of *call, change storage.Change) storage.Change {
	change.Owner, change.Stamp = c.owner, of.stamp
	proof := append([]byte{0}, c.signature...)
	if c.ed25519 != nil {
		proof[0] |= proofEd25519
		proof = append(proof, c.ed25519[:]...)
	}
	if c.token != nil {
		proof[0] |= proofToken
		proof = append(proof, c.tokenSig...)
		change.Delegate = c.token[:]
	}
	change.Proof = proof
	return change
}

// VerifyChange reports whether the account that a change is about, or a delegate
// of it with the access needed, signed the request that the change stands for.
// Another node says that it came under the stamp of the change. Where the signed
// text contains a time, the stamp must fit; a delete and an expire can be repeated
// by whoever has seen them, as the network means it. The error wraps ErrProof.
//
// Whether the delegate's token has been withdrawn is for the database to see.
func VerifyChange(change *storage.Change) error {
	who, err := openProof(change)
	if err != nil {
		return err
	}
	at := storage.StampTime(change.Stamp)
	scope := Scope(change.Namespace)
	if change.All {
		scope = AllNamespaces
	}
	for _, h := range change.Hashes {
		if len(h) != hashLength {
			return fmt.Errorf("%w: a hash of %d characters", ErrProof, len(h))
		}
	}
	inTime := change.At >= at-proofWindow && change.At <= at+proofWindow
	var text []byte
	need := Delete
	switch change.Kind {
	case storage.Delete:
		text, inTime = DeleteText(change.Hashes), true
	case storage.DeleteAll:
		text = DeleteAllText(scope, change.At)
	case storage.DeleteBefore:
		text, inTime = DeleteBeforeText(scope, change.At), change.At <= at+proofWindow
	case storage.ExpireAll:
		text, inTime = ExpireAllText(scope, change.At), change.At >= at-proofWindow
	case storage.Expire:
		need, inTime = Write, true
		for _, e := range change.Expiries {
			inTime = inTime && e >= at-proofWindow
		}
		mode := ExpireSet
		for signed, stored := range storedModes {
			if stored == change.Mode {
				mode = signed
			}
		}
		plain := change.Proof[0]&proofPlain != 0
		if deletes := who.token == nil || who.token.Access()&Delete != 0; deletes && plain || !deletes && mode != ExpireExtend {
			return fmt.Errorf("%w: the mode is not that of the request", ErrProof)
		}
		if plain {
			mode = ExpireSet
		}
		text = ExpireText(mode, change.Expiries, change.Hashes)
	case storage.Replace:
		if !publicOutbox(change.Namespace) {
			return fmt.Errorf("%w: namespace %d holds more than one message", ErrProof, change.Namespace)
		}
		// The signature of a store does not cover the message. Whoever saw it could
		// put another in its place, at that time; nothing more is to be had.
		text, need = StoreText(change.Namespace, change.At), Write|Delete
	case storage.Revoke, storage.Unrevoke:
		tokens := make([]Token, len(change.Tokens))
		for i, t := range change.Tokens {
			tokens[i] = t
		}
		need = ownerOnly
		if text = RevokeText(change.At, tokens); change.Kind == storage.Unrevoke {
			text = UnrevokeText(change.At, tokens)
		}
	default:
		return fmt.Errorf("%w: kind %d", ErrProof, change.Kind)
	}
	switch {
	case !inTime:
		return fmt.Errorf("%w: not at that time", ErrProof)
	case !who.verify(text, need):
		return fmt.Errorf("%w: wrong signature", ErrProof)
	}
	return nil
}

// openProof reads what change wrote.
func openProof(change *storage.Change) (*credentials, error) {
	who := &credentials{owner: change.Owner}
	rest := change.Proof
	take := func(n int) []byte {
		if len(rest) < n {
			rest = nil
			return make([]byte, n)
		}
		b := rest[:n:n]
		rest = rest[n:]
		return b
	}
	flags := take(1)[0]
	who.signature = take(64)
	size := 1 + 64
	if flags&proofEd25519 != 0 {
		if change.Owner.Prefix() != 0x05 {
			return nil, fmt.Errorf("%w: a key of its own for an account that is one", ErrProof)
		}
		who.ed25519 = (*[32]byte)(take(32))
		size += 32
	}
	if flags&proofToken != 0 {
		who.tokenSig = take(64)
		size += 64
	}
	if len(change.Proof) != size || (flags&proofToken != 0) != (len(change.Delegate) == len(Token{})) {
		return nil, fmt.Errorf("%w: proof of %d bytes", ErrProof, len(change.Proof))
	}
	if flags&proofToken != 0 {
		who.token = (*Token)(change.Delegate)
	}
	return who, nil
}

var storedModes = map[ExpireMode]storage.Mode{
	ExpireSet: storage.Move, ExpireShorten: storage.Shorten, ExpireExtend: storage.Extend,
}

// VerifyMessage reports whether another node may have got such a message from a
// client under the stamp that it bears: whether its hash is right, and its size
// and its times within the limits. The error says what is wrong.
//
// That the owner wanted it stored nobody can show later: stores to public inboxes
// are not signed, and the signature of others does not cover the message.
func VerifyMessage(m *storage.Message) error {
	at := storage.StampTime(m.Stamp)
	switch {
	case len(m.Data) > MaxData:
		return fmt.Errorf("message of %d bytes", len(m.Data))
	case m.Hash != MessageHash(m.Owner, m.Namespace, m.Data):
		return errors.New("message has another hash")
	case m.Timestamp > at+proofWindow:
		return errors.New("message was not sent yet")
	case m.Expiry > at+storage.MaxLife+proofWindow:
		// Of a message stored again, what its owner had extended counts, also in
		// the namespaces where a store may ask for no more than 14 days.
		return errors.New("message would live too long")
	}
	return nil
}

// HoldsOne reports whether a namespace holds a single message of its owner, in
// whose place the next one comes.
func HoldsOne(namespace int16) bool { return publicOutbox(namespace) }
