package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"hearth/node/account"
	"hearth/node/api"
	"hearth/node/keys"
	"hearth/node/messenger"
	"hearth/node/relay"
	"hearth/node/seed"
	"hearth/node/servicenode"
	"hearth/node/swarm"
)

// The test below runs the messenger's role as a process of its own whose every
// system call that makes a socket, connects it, names it or listens on it waits
// for the test's word: a seccomp filter hands them over. It needs no privilege and
// nothing can pass it by, in contrast to looking at /proc now and then.

// watchedArguments is where the child finds what to run, in the environment.
const watchedArguments = "HEARTH_TEST_WATCHED"

// watched are the system calls that the filter hands over.
var watched = []uint32{unix.SYS_SOCKET, unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_IO_URING_SETUP}

// fastOpen are those that connect a socket when a flag says so, and which of their
// arguments holds the flags.
var fastOpen = map[uint32]uint32{unix.SYS_SENDTO: 3, unix.SYS_SENDMSG: 2, unix.SYS_SENDMMSG: 3}

func auditArch(t testing.TB) uint32 {
	switch runtime.GOARCH {
	case "amd64":
		return unix.AUDIT_ARCH_X86_64
	case "arm64":
		return unix.AUDIT_ARCH_AARCH64
	}
	t.Fatalf("what system calls look like on %s is not written down here", runtime.GOARCH)
	return 0
}

// filter is the program that the kernel runs for each system call: offsets are
// those of struct seccomp_data.
func filter(t testing.TB) []bpf.RawInstruction {
	const nr, arch, args = 0, 4, 16
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: arch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArch(t), SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}, // another set of calls, which would not be watched
	}
	for _, call := range watched {
		program = append(program,
			bpf.LoadAbsolute{Off: nr, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF})
	}
	for call, flags := range fastOpen {
		program = append(program,
			bpf.LoadAbsolute{Off: nr, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 3},
			bpf.LoadAbsolute{Off: args + 8*flags, Size: 4}, // the low half, on a little-endian machine
			bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.MSG_FASTOPEN, SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_USER_NOTIF})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// beWatched puts the filter on all threads of this process and sends its other end
// through the socket with number 3.
func beWatched(t *testing.T) {
	raw := filter(t)
	program := struct {
		length  uint16
		filters *bpf.RawInstruction
	}{uint16(len(raw)), &raw[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	flags := unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flags), uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		t.Fatalf("putting the filter on: %v", errno)
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(int(listener))
}

// sight is everything that a watched process wanted to do with sockets.
type sight struct {
	mu        sync.Mutex
	connected map[netip.AddrPort]int
	unix      map[string]int
	wrong     []string
	events    int
}

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type notificationReply struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// watch answers until the process has ended. Everything may go on; what is not
// right is written down.
func (s *sight) watch(listener int) {
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return // nobody is left
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // the thread is gone
		}
		s.see(&n)
		reply := notificationReply{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply)))
	}
}

func (s *sight) see(n *notification) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events++
	wrong := func(format string, args ...any) { s.wrong = append(s.wrong, fmt.Sprintf(format, args...)) }
	switch uint32(n.nr) {
	case unix.SYS_SOCKET:
		family, kind := n.args[0], n.args[1]&0xf
		if stream := kind == unix.SOCK_STREAM; family != unix.AF_UNIX && !(stream && (family == unix.AF_INET || family == unix.AF_INET6)) {
			wrong("a socket of family %d, type %d", family, kind)
		}
	case unix.SYS_CONNECT:
		switch to, err := readAddress(n); {
		case err != nil:
			wrong("a connection to an address that cannot be read: %v", err)
		case to.path != "":
			s.unix[to.path]++
		default:
			s.connected[to.inet]++
		}
	case unix.SYS_BIND:
		// The Go runtime looks at what the machine has by naming a socket on
		// loopback, once, without listening.
		switch at, err := readAddress(n); {
		case err != nil:
			wrong("a name that cannot be read: %v", err)
		case at.path == "" && (!at.inet.Addr().Unmap().IsLoopback() || at.inet.Port() != 0):
			wrong("a socket bound to %v", at.inet)
		}
	case unix.SYS_LISTEN:
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.args[0])))
		inode := strings.TrimSuffix(strings.TrimPrefix(link, "socket:["), "]")
		local, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/unix", n.pid))
		if inode == "" || !bytes.Contains(local, []byte(" "+inode+" ")) {
			wrong("listening on something else than a Unix socket: %q", link)
		}
	default:
		wrong("system call %d with %x", n.nr, n.args)
	}
}

