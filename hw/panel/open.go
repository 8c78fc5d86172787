package panel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PortName is the name of the virtio serial port that carries the virtual
// panel. An emulator sets it, QEMU with
// -device virtserialport,chardev=C,name=hearth.panel
const PortName = "hearth.panel"

// ErrNoPort is the error of a machine without the virtio serial port asked
// for.
var ErrNoPort = errors.New("no such virtio serial port")

// OpenVirtual gives the way to the viewers of a virtual panel. A name with a
// slash is the path of a Unix socket to listen on, unless it is a device;
// without one it is the name of a virtio serial port, such as PortName.
// ErrNoPort tells that this machine has no port of that name.
func OpenVirtual(name string) (Accept, io.Closer, error) {
	if !strings.Contains(name, "/") {
		device, err := FindPort(os.DirFS("/"), name)
		if err != nil {
			return nil, nil, err
		}
		return acceptPort(device), nopCloser{}, nil
	}
	if info, err := os.Stat(name); err == nil && info.Mode()&fs.ModeCharDevice != 0 {
		return acceptPort(name), nopCloser{}, nil
	}
	return listenUnix(name)
}

type nopCloser struct{}

func (nopCloser) Close() error { return nil }

// FindPort gives the device of the virtio serial port with that name, such as
// "/dev/vport2p1". The root is the file system's, usually os.DirFS("/").
func FindPort(root fs.FS, name string) (device string, err error) {
	const class = "sys/class/virtio-ports"
	entries, err := fs.ReadDir(root, class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("virtio serial ports: %w", err)
	}
	for _, e := range entries {
		text, err := fs.ReadFile(root, path.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(text)) == name {
			return path.Join("/dev", e.Name()), nil
		}
	}
	return "", fmt.Errorf("%w: %q", ErrNoPort, name)
}

// portPoll is how often a port is asked whether somebody opened its other end.
const portPoll = 250 * time.Millisecond

// acceptPort waits for the other end of a virtio serial port. While nobody
// has it open, the port polls as hung up and reads as ended.
func acceptPort(device string) Accept {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		for {
			// O_NONBLOCK lets the runtime poll the port, so that Close
			// releases a waiting Read.
			f, err := os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
			if err == nil {
				err = waitConnected(ctx, f)
				if err == nil {
					return f, nil
				}
				f.Close()
			}
			// The port is busy for a moment after its last user died, and
			// that user may have been ourselves before a restart.
			if ctx.Err() == nil && !errors.Is(err, unix.EBUSY) {
				return nil, fmt.Errorf("panel port: %w", err)
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(portPoll):
			}
		}
	}
}

func waitConnected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var connected bool
		var pollErr error
		err := raw.Control(func(fd uintptr) {
			fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT}}
			_, pollErr = unix.Poll(fds, 0)
			connected = fds[0].Revents&(unix.POLLHUP|unix.POLLERR) == 0
		})
		if err := errors.Join(err, pollErr); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if connected {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(portPoll):
		}
	}
}

// listenUnix takes viewers at a Unix socket, one after the other, as an
// emulator's socket does.
func listenUnix(path string) (Accept, io.Closer, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil { // left behind by the last run
			return nil, nil, fmt.Errorf("panel socket: %w", err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, nil, fmt.Errorf("panel socket: %w", err)
	}
	// The picture shows the account and the buttons act on it: the owner only.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, nil, fmt.Errorf("panel socket: %w", err)
	}
	accept := func(ctx context.Context) (io.ReadWriteCloser, error) {
		stop := context.AfterFunc(ctx, func() { ln.Close() })
		defer stop()
		return ln.Accept()
	}
	return accept, ln, nil
}
