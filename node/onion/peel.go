package onion

import (
	"strconv"
	"strings"

	"hearth/node/keys"
)

// Inner is what a layer holds: *[Final], *[Server], *[Node] or *[Invalid].
type Inner interface{ inner() }

// Final is a request for this node itself.
type Final struct {
	Body []byte // storage RPC request, JSON text
	// JSON asks for a JSON answer as a value instead of a string.
	JSON bool
	// Base64 asks for the encrypted answer as base64 text instead of bytes.
	Base64 bool
}

// Server is a request that this node posts to a web server.
type Server struct {
	Host, Target, Protocol string
	Port                   int    // 1 … 65535
	Post                   []byte // body of the POST: the whole plain text of the layer
}

// Node is a request that this node hands to another one.
type Node struct {
	Next  [32]byte // Ed25519 key of the next node
	Layer Layer    // for that node; HopNo is already one higher
}

// Invalid is a layer that decrypts to something nobody can act on.
type Invalid struct {
	Reason error // [ErrMalformed]; for the log, clients are told [TextInvalidJSON]
}

func (*Final) inner()   {}
func (*Server) inner()  {}
func (*Node) inner()    {}
func (*Invalid) inner() {}

// Peel decrypts a layer with the key of the node that it reached and says what
// it holds. [ErrDecrypt] means that the layer is not for this node, or damaged:
// the plain answer is status 400 and [TextInvalidCiphertext]. The layer itself
// is left as it was; what comes back shares memory with the decrypted text, not
// with it.
func (l Layer) Peel(node *keys.Pair) (Inner, error) {
	inner, key, err := l.Open(node)
	key.Wipe()
	return inner, err
}

// Open is [Layer.Peel] for a node that will answer: it returns what encrypts the
// answer, too, which [Layer.SealReply] would have to derive once more. It is to be
// wiped, and nil after an error.
func (l Layer) Open(node *keys.Pair) (Inner, *ReplyKey, error) {
	c, err := l.channel(node)
	if err != nil {
		return nil, nil, ErrDecrypt
	}
	key := &ReplyKey{c}
	text, err := c.open(l.Ciphertext)
	if err != nil {
		key.Wipe()
		return nil, nil, ErrDecrypt
	}
	inner, err := classify(text, l.HopNo)
	if err != nil {
		inner = &Invalid{Reason: err}
	}
	return inner, key, nil
}

// classify sorts the plain text of a layer by the keys of its JSON: headers
// with any value, even null, makes it final, else host makes it one for a web
// server, else it must name a node.
func classify(text []byte, hopNo int) (Inner, error) {
	blob, tail, err := splitFrame(text)
	if err != nil {
		return nil, err
	}
	control, err := parseObject(tail)
	if err != nil {
		return nil, err
	}
	var f controlFields
	for name, raw := range control.members() {
		f.set(name, raw)
	}
	switch {
	case f.headers != nil:
		return f.final(blob)
	case f.host != nil:
		return f.server(text)
	}
	return f.node(blob, hopNo)
}

// controlFields are the raw values of a layer's JSON, nil when absent.
type controlFields struct {
	headers, json, base64              []byte
	host, target, port, protocol       []byte
	destination, ephemeralKey, encType []byte
}

func (f *controlFields) set(name string, raw []byte) {
	switch name {
	case "headers":
		f.headers = raw
	case "json":
		f.json = raw
	case "base64":
		f.base64 = raw
	case "host":
		f.host = raw
	case "target":
		f.target = raw
	case "port":
		f.port = raw
	case "protocol":
		f.protocol = raw
	case "destination":
		f.destination = raw
	case "ephemeral_key":
		f.ephemeralKey = raw
	case "enc_type":
		f.encType = raw
	}
}

func (f *controlFields) final(blob []byte) (_ *Final, err error) {
	final := &Final{Body: blob, Base64: true}
	if f.json != nil {
		if final.JSON, err = boolValue("json", f.json); err != nil {
			return nil, err
		}
	}
	if f.base64 != nil {
		if final.Base64, err = boolValue("base64", f.base64); err != nil {
			return nil, err
		}
	}
	return final, nil
}

func (f *controlFields) server(text []byte) (_ *Server, err error) {
	// Without a port it is 443, also for plain http.
	s := &Server{Protocol: "https", Port: 443, Post: text}
	if s.Host, err = stringValue("host", f.host); err != nil {
		return nil, err
	}
	if f.target == nil {
		return nil, detail("key 'target' not found")
	}
	if s.Target, err = stringValue("target", f.target); err != nil {
		return nil, err
	}
	if f.protocol != nil {
		if s.Protocol, err = stringValue("protocol", f.protocol); err != nil {
			return nil, err
		}
	}
	if f.port != nil {
		port, err := intValue("port", f.port)
		if err != nil {
			return nil, err
		}
		// The storage server would cut a larger number to 16 bits.
		if port < 1 || port > 65535 {
			return nil, detail("key 'port' must be 1 to 65535")
		}
		s.Port = int(port)
	}
	return s, nil
}

func (f *controlFields) node(blob []byte, hopNo int) (_ *Node, err error) {
	n := &Node{Layer: Layer{Ciphertext: blob, HopNo: hopNo + 1}}
	if n.Next, err = keyValue("destination", f.destination); err != nil {
		return nil, err
	}
	if n.Layer.EphemeralKey, err = keyValue("ephemeral_key", f.ephemeralKey); err != nil {
		return nil, err
	}
	if n.Layer.EncType, err = encTypeValue("enc_type", f.encType); err != nil {
		return nil, err
	}
	return n, nil
}

// TargetAllowed reports whether nodes post to this path of a web server: it
// begins with /loki/ or /oxen/, ends with /lsrpc and has no question mark.
func TargetAllowed(target string) bool {
	return (strings.HasPrefix(target, "/loki/") || strings.HasPrefix(target, "/oxen/")) &&
		strings.HasSuffix(target, "/lsrpc") && !strings.Contains(target, "?")
}

// Allowed reports whether a node posts this request: http or https to a target
// that is allowed ([TargetAllowed]). Stricter than the storage server, it also
// wants the host to be a name or an address and nothing that would change the
// meaning of the URL, and no control character in the target. Whether the
// address is a private one shows only when it is dialled. The encrypted answer
// to a refused one is status 400 and [TextInvalidURL].
func (s *Server) Allowed() bool {
	return (s.Protocol == "http" || s.Protocol == "https") && TargetAllowed(s.Target) &&
		s.Host != "" && strings.IndexFunc(s.Host, notInHost) < 0 &&
		strings.IndexFunc(s.Target, notInTarget) < 0
}

func notInHost(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	digit := '0' <= r && r <= '9'
	return !letter && !digit && !strings.ContainsRune(".-:[]", r)
}

func notInTarget(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }

// URL is where the request goes. The port is left out when it is the
// protocol's own.
func (s *Server) URL() string {
	host := s.Host
	if !(s.Protocol == "https" && s.Port == 443 || s.Protocol == "http" && s.Port == 80) {
		host += ":" + strconv.Itoa(s.Port)
	}
	return s.Protocol + "://" + host + s.Target
}
