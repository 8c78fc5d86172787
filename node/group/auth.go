package group

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"slices"

	"hearth/node/account"
	"hearth/node/blind"
	"hearth/node/config"
	"hearth/node/keys"
	"hearth/node/rpc"
)

// MemberAccess is what members may do at the group's swarm.
const MemberAccess = rpc.Read | rpc.Write

const headerSize = 4 // of a token and of an Auth: prefix, access, two zero bytes

// Auth is what an admin gives a member so that the swarm lets the member in, 100
// bytes: the first four of the member's token, the factor by which the member's
// key is multiplied, and the group's signature over the token. Without the
// member's own keys nobody can use it. It never prints.
type Auth [100]byte

// NewAuth makes the member's. Errors: account.ErrNotSessionID and
// [blind.ErrNoPoint] for an ID that cannot be a member.
func NewAuth(group *keys.Pair, member account.ID, access rpc.Access) (Auth, error) {
	token, factor, err := tokenOf(group, member, access)
	if err != nil {
		return Auth{}, err
	}
	a := Auth{}
	copy(a[:], token[:headerSize])
	copy(a[headerSize:], factor[:])
	copy(a[headerSize+32:], group.Sign(token[:]))
	return a, nil
}

// TokenOf is the member's token, which the swarm sees and which an admin revokes.
// Errors: as of [NewAuth].
func TokenOf(group *keys.Pair, member account.ID) (rpc.Token, error) {
	token, _, err := tokenOf(group, member, MemberAccess)
	return token, err
}

func tokenOf(group *keys.Pair, member account.ID, access rpc.Access) (rpc.Token, [32]byte, error) {
	x, g := member.Key(), group.Ed25519()
	mask := seedHash(group, "SessionGroupSubaccountMask")
	defer clear(mask)
	factor := blind.Factor([64]byte(hash(64, string(mask), []byte{account.PrefixAccount}, x[:], []byte{account.PrefixGroup}, g[:])))
	delegate, err := blind.Public(member, factor)
	if err != nil {
		return rpc.Token{}, factor, fmt.Errorf("authorising %s: %w", member, err)
	}
	return rpc.NewToken(ID(group), access, delegate), factor, nil
}

// ParseAuth reads the bytes of an invitation. The error is [ErrAuth].
func ParseAuth(b []byte) (Auth, error) {
	if len(b) != len(Auth{}) {
		return Auth{}, fmt.Errorf("%w: %d bytes", ErrAuth, len(b))
	}
	return Auth(b), nil
}

// Verify checks that an admin of the group made a for this account and allows all
// of need. The error is [ErrAuth].
func (a Auth) Verify(group account.ID, own *keys.Pair, need rpc.Access) error {
	allowed := rpc.Access(a[1])
	if group.Prefix() != account.PrefixGroup || a[0] != account.PrefixGroup && allowed&rpc.AnyPrefix == 0 || allowed&need != need {
		return ErrAuth
	}
	token, err := a.token(sessionID(own))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAuth, err)
	}
	if !keys.Verify(group.Key(), token[:], a[headerSize+32:]) {
		return ErrAuth
	}
	return nil
}

func (a Auth) token(member account.ID) (rpc.Token, error) {
	delegate, err := blind.Public(member, [32]byte(a[headerSize:headerSize+32]))
	if err != nil {
		return rpc.Token{}, err
	}
	var t rpc.Token
	copy(t[:], a[:headerSize])
	copy(t[headerSize:], delegate[:])
	return t, nil
}

const redactedAuth = "group.Auth(redacted)"

// String hides the data.
func (a Auth) String() string { return redactedAuth }

// GoString hides the data.
func (a Auth) GoString() string { return redactedAuth }

// Format hides the data from every verb.
func (a Auth) Format(f fmt.State, _ rune) { io.WriteString(f, redactedAuth) }

// MarshalJSON hides the data.
func (a Auth) MarshalJSON() ([]byte, error) { return []byte(`"` + redactedAuth + `"`), nil }

// Signer signs requests to a group's swarm, as an admin with the group's key or as
// a member with an [Auth]. It prints as the group's ID.
type Signer struct {
	group    account.ID
	admin    *keys.Pair
	delegate *blind.Key
	token    rpc.Token
	tokenSig [64]byte
}

