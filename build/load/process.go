package load

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tick is the kernel's unit of processor time towards programs, the same on all
// of Linux's architectures that nodes run on.
const tick = time.Second / 100

// cpuOf sums up the processor time that processes have used, in programs and
// kernel.
func cpuOf(pids []int) (time.Duration, error) {
	var sum time.Duration
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, fmt.Errorf("processor time: %w", err)
		}
		t, err := parseStat(b)
		if err != nil {
			return 0, fmt.Errorf("processor time of %d: %w", pid, err)
		}
		sum += t
	}
	return sum, nil
}

var errProc = errors.New("not what /proc holds")

// parseStat finds utime and stime, fields 14 and 15. The second field is a name in
// parentheses that may contain anything.
func parseStat(b []byte) (time.Duration, error) {
	_, rest, ok := bytes.Cut(b, []byte(") "))
	if i := bytes.LastIndex(b, []byte(") ")); ok {
		rest = b[i+2:]
	}
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 13 {
		return 0, errProc
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * tick, nil
}

// Memory is what a process has in memory, in bytes.
type Memory struct {
	Resident int64 // all of it, mapped files included
	Private  int64 // what no file stands behind: the kernel cannot take it back
}

func (m Memory) String() string {
	return fmt.Sprintf("%.0f MB (%.0f MB without mapped files)", float64(m.Resident)/1e6, float64(m.Private)/1e6)
}

// MemoryOf reads the memory of a process, and the most it had since it started.
func MemoryOf(pid int) (now Memory, most int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return now, 0, err
	}
	now, most, err = parseStatus(b)
	return now, most, err
}

func parseStatus(b []byte) (now Memory, most int64, err error) {
	found := 0
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		into, ok := map[string]*int64{"VmRSS": &now.Resident, "RssAnon": &now.Private, "VmHWM": &most}[name]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return now, most, fmt.Errorf("%s: %w", name, err)
		}
		*into = n << 10
		found++
	}
	if found != 3 {
		return now, most, errProc
	}
	return now, most, nil
}

// Watch looks at the memory of processes until the function that it returns is
// called, which gives the most that each had meanwhile.
func Watch(pids ...int) (stop func() []Memory) {
	most := make([]Memory, len(pids))
	end := make(chan struct{})
	var done sync.WaitGroup
	look := func() {
		for i, pid := range pids {
			if m, _, err := MemoryOf(pid); err == nil {
				most[i].Resident = max(most[i].Resident, m.Resident)
				most[i].Private = max(most[i].Private, m.Private)
			}
		}
	}
	done.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			look()
			select {
			case <-ticker.C:
			case <-end:
				return
			}
		}
	})
	return func() []Memory {
		close(end)
		done.Wait()
		return most
	}
}

// diskOf is what the files in a folder take on disk, in bytes.
func diskOf(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a file on its way to another name
		}
		if err != nil {
			return err
		}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			sum += s.Blocks * 512
		}
		return nil
	})
	return sum, err
}
