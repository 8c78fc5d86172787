package serial

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty makes a pseudo terminal: the end of a person, and the device of a line.
func pty(t *testing.T) (person *os.File, device string) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	raw, err := person.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	var ctlErr error
	err = raw.Control(func(fd uintptr) {
		if ctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ctlErr == nil {
			n, ctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err := errors.Join(err, ctlErr); err != nil {
		t.Fatal(err)
	}
	return person, fmt.Sprintf("/dev/pts/%d", n)
}

func TestBytesGoBothWaysAsTheyAre(t *testing.T) {
	person, device := pty(t)
	line, err := Open(device, 115200)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	// No control character may be taken by the terminal driver.
	want := []byte("a\r\nb\x03\x04\x11\x13\x1a\x1b[A\xff\x00\x7f")
	if _, err := person.Write(want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(line, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the line got %q, %v", got, err)
	}
	if _, err := line.Write(want); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(person, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the person got %q, %v", got, err)
	}
}

func TestCloseReleasesAReader(t *testing.T) {
	_, device := pty(t)
	line, err := Open(device, 115200)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error)
	go func() {
		_, err := line.Read(make([]byte, 1))
		read <- err
	}()
	line.Close()
	if err := <-read; err != io.EOF {
		t.Errorf("got %v", err)
	}
	if _, err := line.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := line.Close(); err != nil {
		t.Error(err)
	}
}

func TestWritesOfSeveralStayInOnePiece(t *testing.T) {
	person, device := pty(t)
	line, err := Open(device, 115200)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	const writers, each = 4, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				fmt.Fprint(line, strings.Repeat(string(rune('a'+w)), 60)+"\n")
			}
		})
	}
	all := make([]byte, writers*each*61)
	if _, err := io.ReadFull(person, all); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	for i, l := range strings.Split(strings.TrimSuffix(string(all), "\n"), "\n") {
		if len(l) != 60 || strings.Trim(l, l[:1]) != "" {
			t.Fatalf("line %d is %q", i, l)
		}
	}
}

func TestErrorsOfOpening(t *testing.T) {
	_, device := pty(t)
	for name, err := range map[string]error{
		"no such device": second(Open("/dev/there-is-none", 115200)),
		"no such speed":  second(Open(device, 12345)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := second(Open("/dev/there-is-none", 115200)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func second(_ *Line, err error) error { return err }

// device plays what its reads return, one after the other, then waits until it
// is closed.
type device struct {
	reads  []func(b []byte) (int, error)
	closed chan struct{}
	once   sync.Once
}

func (d *device) Read(b []byte) (int, error) {
	if len(d.reads) == 0 {
		<-d.closed
		return 0, os.ErrClosed
	}
	read := d.reads[0]
	d.reads = d.reads[1:]
	return read(b)
}

func (d *device) Write(b []byte) (int, error) { return len(b), nil }
func (d *device) Close() error                { d.once.Do(func() { close(d.closed) }); return nil }

func data(text string) func([]byte) (int, error) {
	return func(b []byte) (int, error) { return copy(b, text), nil }
}

func TestABrokenLineIsOpenedAgain(t *testing.T) {
	clock := time.Unix(0, 0)
	timeout := func([]byte) (int, error) { clock = clock.Add(ReadTimeout); return 0, io.EOF }
	atOnce := func([]byte) (int, error) { return 0, io.EOF }
	gone := func([]byte) (int, error) { return 0, unix.EIO }
	many := func(n int, read func([]byte) (int, error)) (all []func([]byte) (int, error)) {
		for range n {
			all = append(all, read)
		}
		return all
	}
	tests := []struct {
		name  string
		first []func([]byte) (int, error)
		opens int
	}{
		{"data at once", []func([]byte) (int, error){data("x")}, 1},
		{"an error", []func([]byte) (int, error){gone}, 2},
		{"a hang-up, which reads as empty at once", many(hangup, atOnce), 2},
		{"silence for an hour is no hang-up", append(many(18_000, timeout), data("x")), 1},
		{"a few empty reads are none either", append(append(many(hangup-1, atOnce), timeout), append(many(hangup-1, atOnce), data("x"))...), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opens, pauses := 0, 0
			line, err := open(func() (io.ReadWriteCloser, error) {
				opens++
				d := &device{closed: make(chan struct{})}
				if opens == 1 {
					d.reads = tt.first
				} else {
					d.reads = append(d.reads, data("x"))
				}
				return d, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			line.now = func() time.Time { return clock }
			line.pause = func(d time.Duration) { pauses++; clock = clock.Add(d) }
			b := make([]byte, 10)
			if n, err := line.Read(b); err != nil || string(b[:n]) != "x" {
				t.Errorf("read %q, %v", b[:n], err)
			}
			if opens != tt.opens || pauses != tt.opens-1 {
				t.Errorf("opened %d times with %d pauses, want %d", opens, pauses, tt.opens)
			}
			line.Close()
		})
	}
}