type address struct {
	inet netip.AddrPort
	path string
}

// readAddress reads the second argument, a struct sockaddr, out of the process.
func readAddress(n *notification) (a address, err error) {
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid))
	if err != nil {
		return a, err
	}
	defer memory.Close()
	b := make([]byte, min(n.args[2], 128))
	if _, err := memory.ReadAt(b, int64(n.args[1])); err != nil || len(b) < 4 {
		return a, errors.Join(io.ErrUnexpectedEOF, err)
	}
	port := binary.BigEndian.Uint16(b[2:])
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_UNIX:
		a.path, _, _ = strings.Cut(string(b[2:]), "\x00")
		if a.path == "" {
			err = errors.New("a Unix socket without a path")
		}
	case family == unix.AF_INET && len(b) >= 8:
		a.inet = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:])), port)
	case family == unix.AF_INET6 && len(b) >= 24:
		a.inet = netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:])).Unmap(), port)
	default:
		err = fmt.Errorf("family %d, %d bytes", family, len(b))
	}
	return a, err
}

// runWatched runs the messenger's role in a process of its own and returns what it
// does; stop ends it in order.
func runWatched(t *testing.T, args []string) (s *sight, stop func()) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	encoded, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestAllThatAMessengerConnectsTo$")
	cmd.Env = append(os.Environ(), watchedArguments+"="+string(encoded))
	cmd.ExtraFiles = []*os.File{theirs}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	rights := make([]byte, unix.CmsgSpace(4))
	_, got, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	unix.Close(pair[0])
	var listener int
	if messages, parseErr := unix.ParseSocketControlMessage(rights[:max(got, 0)]); err == nil && parseErr == nil && len(messages) == 1 {
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil && len(fds) == 1 {
			listener = fds[0]
		}
	}
	if listener == 0 {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the process cannot be watched: %v\n%s", err, &said)
	}
	s = &sight{connected: make(map[netip.AddrPort]int), unix: make(map[string]int)}
	var seeing sync.WaitGroup
	seeing.Go(func() { s.watch(listener) })
	stop = sync.OnceFunc(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		late.Stop()
		seeing.Wait()
		unix.Close(listener)
		if err != nil {
			t.Errorf("the watched messenger ended with %v:\n%s", err, &said)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// network starts nine nodes and their seed on loopback, until the test ends.
func network(t *testing.T, dir string) (nodes []netip.AddrPort, seedAt netip.AddrPort, pin [32]byte, source func() *seed.Client) {
	t.Helper()
	authority, err := seed.New(seed.Config{
		Dir: filepath.Join(dir, "seed"), Now: time.Now,
		Rules: swarm.Rules{MinSize: 3, NewSize: 3, FillPercentile: 25, StealPercentile: 75},
		Ping:  func(ctx context.Context, addr netip.AddrPort) ([32]byte, error) { return relay.Ping(ctx, nil, addr) },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seedAt, pin = l.Addr().(*net.TCPAddr).AddrPort(), authority.Pin()
	runs(t, func(ctx context.Context) error { return authority.Serve(ctx, l) })
	source = func() *seed.Client { return &seed.Client{URL: "https://" + seedAt.String() + "/json_rpc", Pin: pin} }
	var running []*servicenode.Node
	until, end := context.WithCancel(context.Background())
	var ending sync.WaitGroup
	t.Cleanup(func() { end(); ending.Wait() }) // all at a time, since each takes its leave of the others
	for k := 1; k <= 9; k++ {
		free, err := net.Listen("tcp4", fmt.Sprintf("127.0.%d.1:0", k))
		if err != nil {
			t.Fatal(err)
		}
		public := free.Addr().(*net.TCPAddr).AddrPort()
		free.Close()
		pair, err := keys.Generate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		client := source()
		node, err := servicenode.New(servicenode.Config{
			Keys: pair, Dir: filepath.Join(dir, fmt.Sprint("node-", k)), Listen: []string{public.String()}, Public: public,
			Seed: client, Poll: 200 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		ending.Go(func() {
			defer client.Close()
			if err := node.Run(until); err != nil {
				t.Errorf("node %d: %v", k, err)
			}
		})
		nodes, running = append(nodes, public), append(running, node)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for k := 0; k < len(running); {
		if list := running[k].List(); list != nil && list.Hash == authority.List().Hash && len(running[k].NotReady()) == 0 {
			k++
			continue
		}
		select {
		case <-running[k].Changed():
			k = 0
		case <-ctx.Done():
			t.Fatal("the network is not ready")
		}
	}
	return nodes, seedAt, pin, source
}

func TestAllThatAMessengerConnectsTo(t *testing.T) {
	if encoded := os.Getenv(watchedArguments); encoded != "" {
		var args []string
		if err := json.Unmarshal([]byte(encoded), &args); err != nil {
			t.Fatal(err)
		}
		beWatched(t)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		go func() { <-ended; cancel() }()
		if err := runMessenger(ctx, args); err != nil {
			t.Fatal(err)
		}
		return
	}

	dir := shortDir(t)
	nodes, seedAt, pin, source := network(t, dir)
	socket := func(name string) string { return filepath.Join(dir, name+".sock") }
	_, stopVault := startVault(t, vaultFlags{dir: filepath.Join(dir, "vault"), api: socket("vault"), developer: true})
	defer stopVault()

	// Somebody to talk to, in this process, which nobody watches.
	other := account.New(account.Seed{2})
	friend, err := messenger.New(messenger.Config{
		Account: other, DBPath: filepath.Join(dir, "friend.db"), Seeds: []messenger.NodeSource{source()},
		PollInterval: 200 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	runs(t, friend.Run)

	args := []string{"-dir", filepath.Join(dir, "messenger"), "-seed", "https://" + seedAt.String() + "/json_rpc", "-seed-pin", hex.EncodeToString(pin[:]),
		"-vault", socket("vault"), "-node", socket("node"), "-api", socket("messenger"), "-poll", "200ms"}
	conn, err := api.Dial(socket("messenger"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client, wait := api.NewMessengerClient(conn), grpc.WaitForReady(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	// A first day: an account, a conversation in both directions.
	seen, stop := runWatched(t, args)
	var state *api.MessengerState
	for state.GetAccount() != api.MessengerState_NONE || state == nil {
		if state, err = client.State(ctx, &api.StateRequest{}, wait); err != nil {
			t.Fatal(err)
		}
	}
	if state, err = client.Create(ctx, &api.CreateRequest{Pin: "123456"}); err != nil {
		t.Fatal(err)
	}
	own := state.GetSessionId()
	talk := func(text string) {
		t.Helper()
		if _, err := client.Send(ctx, &api.SendRequest{To: other.ID().String(), Text: text}); err != nil {
			t.Fatal(err)
		}
		mustArrive(t, ctx, text, func() (*api.MessagesReply, error) { return friend.Messages(ctx, &api.MessagesRequest{With: own}) })
		if _, err := friend.Send(ctx, &api.SendRequest{To: own, Text: "yes, " + text}); err != nil {
			t.Fatal(err)
		}
		mustArrive(t, ctx, "yes, "+text, func() (*api.MessagesReply, error) {
			return client.Messages(ctx, &api.MessagesRequest{With: other.ID().String()})
		})
	}
	for i := range 5 {
		talk(fmt.Sprint("hello ", i))
	}
	// Everything else that travels: files and pictures, both ways, and small words.
	content := make([]byte, 300_000)
	rand.Read(content)
	to := other.ID().String()
	upload, err := client.SendFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []*api.SendFileRequest{
		{Part: &api.SendFileRequest_Head{Head: &api.FileHead{To: to, Name: "sent", Text: "a file"}}},
		{Part: &api.SendFileRequest_Data{Data: content}},
	} {
		if err := upload.Send(part); err != nil {
			t.Fatal(err)
		}
	}
	if reply, err := upload.CloseAndRecv(); err != nil || reply.GetState() != api.Message_STORED {
		t.Fatalf("sending a file: %v, %v", reply, err)
	}
	var face bytes.Buffer
	if err := png.Encode(&face, image.NewGray(image.Rect(0, 0, 40, 40))); err != nil {
		t.Fatal(err)
	}
	if _, err := friend.SetPictureFrom(ctx, bytes.NewReader(face.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, err := friend.SendFileFrom(ctx, &api.FileHead{To: own, Name: "answered", Text: "another file"}, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	var came *api.Message
	mustArrive(t, ctx, "another file", func() (*api.MessagesReply, error) {
		reply, err := client.Messages(ctx, &api.MessagesRequest{With: to})
		if n := len(reply.GetMessages()); n > 0 {
			came = reply.GetMessages()[n-1]
		}
		return reply, err
	})
	download, err := client.FetchFile(ctx, &api.FetchFileRequest{With: to, Id: came.GetId(), Save: true})
	var fetched []byte
	for err == nil {
		var piece *api.FetchFileReply
		piece, err = download.Recv()
		fetched = append(fetched, piece.GetData()...)
	}
	if err != io.EOF || !bytes.Equal(fetched, content) {
		t.Errorf("fetched %d bytes, %v", len(fetched), err)
	}
	if reply, err := client.Picture(ctx, &api.WhoRequest{Who: to}); err != nil || len(reply.GetJpeg()) == 0 {
		t.Errorf("the friend's picture: %v", err)
	}
	if stream, err := client.SetPicture(ctx); err != nil {
		t.Error(err)
	} else if err := stream.Send(&api.SetPictureRequest{Data: face.Bytes()}); err != nil {
		t.Error(err)
	} else if reply, err := stream.CloseAndRecv(); err != nil || !reply.GetPicture() {
		t.Errorf("the own picture: %v, %v", reply, err)
	}
	on := true
	if _, err := client.Settings(ctx, &api.SettingsRequest{ReadReceipts: &on, Typing: &on}); err != nil {
		t.Error(err)
	}
	if _, err := client.Typing(ctx, &api.TypingRequest{With: to}); err != nil {
		t.Error(err)
	}
	if _, err := client.React(ctx, &api.ReactRequest{With: to, Id: came.GetId(), Emoji: "👍"}); err != nil {
		t.Error(err)
	}
	if _, err := client.Messages(ctx, &api.MessagesRequest{With: to, MarkRead: true}); err != nil {
		t.Error(err)
	}
	talk("https://example.org/ is a link")
	stop()
	first := seen.check(t, seedAt, nodes, dir)
	if seen.connected[seedAt] == 0 {
		t.Error("not even the seed was seen: nothing was watched")
	}

	// The next day: the same guards, and no need for the seed.
	seen, stop = runWatched(t, args)
	if _, err := client.Unlock(ctx, &api.UnlockRequest{Pin: "123456"}, wait); err != nil {
		t.Fatal(err)
	}
	talk("the next day")
	if r, err := client.Wipe(ctx, &api.WipeRequest{Pin: "123456"}); err != nil || !r.GetWiped() {
		t.Errorf("wiped %v, %v", r, err)
	}
	stop()
	second := seen.check(t, seedAt, nodes, dir)
	all := append(first, second...)
	slices.SortFunc(all, netip.AddrPort.Compare)
	if all = slices.Compact(all); len(all) > 2 || len(second) == 0 {
		t.Errorf("guards %v, and the next day %v", first, second)
	}
	if seen.connected[seedAt] != 0 {
		t.Error("the seed was asked although the nodes are known")
	}
}

// check reports what should not have been, and returns the nodes that were
// connected to.
func (s *sight) check(t *testing.T, seedAt netip.AddrPort, nodes []netip.AddrPort, dir string) (guards []netip.AddrPort) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%d system calls: connected to %v and %v", s.events, s.connected, s.unix)
	for _, w := range s.wrong {
		t.Errorf("the messenger made %s", w)
	}
	for a := range s.connected {
		switch {
		case a == seedAt:
		case slices.Contains(nodes, a):
			guards = append(guards, a)
		default:
			t.Errorf("the messenger connected to %v", a)
		}
	}
	if len(guards) == 0 || len(guards) > 2 {
		t.Errorf("the messenger connected to the nodes %v, want one guard or two", guards)
	}
	for path := range s.unix {
		if path != filepath.Join(dir, "vault.sock") && path != filepath.Join(dir, "node.sock") {
			t.Errorf("the messenger connected to %s", path)
		}
	}
	return guards
}

func mustArrive(t *testing.T, ctx context.Context, text string, messages func() (*api.MessagesReply, error)) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		reply, err := messages()
		if slices.ContainsFunc(reply.GetMessages(), func(m *api.Message) bool { return m.GetText() == text }) {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("%q did not arrive: %v, %v", text, reply, err)
		}
	}
}
