package api

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// The test runs its own program again to have a caller that is another process
// and, when it may (as root), another user.
const (
	childSocket = "HEARTH_TEST_SOCKET"
	childUID    = "HEARTH_TEST_UID"
	foreignUID  = 54321
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(childSocket); socket != "" {
		os.Exit(callAsChild(socket, os.Getenv(childUID)))
	}
	os.Exit(m.Run())
}

// callAsChild makes one unary and one streaming call and prints their codes.
func callAsChild(socket, uid string) int {
	if uid != "" {
		var n int
		if _, err := fmt.Sscan(uid, &n); err != nil {
			fmt.Println(err)
			return 1
		}
		if err := syscall.Setresuid(n, n, n); err != nil {
			fmt.Println("becoming another user:", err)
			return 1
		}
	}
	conn, err := Dial(socket)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer conn.Close()
	unary, stream := callBoth(context.Background(), conn)
	fmt.Println(status.Code(unary), status.Code(stream))
	return 0
}

func callBoth(ctx context.Context, conn *grpc.ClientConn) (unary, stream error) {
	client := NewMessengerClient(conn)
	_, unary = client.State(ctx, &StateRequest{})
	s, err := client.Events(ctx, &EventsRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if err == io.EOF {
		err = nil
	}
	return unary, err
}

// service counts the calls that reach it and notes who made the last one.
type service struct {
	UnimplementedMessengerServer
	calls atomic.Int64
	last  atomic.Uint32
}

func (s *service) note(ctx context.Context) error {
	s.calls.Add(1)
	who, ok := CallerOf(ctx)
	if !ok || who.PID == 0 {
		return status.Error(codes.Internal, "the caller is unknown")
	}
	s.last.Store(who.UID)
	return nil
}

func (s *service) State(ctx context.Context, _ *StateRequest) (*MessengerState, error) {
	return &MessengerState{}, s.note(ctx)
}

func (s *service) Events(_ *EventsRequest, stream grpc.ServerStreamingServer[Event]) error {
	return s.note(stream.Context())
}

func (s *service) Send(ctx context.Context, r *SendRequest) (*SendReply, error) {
	return &SendReply{Hash: strings.Repeat("x", len(r.Text)*8)}, s.note(ctx)
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // Unix sockets have short paths
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for the caller of another user
		t.Fatal(err)
	}
	return dir
}

func serve(t *testing.T, server *grpc.Server, path string, allow ...uint32) *service {
	t.Helper()
	l, err := Listen(path, allow...)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{}
	RegisterMessengerServer(server, s)
	ended := make(chan struct{})
	go func() { defer close(ended); server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-ended })
	return s
}

// As root the caller really is another user. Without root no process can become
// one, so there it is the server that is told to be somebody else: the caller's
// user id, as the kernel gives it, is then a foreign one all the same.
func TestCallersOfOtherUsersAreServedOnlyWhenListed(t *testing.T) {
	own, caller, become := uint32(os.Geteuid()), uint32(foreignUID), fmt.Sprint(foreignUID)
	if own != 0 {
		own, caller, become = own+1, own, ""
	}
	for name, c := range map[string]struct {
		allow []uint32
		want  string
		calls int64
	}{
		"listed":             {[]uint32{UIDMessenger, caller}, "OK OK", 2},
		"others are listed":  {[]uint32{UIDMessenger, UIDNode}, "PermissionDenied PermissionDenied", 0},
		"almost the same id": {[]uint32{caller + 1}, "PermissionDenied PermissionDenied", 0},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(shortDir(t), "s")
			s := serve(t, newServer(own, c.allow), socket, append(c.allow, foreignUID+1)...)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childSocket+"="+socket, childUID+"="+become)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if got := strings.TrimSpace(string(out)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if s.calls.Load() != c.calls {
				t.Errorf("%d calls reached the service, want %d", s.calls.Load(), c.calls)
			}
			if c.calls > 0 && s.last.Load() != caller {
				t.Errorf("the service saw user %d, want %d", s.last.Load(), caller)
			}
		})
	}
}

func TestOwnUserIsAlwaysServed(t *testing.T) {
	socket := filepath.Join(shortDir(t), "deeper", "folder", "s")
	s := serve(t, NewServer(UIDPanel), socket, UIDPanel)
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if unary, stream := callBoth(t.Context(), conn); unary != nil || stream != nil {
		t.Errorf("%v, %v", unary, stream)
	}
	if s.last.Load() != uint32(os.Geteuid()) {
		t.Errorf("the service saw user %d", s.last.Load())
	}
}

func TestMethodThatDoesNotExist(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	serve(t, NewServer(), socket)
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := NewVaultClient(conn).Status(t.Context(), &VaultStatusRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v", err)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	s := serve(t, NewServer(), socket)
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := NewMessengerClient(conn)
	for name, c := range map[string]struct {
		text    int // the answer is eight times that
		options []grpc.CallOption
		code    codes.Code
		reaches bool
	}{
		"small":                              {1 << 10, nil, codes.OK, true},
		"request too large, not even sent":   {MaxRequest, nil, codes.ResourceExhausted, false},
		"request too large, from a stranger": {MaxRequest, []grpc.CallOption{grpc.MaxCallSendMsgSize(16 << 20)}, codes.ResourceExhausted, false},
		"reply too large":                    {MaxReply/8 + 1, nil, codes.ResourceExhausted, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.calls.Load()
			_, err := client.Send(t.Context(), &SendRequest{Text: strings.Repeat("x", c.text)}, c.options...)
			if status.Code(err) != c.code {
				t.Errorf("got %v, want %v", err, c.code)
			}
			if reached := s.calls.Load() > before; reached != c.reaches {
				t.Errorf("reached the service: %v", reached)
			}
		})
	}
	t.Run("headers too large", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x", strings.Repeat("x", maxHeaders))
		if _, err := client.State(ctx, &StateRequest{}); err == nil {
			t.Error("taken")
		}
	})
}

