package rpc

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"

	"hearth/node/account"
	"hearth/node/keys"
)

// Access is what a subaccount may do, as bits of its token.
type Access byte

// The bits of Access.
const (
	Read      Access = 1 << 0
	Write     Access = 1 << 1
	Delete    Access = 1 << 2
	AnyPrefix Access = 1 << 3 // valid for every account with this key, whatever its prefix

	// ownerOnly is required by what no subaccount may do; no token has it.
	ownerOnly Access = 1 << 7
)

// Token is the right of a delegate ("subaccount") to act for an account, 36
// bytes: the account's prefix, the Access bits, two reserved bytes that clients
// set to 0, and the delegate's Ed25519 key. The owner's signature over these
// bytes makes it valid (storage server, oxenss/common/subaccount_token.h).
type Token [36]byte

// NewToken makes the token of a delegate of the account.
func NewToken(owner account.ID, access Access, delegate [32]byte) Token {
	t := Token{owner.Prefix(), byte(access)}
	copy(t[4:], delegate[:])
	return t
}

// ErrToken is the error of ParseToken.
var ErrToken = errors.New("expected base64 or hex-encoded subaccount token")

// ParseToken reads a token written as 48 characters of base64 or 72 of
// hexadecimal.
func ParseToken(text string) (Token, error) {
	switch len(text) {
	case base64.StdEncoding.EncodedLen(len(Token{})):
		if b, err := decodeBase64(text); err == nil && len(b) == len(Token{}) {
			return Token(b), nil
		}
	case hex.EncodedLen(len(Token{})):
		if b, err := hex.DecodeString(text); err == nil {
			return Token(b), nil
		}
	}
	return Token{}, ErrToken
}

// Prefix is the prefix byte of the accounts that the token is for.
func (t Token) Prefix() byte { return t[0] }

// Access is what the token allows.
func (t Token) Access() Access { return Access(t[1]) }

// Delegate is the Ed25519 key that signs in the owner's place.
func (t Token) Delegate() [32]byte { return [32]byte(t[4:]) }

// allows reports whether the token permits all of need for the account.
func (t Token) allows(owner account.ID, need Access) bool {
	if t.Prefix() != owner.Prefix() && t.Access()&AnyPrefix == 0 {
		return false
	}
	return t.Access()&need == need
}

// credentials are the parameters by which a request shows who sent it.
type credentials struct {
	owner     account.ID
	ed25519   *[32]byte // of a 05 account, whose own key is an X25519 key
	signature []byte    // 64 bytes, or none

	token    *Token
	tokenSig []byte // 64 bytes
}

// verify reports whether the owner, or a delegate with the access needed, signed
// text (storage server, verify_signature).
func (c *credentials) verify(text []byte, need Access) bool {
	owner := c.owner.Key()
	if c.ed25519 != nil {
		// Only the Ed25519 key that the account's key was made from may sign.
		x, err := known.x25519(*c.ed25519)
		if err != nil || x != owner {
			return false
		}
		owner = *c.ed25519
	}
	if c.token == nil {
		return keys.Verify(owner, text, c.signature)
	}
	return need != ownerOnly && c.token.allows(c.owner, need) &&
		keys.Verify(owner, c.token[:], c.tokenSig) &&
		keys.Verify(c.token.Delegate(), text, c.signature)
}

// permits reports whether text was signed by the owner, or by a delegate with
// the access needed whose token the owner has not withdrawn.
func (c *call) permits(who *credentials, text []byte, need Access) bool {
	return who.verify(text, need) && !c.revoked(who)
}

// permitsRead is permits for reading a namespace.
func (c *call) permitsRead(who *credentials, namespace int16, text []byte) bool {
	return who.verify(text, Read) && (revocationProof(namespace) || !c.revoked(who))
}

func (c *call) revoked(who *credentials) bool {
	if who.token == nil {
		return false
	}
	revoked, err := c.cfg.DB.Revoked(who.owner, *who.token)
	if err != nil {
		c.trouble("revocation list", err)
		return true
	}
	return revoked
}

// loadOwner reads the account. Like upstream's, the text must be 66 hexadecimal
// digits or the 33 bytes themselves.
func (c *credentials) loadOwner(pubkey string, given bool, malformed refusal) error {
	if !given {
		return missing("pubkey")
	}
	switch len(pubkey) {
	case len(c.owner):
		c.owner = account.ID([]byte(pubkey))
		return nil
	case hex.EncodedLen(len(c.owner)):
		if b, err := hex.DecodeString(pubkey); err == nil {
			c.owner = account.ID(b)
			return nil
		}
	}
	return malformed
}

