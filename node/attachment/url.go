package attachment

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"hearth/node/keys"
	"hearth/node/onion"
)

// base64url has no padding characters to leave out at 33 bytes; Strict gives
// every ID one text.
var base64url = base64.RawURLEncoding.Strict()

// Host is the file server that released clients know. They follow no URL of a
// file whose host is another one (Session desktop, parseFileServerUrl).
const Host = "filev2.getsession.org"

// Session's own file server: its Ed25519 key, named by p in a URL, and the
// X25519 key of onion requests to it (Session desktop, FileServerTarget).
var (
	SessionEd25519 = mustKey("b8eef9821445ae16e2e97ef8aa6fe782fd11ad5253cd6723b281341dba22e371")
	SessionX25519  = mustKey("09324794aa9c11948189762d198c618148e9136ac9582068180661208927ef34")
)

// Nodes is the key pair under which every node of a Hearth network answers as a
// file server. Its secret is public: the SHA-256 of the text below.
//
// A client needs some key for the innermost layer of a request to a file server,
// and a URL has room for one key, but a file must not depend on one node. So
// the key names the service and hides nothing. What hides the request is the
// layer around it, which only the last node of the path opens, the node that
// then serves the request.
func Nodes() *keys.Pair {
	return keys.FromSeed(sha256.Sum256([]byte("hearth: files are served by every node")))
}

// URL is the address of an uploaded file.
type URL struct {
	Scheme string // "http" or "https"
	Host   string // with the port, if there is one
	ID     string // name of the file on the server: letters, digits, - and _

	// Server is the Ed25519 key of the file server, which is converted to
	// X25519 for onion requests; zero means Session's own.
	Server        [32]byte
	Deterministic bool // encrypted as a deterministic stream
	Key           Key  // of the file, where the URL carries it; 32 bytes
}

const (
	maxURL = 2048
	maxID  = 128
)

// NodeURL is the address of a file that the nodes of the network keep.
func NodeURL(id ID, deterministic bool) URL {
	return URL{Scheme: "http", Host: Host, ID: id.String(), Server: Nodes().Ed25519(), Deterministic: deterministic}
}

// ParseURL reads the URL of a message. Items of the fragment that it does not
// know are left out. The error is [ErrURL].
func ParseURL(text string) (URL, error) {
	if len(text) > maxURL {
		return URL{}, fmt.Errorf("%w: %d bytes", ErrURL, len(text))
	}
	parsed, err := url.Parse(text)
	if err != nil {
		return URL{}, fmt.Errorf("%w: it does not parse", ErrURL) // the text may hold a key
	}
	if parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" || parsed.User != nil {
		return URL{}, fmt.Errorf("%w: no server", ErrURL)
	}
	u := URL{Scheme: parsed.Scheme, Host: strings.ToLower(parsed.Host)}
	path := strings.TrimRight(parsed.EscapedPath(), "/")
	u.ID = path[strings.LastIndexByte(path, '/')+1:]
	if u.ID == "" || len(u.ID) > maxID || strings.IndexFunc(u.ID, notInID) >= 0 {
		return URL{}, fmt.Errorf("%w: no name of a file", ErrURL)
	}
	for item := range strings.SplitSeq(parsed.EscapedFragment(), "&") {
		name, value, _ := strings.Cut(item, "=")
		switch name {
		case "p":
			key, ok := parseKey32(value)
			if !ok {
				return URL{}, fmt.Errorf("%w: key of the server", ErrURL)
			}
			if key != SessionEd25519 {
				u.Server = key
			}
		case "d":
			u.Deterministic = true
		case "e":
			key, ok := parseKey32(value)
			if !ok {
				return URL{}, fmt.Errorf("%w: key of the file", ErrURL)
			}
			u.Key = key[:]
		}
	}
	return u, nil
}

// LocateFile reads where an attachment pointer says that its file is: its url,
// or when that is empty its old numeric id on Session's own server.
func LocateFile(text string, deprecatedID uint64) (URL, error) {
	if text != "" {
		return ParseURL(text)
	}
	if deprecatedID == 0 {
		return URL{}, fmt.Errorf("%w: there is none", ErrURL)
	}
	return URL{Scheme: "http", Host: Host, ID: strconv.FormatUint(deprecatedID, 10)}, nil
}

func notInID(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
}

// Text writes the address for a message, with the key of the file when there is
// one. It is not called String, because a URL with a key must not be logged.
func (u URL) Text() string {
	var items []string
	if u.Server != ([32]byte{}) {
		items = append(items, "p="+hex.EncodeToString(u.Server[:]))
	}
	if u.Deterministic {
		items = append(items, "d=")
	}
	if u.Key != nil {
		items = append(items, "e="+hex.EncodeToString(u.Key))
	}
	text := u.Scheme + "://" + u.Host + "/file/" + u.ID
	if len(items) > 0 {
		text += "#" + strings.Join(items, "&")
	}
	return text
}

// Target is the path that v4 onion requests to a file server are posted to.
const Target = "/oxen/v4/lsrpc"

// WebServer is where requests for the file go: POST /file, GET /file/<id> and so
// on, as [onion.V4Request] over [onion.BuildServer]. The error is [ErrURL] for a
// port or a server key that is none.
func (u URL) WebServer() (onion.WebServer, error) {
	to := onion.WebServer{Host: u.Host, Target: Target, Protocol: u.Scheme, Port: 80, X25519: SessionX25519}
	if u.Scheme == "https" {
		to.Port = 443
	}
	if host, port, err := net.SplitHostPort(u.Host); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return onion.WebServer{}, fmt.Errorf("%w: port", ErrURL)
		}
		to.Host, to.Port = host, int(n)
	}
	if u.Server != ([32]byte{}) {
		var err error
		if to.X25519, err = keys.X25519FromEd25519(u.Server); err != nil {
			return onion.WebServer{}, fmt.Errorf("%w: key of the server", ErrURL)
		}
	}
	return to, nil
}

// DeprecatedID is the number for the field deprecated_id of an attachment
// pointer, which old clients read: the ID when that is a number, else 0.
func (u URL) DeprecatedID() uint64 {
	n, err := strconv.ParseUint(u.ID, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// OnNodes reports whether the nodes of a Hearth network keep the file, and under
// which name.
func (u URL) OnNodes() (ID, bool) {
	id, ok := ParseID(u.ID)
	return id, ok && u.Server == Nodes().Ed25519()
}

func mustKey(text string) [32]byte {
	key, ok := parseKey32(text)
	if !ok {
		panic("attachment: " + text + " is no key")
	}
	return key
}
