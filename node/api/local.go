package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// User ids of the processes on the appliance. On a developer's machine all of
// them run as the developer, whom every server admits.
const (
	UIDVault     uint32 = 101
	UIDNode      uint32 = 102
	UIDMessenger uint32 = 103
	UIDPanel     uint32 = 104
	UIDConsole   uint32 = 105
)

// Limits of one server, so that a caller, allowed or not, costs a bounded
// amount of memory and file descriptors.
const (
	MaxRequest = 1 << 20 // bytes of one request message
	MaxReply   = 4 << 20 // bytes of one reply message

	maxStreams     = 64       // calls at a time on one connection
	maxConnections = 32       // open connections of one user id
	maxHeaders     = 16 << 10 // bytes
)

// ErrInUse says that another process already serves the socket.
var ErrInUse = errors.New("another process serves this socket")

// Listen opens a Unix socket at path (at most 107 bytes) and makes its folder.
// A socket file that a dead process left behind is replaced; when a living
// process answers on it the error is [ErrInUse], and any other kind of file is
// left alone.
//
// allow lists the user ids that will call; give the same list to [NewServer],
// which does the checking. Here it only decides the file's mode: 0600, or 0666
// when somebody other than this process's own user and root is to connect.
func Listen(path string, allow ...uint32) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("folder of socket %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	mode := fs.FileMode(0o600)
	own := uint32(os.Geteuid())
	if slices.ContainsFunc(allow, func(uid uint32) bool { return uid != 0 && uid != own }) {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("a file that is no socket is in the way (%v)", info.Mode())
	}
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return ErrInUse
	} else if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// NewServer makes a gRPC server for a listener of [Listen]. Callers with a user
// id in allow, with this process's own user id, and root are served. Everybody
// else gets PermissionDenied as soon as the name of the method is known, before
// a byte of the request is read.
func NewServer(allow ...uint32) *grpc.Server {
	return newServer(uint32(os.Geteuid()), allow)
}

func newServer(own uint32, allow []uint32) *grpc.Server {
	allowed := append([]uint32{own, 0}, allow...)
	return grpc.NewServer(
		grpc.Creds(&peerCredentials{open: make(map[uint32]int)}),
		grpc.InTapHandle(func(ctx context.Context, call *tap.Info) (context.Context, error) {
			who, ok := CallerOf(ctx)
			if !ok || !slices.Contains(allowed, who.UID) {
				return nil, status.Errorf(codes.PermissionDenied, "user %d may not call %s", who.UID, call.FullMethodName)
			}
			return ctx, nil
		}),
		grpc.MaxRecvMsgSize(MaxRequest),
		grpc.MaxSendMsgSize(MaxReply),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(5*time.Second),
	)
}

// Dial prepares a connection to the server on the Unix socket path. It does not
// wait for the server: a call while nobody serves the socket ends with
// Unavailable (with [grpc.WaitForReady] it waits instead), and the connection
// comes back within two seconds of the server.
//
// When server user ids are given, a socket that is served by any user other
// than those, root, or the caller's own is refused; so a process that took a
// neighbour's place in the folder of sockets learns nothing.
func Dial(path string, server ...uint32) (*grpc.ClientConn, error) {
	var trusted []uint32
	if len(server) > 0 {
		trusted = append([]uint32{uint32(os.Geteuid()), 0}, server...)
	}
	return grpc.NewClient("passthrough:///local",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}),
		grpc.WithTransportCredentials(&peerCredentials{trusted: trusted}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxReply), grpc.MaxCallSendMsgSize(MaxRequest)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
	)
}

// Caller is the process at the other end of a connection, as the kernel knew it
// when the connection was made (or, seen by a client, when the server began to
// listen).
type Caller struct {
	credentials.CommonAuthInfo
	PID int32
	UID uint32
	GID uint32
}

// AuthType says how the caller was identified.
func (Caller) AuthType() string { return "peercred" }

// CallerOf gives the process that made the call of ctx. It reports false when
// the call did not come through a server of [NewServer].
func CallerOf(ctx context.Context) (Caller, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, false
	}
	c, ok := p.AuthInfo.(Caller)
	return c, ok
}

// WithCaller returns a context as a handler gets it from the given process: for
// tests, and for servers that are called within their own process.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: c})
}

// peerCredentials are gRPC transport credentials that exchange nothing: both
// ends ask the kernel who is on the other side of the Unix socket.
type peerCredentials struct {
	trusted []uint32 // user ids a server may run as; nil = any

	mu   sync.Mutex
	open map[uint32]int // server side: connections by user id
}

func (p *peerCredentials) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	server, err := peerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	if p.trusted != nil && !slices.Contains(p.trusted, server.UID) {
		return nil, nil, fmt.Errorf("the socket is served by user %d, which is not the expected one", server.UID)
	}
	return conn, server, nil
}

func (p *peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	caller, err := peerOf(conn)
	if err != nil {
		return nil, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[caller.UID] >= maxConnections {
		return nil, nil, fmt.Errorf("user %d has %d connections open already", caller.UID, maxConnections)
	}
	p.open[caller.UID]++
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.open[caller.UID]--; p.open[caller.UID] == 0 {
			delete(p.open, caller.UID)
		}
	})}, caller, nil
}

func (*peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: Caller{}.AuthType()}
}

func (p *peerCredentials) Clone() credentials.TransportCredentials {
	return &peerCredentials{trusted: p.trusted, open: make(map[uint32]int)}
}

func (*peerCredentials) OverrideServerName(string) error { return nil }

// countedConn tells when it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

func peerOf(conn net.Conn) (Caller, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("%T is no Unix socket: its peer is unknown", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Caller{}, err
	}
	if credErr != nil {
		return Caller{}, fmt.Errorf("asking the kernel for the peer: %w", credErr)
	}
	return Caller{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		PID:            cred.Pid, UID: cred.Uid, GID: cred.Gid,
	}, nil
}
