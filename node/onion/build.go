package onion

import (
	"crypto/ecdh"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
)

// Hop is a service node as the node list names it.
type Hop struct{ Ed25519, X25519 [32]byte }

// WebServer is a web server that answers onion requests, such as a file
// server.
type WebServer struct {
	Host, Target string
	Protocol     string   // "http" or "https"; empty means https
	Port         int      // 0 means 443
	X25519       [32]byte // the server's key for onion requests
}

// Request is an onion request ready to be sent, and what opens its answer.
type Request struct {
	// Body is posted to /onion_req/v2 of the first node of the path.
	Body []byte

	reply channel
}

// String redacts: the key that opens the answer is a secret.
func (r Request) String() string { return "onion.Request(" + strconv.Itoa(len(r.Body)) + " bytes)" }

// GoString is [Request.String], so that %#v does not print the key.
func (r Request) GoString() string { return r.String() }

// Format writes [Request.String] for every verb.
func (r Request) Format(f fmt.State, _ rune) { io.WriteString(f, r.String()) }

// MarshalJSON writes [Request.String].
func (r Request) MarshalJSON() ([]byte, error) { return strconv.AppendQuote(nil, r.String()), nil }

// control is the JSON of the innermost layer in Session desktop's form; its
// key headers tells the node that it is the destination.
const control = `{"body":null,"headers":{"Content-Type":"application/json"}}`

// Build makes the request that carries body, a storage RPC request, over the
// nodes of path (guard first, at most [MaxHops]) to the node dest. All layers
// are [GCM].
//
// From rand it reads, for the layer of the destination first and that of the
// guard last, 32 bytes of ephemeral X25519 secret and 12 bytes of iv. Errors:
// [ErrPath] for an unusable path or key, [ErrTooLarge] above [MaxRequest], and
// rand's own.
func Build(rand io.Reader, path []Hop, dest Hop, body []byte) (*Request, error) {
	if len(path) == 0 || len(path) > MaxHops {
		return nil, fmt.Errorf("%w: %d hops", ErrPath, len(path))
	}
	stages := make([]stage, 0, MaxHops+1)
	stages = append(stages, stage{x25519: dest.X25519, lead: leadToNode(dest)})
	return build(rand, throughPath(stages, path), true, body, control)
}

// BuildServer makes the request that carries payload, a v4 request
// ([V4Request.Encode]), over the nodes of path to a web server, which the last
// node posts to. Randomness and errors are those of [Build], with the server in
// place of the destination.
func BuildServer(rand io.Reader, path []Hop, to WebServer, payload []byte) (*Request, error) {
	if len(path) == 0 || len(path) > MaxHops {
		return nil, fmt.Errorf("%w: %d hops", ErrPath, len(path))
	}
	stages := make([]stage, 0, MaxHops+1)
	stages = append(stages, stage{x25519: to.X25519, lead: leadToServer(to)})
	return build(rand, throughPath(stages, path), false, payload, "")
}

// stage is one layer of a request in the making.
type stage struct {
	x25519 [32]byte // whom the layer is for
	enc    EncType
	lead   []byte // beginning of the JSON that stands beside the layer and names its recipient
}

// throughPath adds the layers of the path's nodes, last node first.
func throughPath(stages []stage, path []Hop) []stage {
	for i := len(path) - 1; i >= 0; i-- {
		lead := []byte("{") // the guard is named by whom the request is sent to
		if i > 0 {
			lead = leadToNode(path[i])
		}
		stages = append(stages, stage{x25519: path[i].X25519, lead: lead})
	}
	return stages
}

func leadToNode(h Hop) []byte {
	lead := make([]byte, 0, 96)
	lead = append(lead, `{"destination":"`...)
	lead = hex.AppendEncode(lead, h.Ed25519[:])
	return append(lead, `",`...)
}

func leadToServer(w WebServer) []byte {
	protocol, port := w.Protocol, w.Port
	if protocol == "" {
		protocol = "https"
	}
	if port == 0 {
		port = 443
	}
	lead := appendQuoted([]byte(`{"host":`), w.Host)
	lead = append(lead, `,"target":`...)
	lead = appendQuoted(lead, w.Target)
	lead = append(lead, `,"method":"POST",`...)
	if protocol != "https" || port != 443 { // nodes take these as given
		lead = append(lead, `"protocol":`...)
		lead = appendQuoted(lead, protocol)
		lead = append(lead, `,"port":`...)
		lead = strconv.AppendInt(lead, int64(port), 10)
		lead = append(lead, ',')
	}
	return lead
}

// build encrypts the layers from the innermost out. All layers live in one
// buffer, each in place around the one before it: the heads (frame length and
// nonce) of all layers come first, outermost in front, and every layer only
// appends its tag and JSON. So a request is made with one allocation of its size.
func build(rand io.Reader, stages []stage, framed bool, body []byte, tail string) (*Request, error) {
	const perLayer = tagSize + len(`"ephemeral_key":"","enc_type":"xchacha20"}`) + 64
	heads, size := 0, 4+len(body)+len(tail)
	for _, s := range stages {
		heads += 4 + s.enc.nonceSize()
		size += len(s.lead) + perLayer
	}
	if len(body) > MaxRequest {
		return nil, fmt.Errorf("%w: body of %d bytes", ErrTooLarge, len(body))
	}

	buf := make([]byte, heads, heads+size)
	if framed {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(body)))
	}
	buf = append(buf, body...)
	buf = append(buf, tail...)

	request := &Request{}
	at := heads
	for i, s := range stages {
		at -= s.enc.nonceSize()
		ephemeral, shared, err := agree(rand, s.x25519)
		if err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(rand, buf[at:at+s.enc.nonceSize()]); err != nil {
			return nil, fmt.Errorf("drawing a nonce: %w", err)
		}
		c := newChannel(s.enc, shared, ephemeral, s.x25519)
		if buf, err = c.seal(buf, at); err != nil {
			return nil, err
		}
		if i == 0 {
			request.reply = c
		}
		clear(c.key[:])

		length := len(buf) - at
		at -= 4
		binary.LittleEndian.PutUint32(buf[at:], uint32(length))
		buf = append(buf, s.lead...)
		buf = append(buf, `"ephemeral_key":"`...)
		buf = hex.AppendEncode(buf, ephemeral[:])
		buf = append(buf, '"')
		if s.enc != "" && s.enc != GCM {
			buf = append(buf, `,"enc_type":`...)
			buf = appendQuoted(buf, s.enc)
		}
		buf = append(buf, '}')
	}
	if len(buf) > MaxRequest {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(buf))
	}
	request.Body = buf
	return request, nil
}

// agree draws an ephemeral X25519 key and returns its public half with the
// secret that it shares with to.
func agree(rand io.Reader, to [32]byte) (public [32]byte, shared []byte, err error) {
	var secret [32]byte
	defer clear(secret[:])
	if _, err := io.ReadFull(rand, secret[:]); err != nil {
		return public, nil, fmt.Errorf("drawing an ephemeral key: %w", err)
	}
	private, err := ecdh.X25519().NewPrivateKey(secret[:])
	if err != nil {
		return public, nil, fmt.Errorf("drawing an ephemeral key: %w", err)
	}
	recipient, err := ecdh.X25519().NewPublicKey(to[:])
	if err != nil {
		return public, nil, fmt.Errorf("%w: %w", ErrPath, err)
	}
	if shared, err = private.ECDH(recipient); err != nil {
		return public, nil, fmt.Errorf("%w: X25519 key of low order", ErrPath)
	}
	return [32]byte(private.PublicKey().Bytes()), shared, nil
}
