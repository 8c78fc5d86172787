package config

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"iter"
	"strconv"
	"strings"
)

// The keys under which configs keep rooms of community servers:
//
//	o -> base URL -> { #: server's public key, R -> room in lower case -> entry }
const (
	communityDict = "o"
	serverKey     = "#"
	serverRooms   = "R"
)

// Room names a room of a community server.
type Room struct {
	Server string   // base URL in canonical form: https://example.org:8443
	Name   string   // as its server writes it; case is ignored when comparing
	Key    [32]byte // the server's X25519 public key
}

// URL is the address that people pass on.
func (r Room) URL() string {
	return r.Server + "/" + r.Name + "?public_key=" + hex.EncodeToString(r.Key[:])
}

// norm is the name under which a config keeps the room.
func (r Room) norm() string { return strings.ToLower(r.Name) }

// ParseRoom reads the address of a room:
// https://server/room?public_key=…, or with /r/room, the key as 64 hexadecimal
// digits, 43 or 44 characters of base64 or 52 of base32z. The server is brought
// into canonical form. Errors: [ErrValue]. The rules are those of
// libsession-util's community.cpp.
func ParseRoom(address string) (Room, error) {
	refuse := func(why string) (Room, error) {
		return Room{}, fmt.Errorf("community address: %s: %w", why, ErrValue)
	}
	address, query, ok := strings.Cut(address, "?public_key=")
	if !ok {
		return refuse("no ?public_key=")
	}
	var r Room
	var err error
	if r.Key, err = ParseServerKey(query); err != nil {
		return Room{}, err
	}
	slash := strings.LastIndexByte(address, '/')
	if slash < 0 {
		return refuse("no room")
	}
	r.Name = address[slash+1:]
	if r.Server, err = CanonicalServer(strings.TrimSuffix(address[:slash], "/r")); err != nil {
		return Room{}, err
	}
	return r, r.check()
}

// canonical checks a room and brings its server into canonical form.
func (r Room) canonical() (Room, error) {
	var err error
	if r.Server, err = CanonicalServer(r.Server); err != nil {
		return Room{}, err
	}
	return r, r.check()
}

func (r Room) check() error {
	if r.Name == "" || len(r.Name) > MaxRoom {
		return fmt.Errorf("community room of %d bytes, 1 to %d: %w", len(r.Name), MaxRoom, ErrValue)
	}
	for _, c := range []byte(r.norm()) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return fmt.Errorf("community room with the character %q: %w", c, ErrValue)
		}
	}
	return nil
}

// CanonicalServer brings the address of a community server into the form by
// which configs keep it: scheme and host in lower case, no default port, no
// path. Errors: [ErrValue].
func CanonicalServer(address string) (string, error) {
	refuse := func(why string) (string, error) {
		return "", fmt.Errorf("community server: %s: %w", why, ErrValue)
	}
	if len(address) > MaxServerURL {
		return refuse("address too long")
	}
	scheme, rest, ok := strings.Cut(address, "://")
	scheme = strings.ToLower(scheme)
	defaultPort := 80
	switch {
	case ok && scheme == "http":
	case ok && scheme == "https":
		defaultPort = 443
	default:
		return refuse("neither http:// nor https://")
	}
	if host, path, ok := strings.Cut(rest, "/"); ok {
		if path != "" {
			return refuse("a path follows the host")
		}
		rest = host
	}
	host, portText, hasPort := strings.Cut(rest, ":")
	host = strings.ToLower(host)
	if !validHost(host) {
		return refuse("invalid host name")
	}
	if !hasPort {
		return scheme + "://" + host, nil
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 || portText[0] == '+' {
		return refuse("invalid port")
	}
	if int(port) == defaultPort {
		return scheme + "://" + host, nil
	}
	return scheme + "://" + host + ":" + strconv.FormatUint(port, 10), nil
}

func validHost(host string) bool {
	if len(host) < 4 || !strings.Contains(host, ".") {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" {
			return false
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

var base32z = base32.NewEncoding("ybndrfg8ejkmcpqxot1uwisza345h769").WithPadding(base32.NoPadding)

// ParseServerKey reads a server's public key in one of the forms that
// [ParseRoom] takes. Errors: [ErrValue].
func ParseServerKey(s string) ([32]byte, error) {
	var key []byte
	err := fmt.Errorf("%d characters", len(s))
	switch len(s) {
	case 64:
		key, err = hex.DecodeString(s)
	case 43:
		key, err = base64.RawStdEncoding.DecodeString(s)
	case 44:
		key, err = base64.StdEncoding.DecodeString(s)
	case 52:
		key, err = base32z.DecodeString(s)
	}
	if err != nil || len(key) != 32 {
		return [32]byte{}, fmt.Errorf("community server's key, neither hexadecimal nor base64 nor base32z: %w", ErrValue)
	}
	return [32]byte(key), nil
}

// rooms visits the rooms in the dictionary of servers at top level key top. The
// name of a room is the one it is kept by.
func (d *Dict) rooms(top string) iter.Seq2[Room, *Dict] {
	return func(yield func(Room, *Dict) bool) {
		for server, v := range d.Get(top).Dict().All() {
			key, ok := v.Dict().key32(serverKey)
			if !ok {
				continue
			}
			for name, entry := range v.Dict().Get(serverRooms).Dict().All() {
				if entry.kind == dict && !yield(Room{server, name, key}, entry.dict) {
					return
				}
			}
		}
	}
}

// room opens the entry of a room, which must be canonical, and notes its
// server's key.
func (t *tree) room(top string, r Room) fields {
	server := t.at(top, r.Server)
	server.always(serverKey, string(r.Key[:]))
	return server.in(serverRooms, r.norm())
}

// sweepServer removes a server that has no room left.
func (t *tree) sweepServer(top, server string) {
	if t.root.Get(top, server, serverRooms).Dict().Len() == 0 {
		t.erase(top, server)
	}
}