func TestGarbageOnTheSocketHarmsNobody(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	serve(t, NewServer(), socket)
	for _, garbage := range [][]byte{
		bytes.Repeat([]byte{0xff}, 1<<16),
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), bytes.Repeat([]byte{0x80}, 4096)...),
	} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write(garbage) // the server may hang up at any byte
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the server keeps a connection of garbage open")
		}
		c.Close()
	}
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if unary, stream := callBoth(t.Context(), conn); unary != nil || stream != nil {
		t.Errorf("%v, %v", unary, stream)
	}
}

func TestConnectionsOfOneUserAreBounded(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	serve(t, NewServer(), socket)
	preface := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00") // and empty SETTINGS
	// open gives a connection on which the server has answered, or nil when it
	// hung up.
	open := func() net.Conn {
		t.Helper()
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write(preface)
		if _, err := bufio.NewReader(c).ReadByte(); err != nil {
			c.Close()
			return nil
		}
		return c
	}
	var held []net.Conn
	for range maxConnections {
		c := open()
		if c == nil {
			t.Fatalf("refused after %d connections", len(held))
		}
		held = append(held, c)
	}
	if open() != nil {
		t.Errorf("more than %d connections", maxConnections)
	}
	for _, c := range held {
		c.Close()
	}
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := NewMessengerClient(conn).State(ctx, &StateRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Errorf("after they were closed: %v", err)
	}
}

func TestListen(t *testing.T) {
	own := uint32(os.Geteuid())
	for name, c := range map[string]struct {
		allow []uint32
		mode  fs.FileMode
	}{
		"for nobody else":       {nil, 0o600},
		"for own user and root": {[]uint32{own, 0}, 0o600},
		"for other users":       {[]uint32{own, UIDNode, own + 7}, 0o666},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			l, err := Listen(path, c.allow...)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if info, err := os.Stat(path); err != nil || info.Mode() != c.mode|fs.ModeSocket {
				t.Errorf("mode %v, %v; want %v", info.Mode(), err, c.mode)
			}
			if _, err := Listen(path); !errors.Is(err, ErrInUse) {
				t.Errorf("a second listener: %v", err)
			}
		})
	}
	t.Run("a dead process left its socket", func(t *testing.T) {
		path := filepath.Join(shortDir(t), "s")
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
	})
	t.Run("a file is in the way", func(t *testing.T) {
		path := filepath.Join(shortDir(t), "s")
		if err := os.WriteFile(path, []byte("important"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Listen(path); err == nil {
			t.Error("taken")
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "important" {
			t.Errorf("the file was changed: %q, %v", b, err)
		}
	})
}

func TestDialTrustsOnlyTheExpectedServer(t *testing.T) {
	own := uint32(os.Geteuid())
	socket := filepath.Join(shortDir(t), "s")
	s := serve(t, NewServer(), socket)
	for name, c := range map[string]struct {
		trusted []uint32
		ok      bool
	}{
		"the very one": {[]uint32{own}, true},
		"another":      {[]uint32{own + 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := grpc.NewClient("passthrough:///local",
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
					return (&net.Dialer{}).DialContext(ctx, "unix", socket)
				}),
				grpc.WithTransportCredentials(&peerCredentials{trusted: c.trusted}))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			before := s.calls.Load()
			_, err = NewMessengerClient(conn).State(t.Context(), &StateRequest{})
			if (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
			if !c.ok && (status.Code(err) != codes.Unavailable || s.calls.Load() != before) {
				t.Errorf("got %v after %d calls", err, s.calls.Load()-before)
			}
		})
	}
	conn, err := Dial(socket, UIDVault) // the own user is trusted on a developer's machine
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if unary, stream := callBoth(t.Context(), conn); unary != nil || stream != nil {
		t.Errorf("%v, %v", unary, stream)
	}
}

func TestClientComesBackAfterItsServer(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	conn, err := Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := NewMessengerClient(conn)
	if _, err := client.State(t.Context(), &StateRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a server: %v", err)
	}
	for range 2 {
		server := NewServer()
		serve(t, server, socket)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := client.State(ctx, &StateRequest{}, grpc.WaitForReady(true)); err != nil {
			t.Error(err)
		}
		server.Stop()
		if !conn.WaitForStateChange(ctx, connectivity.Ready) {
			t.Error("the client does not notice that its server is gone")
		}
		cancel()
	}
}

func TestCallerIsKnownOnlyThroughAServer(t *testing.T) {
	if _, ok := CallerOf(t.Context()); ok {
		t.Error("a caller from nowhere")
	}
	want := Caller{PID: 7, UID: UIDPanel, GID: 8}
	if got, ok := CallerOf(WithCaller(t.Context(), want)); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := peerOf(a); err == nil {
		t.Error("a pipe has no user")
	}
}

func BenchmarkCall(b *testing.B) {
	dir, err := os.MkdirTemp("", "api")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		b.Fatal(err)
	}
	server := NewServer()
	RegisterMessengerServer(server, &service{})
	go server.Serve(l)
	defer server.Stop()
	conn, err := Dial(filepath.Join(dir, "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := NewMessengerClient(conn)
	for b.Loop() {
		if _, err := client.State(b.Context(), &StateRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
