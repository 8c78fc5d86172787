package cell_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hearth/initramfs/cell"
	"hearth/initramfs/cell/probe"
)

// Nobody comes out of a cell again, so each scene is played by a process of its
// own: this program, with the scene's name in the environment.
const (
	sceneVariable  = "CELL_TEST_SCENE"
	folderVariable = "CELL_TEST_FOLDER"
)

var scenes = map[string]func(own, foreign string) error{
	"files":   files,
	"work":    work,
	"local":   local,
	"online":  online,
	"settled": settled,
	"probe":   tryAll,
}

func TestMain(m *testing.M) {
	if scene := os.Getenv(sceneVariable); scene != "" {
		dir := os.Getenv(folderVariable)
		if err := scenes[scene](filepath.Join(dir, "own"), filepath.Join(dir, "foreign")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestCell(t *testing.T) {
	for name, scene := range map[string]string{
		"own files work, and others' are out of reach":           "files",
		"threads, timers, files and sockets work as before":      "work",
		"a local role makes no network socket":                   "local",
		"an online role does":                                    "online",
		"nothing listens any more once it has settled":           "settled",
		"what whoever takes a process over would try is refused": "probe",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, folder := range []string{"own", "foreign"} {
				if err := os.Mkdir(filepath.Join(dir, folder), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, folder, "file"), []byte("content"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), sceneVariable+"="+scene, folderVariable+"="+dir)
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func enter(kind cell.Kind, own string) (cell.Strength, error) {
	s, err := cell.Enter(cell.Rules{Kind: kind, Write: []string{own}})
	fmt.Println(s)
	return s, err
}

func files(own, foreign string) error {
	s, err := enter(cell.Local, own)
	if err != nil {
		return err
	}
	path := filepath.Join(own, "new")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		return fmt.Errorf("own file: %w", err)
	}
	if err := os.Rename(path, filepath.Join(own, "file")); err != nil {
		return fmt.Errorf("own file renamed: %w", err)
	}
	if _, err := os.ReadFile(filepath.Join(foreign, "file")); s.Landlock > 0 && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("a foreign file was read: %v", err)
	}
	if err := os.WriteFile(filepath.Join(foreign, "new"), nil, 0o600); s.Landlock > 0 && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("a foreign file was made: %v", err)
	}
	return nil
}

func work(own, _ string) error {
	if _, err := enter(cell.Local, own); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(own, "s"))
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			c.Write([]byte("hello"))
			c.Close()
		}
	}()
	c, err := net.Dial("unix", filepath.Join(own, "s"))
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 5)); err != nil {
		return err
	}
	var wait sync.WaitGroup
	for i := range 64 { // blocking calls, so that the runtime makes threads
		wait.Go(func() {
			f, err := os.Create(filepath.Join(own, fmt.Sprint(i)))
			if err == nil {
				f.Write(make([]byte, 1<<16))
				f.Sync()
				f.Close()
			}
		})
	}
	wait.Wait()
	return nil
}

func local(own, _ string) error {
	if _, err := enter(cell.Local, own); err != nil {
		return err
	}
	for _, network := range []string{"tcp4", "tcp6", "udp4"} {
		if _, err := net.Dial(network, "127.0.0.1:9"); !errors.Is(err, syscall.EPERM) && network != "tcp6" {
			return fmt.Errorf("%s: %v", network, err)
		}
	}
	if _, err := net.Listen("tcp", "127.0.0.1:0"); !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("listening: %v", err)
	}
	return nil
}

func online(own, _ string) error {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := enter(cell.Online, own); err != nil {
		return err
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	c.Close()
	_, err = net.Dial("ip4:icmp", "127.0.0.1")
	if !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("a raw socket: %v", err)
	}
	return nil
}

func settled(own, _ string) error {
	if _, err := enter(cell.Local, own); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(own, "first"))
	if err != nil {
		return err
	}
	defer l.Close()
	if err := cell.Settle(); err != nil {
		return err
	}
	if _, err := net.Listen("unix", filepath.Join(own, "second")); !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("a second door: %v", err)
	}
	c, err := net.Dial("unix", filepath.Join(own, "first"))
	if err != nil {
		return fmt.Errorf("the first door: %w", err)
	}
	return c.Close()
}

// tryAll plays the whole list. What needs the appliance around it (other users,
// namespaces, an empty bounding set, a read-only root) is tried there; here only
// what the cell itself refuses must be refused.
func tryAll(own, _ string) error {
	if _, err := cell.Enter(cell.Rules{Kind: cell.Local, Write: []string{own}}); err != nil {
		return err
	}
	if err := cell.Settle(); err != nil {
		return err
	}
	needs := map[string]bool{ // Landlock or the appliance
		"see another process": true, "list the data partition": true,
		"read PID 1's environment": true, "read the kernel's messages": true, "write into the program": true,
		"make a file in /": true, "make a file in /etc": true, "make a file in /run": true, "make a file in /dev": true,
		"change a kernel setting": true, "open a watchdog": true, "see a network interface": true, "read PID 1's memory": true, "open the memory": true,
	}
	tried := 0
	for _, r := range probe.Run(probe.Own{Folder: own}) {
		fmt.Println(r)
		if !needs[r.What] && !strings.HasPrefix(r.What, "open /dev/") {
			tried++
			if !r.Refused {
				return fmt.Errorf("breach: %s", r.What)
			}
		}
	}
	if tried < 40 {
		return fmt.Errorf("only %d attempts", tried)
	}
	return nil
}
