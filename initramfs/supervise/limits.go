package supervise

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Limits bound a service. 0 is no limit.
type Limits struct {
	Memory int64 // bytes, its pages of files included; beyond, the kernel ends it
	Tasks  int   // processes and threads
	// Expendable says who goes first when the memory of the whole device is used
	// up: from -1000, never, to 1000, before all others. It is oom_score_adj.
	Expendable int
}

// Groups is a folder of the kernel's control groups (version 2), in which every
// service gets a group of its own.
type Groups struct{ folder string }

// OpenGroups uses the control groups mounted at folder, as far as the kernel has
// them; which limits it can keep is in the answer.
func OpenGroups(folder string) (*Groups, []string, error) {
	text, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return nil, nil, fmt.Errorf("control groups: %w", err)
	}
	var can []string
	for name := range strings.FieldsSeq(string(text)) {
		if name != "memory" && name != "pids" {
			continue
		}
		if err := write(filepath.Join(folder, "cgroup.subtree_control"), "+"+name); err != nil {
			return nil, nil, fmt.Errorf("control groups: %w", err)
		}
		can = append(can, name)
	}
	return &Groups{folder}, can, nil
}

// open makes the group of a service, sets its limits and gives its folder, into which
// a process can be put. Limits that the kernel does not know are left out.
func (g *Groups) open(name string, l Limits) (*os.File, error) {
	folder := filepath.Join(g.folder, name)
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	for _, limit := range []struct {
		file  string
		value int64
	}{{"memory.max", l.Memory}, {"memory.swap.max", 0}, {"memory.oom.group", 1}, {"pids.max", int64(l.Tasks)}} {
		text := strconv.FormatInt(limit.value, 10)
		if limit.value == 0 && limit.file != "memory.swap.max" {
			text = "max"
		}
		if err := write(filepath.Join(folder, limit.file), text); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return os.Open(folder)
}

// write writes a file of the kernel, which must be there: in one piece, and none is
// ever made.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// setExpendable tells the kernel who goes first.
func setExpendable(pid, score int) error {
	return write(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.Itoa(score))
}