const malformedPubkey = refusal("Pubkey must be 66 hex digits (33 bytes) long")

// signer are the parameters about the signature as they came.
type signer struct {
	pubkey, ed25519, signature, token, tokenSig                      string
	hasPubkey, hasEd25519, hasSignature, hasToken, hasTokenSignature bool
}

// signer reads them. between reads what the method takes in the alphabet between
// pubkey_ed25519 and signature.
func (p *params) signer(between ...func()) (s signer) {
	s.pubkey, s.hasPubkey = p.text("pubkey")
	s.ed25519, s.hasEd25519 = p.text("pubkey_ed25519")
	for _, read := range between {
		read()
	}
	s.signature, s.hasSignature = p.text("signature")
	s.token, s.hasToken = p.text("subaccount")
	s.tokenSig, s.hasTokenSignature = p.text("subaccount_sig")
	return s
}

// load reads account, signature and subaccount of a request that must be signed.
func (c *credentials) load(s signer, binary bool) error {
	if err := c.loadOwner(s.pubkey, s.hasPubkey, malformedPubkey); err != nil {
		return err
	}
	if !s.hasSignature {
		return missing("signature")
	}
	if s.hasEd25519 {
		if c.owner.Prefix() != 0x05 {
			return refusal("pubkey_ed25519 is only permitted for 05[...] pubkeys")
		}
		var key [32]byte
		switch len(s.ed25519) {
		case 64:
			if _, err := hex.Decode(key[:], []byte(s.ed25519)); err != nil {
				return refusal("invalid pubkey_ed25519: value is not hex")
			}
		case 32:
			copy(key[:], s.ed25519)
		default:
			return refusal("Invalid pubkey_ed25519: expected 64 hex char or 32 byte pubkey")
		}
		c.ed25519 = &key
	}
	var ok bool
	if c.signature, ok = decodeSignature(s.signature, binary); !ok && binary {
		return refusal("invalid signature: expected 64-byte Ed25519 signature")
	} else if !ok {
		return refusal("invalid signature: expected base64 encoded Ed25519 signature")
	}
	if !s.hasToken || s.token == "" {
		return nil
	}
	if !s.hasTokenSignature {
		return refusal("invalid subaccount: subaccount_sig is required when using subaccount")
	}
	var token Token
	if !binary {
		var err error
		if token, err = ParseToken(s.token); err != nil {
			return refusal("invalid subaccount: " + err.Error())
		}
	} else if copy(token[:], s.token) != len(token) || len(s.token) != len(token) {
		return refusal("invalid subaccount token: invalid token length")
	}
	if c.tokenSig, ok = decodeSignature(s.tokenSig, binary); !ok && binary {
		return refusal("invalid signature: expected 64-byte Ed25519 signature")
	} else if !ok {
		return refusal("invalid subaccount signature: expected base64 encoded Ed25519 signature")
	}
	c.token = &token
	return nil
}

// addTo writes the credentials into a forwarded request.
func (c *credentials) addTo(body map[string]any) {
	body["pubkey"] = c.owner[:]
	if c.signature != nil {
		body["signature"] = c.signature
	}
	if c.ed25519 != nil {
		body["pubkey_ed25519"] = c.ed25519[:]
	}
	if c.token != nil {
		body["subaccount"] = c.token[:]
		body["subaccount_sig"] = c.tokenSig
	}
}

func decodeSignature(s string, binary bool) ([]byte, bool) {
	if binary {
		return []byte(s), len(s) == 64
	}
	if len(s) != 86 && (len(s) != 88 || s[86:] != "==") {
		return nil, false
	}
	b, err := decodeBase64(s)
	return b, err == nil && len(b) == 64
}

var errBase64 = errors.New("not base64 encoded")

// decodeBase64 reads base64 of the standard alphabet, padded or not. Unlike the
// standard library it takes no line breaks; like upstream it does not look at
// the unused bits of the last character.
func decodeBase64(s string) ([]byte, error) {
	n := len(s)
	if n%4 == 0 {
		for range 2 {
			if n > 0 && s[n-1] == '=' {
				n--
			}
		}
	}
	if strings.ContainsAny(s, "\r\n") {
		return nil, errBase64
	}
	b, err := base64.RawStdEncoding.DecodeString(s[:n])
	if err != nil {
		return nil, errBase64
	}
	return b, nil
}