// AdminSigner signs with the group's own key.
func AdminSigner(group *keys.Pair) *Signer { return &Signer{group: ID(group), admin: group} }

// MemberSigner signs with what own and the member's data make together. The error
// is [ErrAuth] if they do not let this account read.
func MemberSigner(own *keys.Pair, group account.ID, auth Auth) (*Signer, error) {
	if err := auth.Verify(group, own, rpc.Read); err != nil {
		return nil, err
	}
	delegate, err := blind.Delegate(own, [32]byte(auth[headerSize:headerSize+32]))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuth, err)
	}
	s := &Signer{group: group, delegate: delegate, tokenSig: [64]byte(auth[headerSize+32:])}
	copy(s.token[:], auth[:headerSize])
	public := delegate.Public()
	copy(s.token[headerSize:], public[:])
	return s, nil
}

// Group is whose swarm the requests are for.
func (s *Signer) Group() account.ID { return s.group }

// Token is the member's, and false for an admin.
func (s *Signer) Token() (rpc.Token, bool) { return s.token, s.delegate != nil }

// Sign returns the 64-byte signature of a request's text.
func (s *Signer) Sign(text []byte) []byte {
	if s.admin != nil {
		return s.admin.Sign(text)
	}
	return s.delegate.Sign(text)
}

// Authorize adds to the parameters of a request, whose signed text is given, who
// signed it: pubkey, signature and, of members, subaccount and subaccount_sig.
func (s *Signer) Authorize(params map[string]any, text []byte) {
	params["pubkey"] = s.group.String()
	params["signature"] = base64.StdEncoding.EncodeToString(s.Sign(text))
	if s.delegate != nil {
		params["subaccount"] = base64.StdEncoding.EncodeToString(s.token[:])
		params["subaccount_sig"] = base64.StdEncoding.EncodeToString(s.tokenSig[:])
	}
}

// String names the group.
func (s *Signer) String() string { return "group.Signer(" + s.group.String() + ")" }

// GoString is [Signer.String].
func (s *Signer) GoString() string { return s.String() }

// Format writes [Signer.String] for every verb.
func (s *Signer) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalJSON writes the group's ID alone.
func (s *Signer) MarshalJSON() ([]byte, error) { return []byte(`"` + s.group.String() + `"`), nil }

// Request is one request to the group's swarm: a storage server's method and its
// parameters, ready for JSON.
type Request struct {
	Method string
	Params map[string]any
}

// maxTokens is how many tokens a storage server takes in one request.
const maxTokens = 50

// Revocations withdraws the members' tokens at the time at (ms, of the network):
// one request for every fifty.
func Revocations(group *keys.Pair, members []account.ID, at int64) ([]Request, error) {
	return tokenRequests(group, members, at, "revoke_subaccount", "revoke", rpc.RevokeText)
}

// Unrevocations lets members in again; for those who were never out it does
// nothing.
func Unrevocations(group *keys.Pair, members []account.ID, at int64) ([]Request, error) {
	return tokenRequests(group, members, at, "unrevoke_subaccount", "unrevoke", rpc.UnrevokeText)
}

// clearings has the swarm delete all that a group has no use for when it is over. Its
// info stays, which says so, and its keys, which open that.
func clearings(group *keys.Pair, at int64) []Request {
	var requests []Request
	for _, ns := range []int16{Messages, Revoked, config.GroupMembers.Namespace()} {
		params := map[string]any{"namespace": ns, "timestamp": at}
		AdminSigner(group).Authorize(params, rpc.DeleteAllText(rpc.Scope(ns), at))
		requests = append(requests, Request{"delete_all", params})
	}
	return requests
}

func tokenRequests(group *keys.Pair, members []account.ID, at int64, method, field string, text func(int64, []rpc.Token) []byte) ([]Request, error) {
	var requests []Request
	for some := range slices.Chunk(members, maxTokens) {
		tokens, texts := make([]rpc.Token, len(some)), make([]string, len(some))
		for i, m := range some {
			t, err := TokenOf(group, m)
			if err != nil {
				return nil, err
			}
			tokens[i], texts[i] = t, hex.EncodeToString(t[:])
		}
		params := map[string]any{field: texts, "timestamp": at}
		AdminSigner(group).Authorize(params, text(at, tokens))
		requests = append(requests, Request{method, params})
	}
	return requests, nil
}
