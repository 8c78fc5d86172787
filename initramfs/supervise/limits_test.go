package supervise

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kernelFiles makes files as the kernel does.
func kernelFiles(t *testing.T, folder string, files ...string) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimitsAreWrittenWhereTheKernelHasThem(t *testing.T) {
	for _, c := range []struct {
		name, controllers string
		files, can        []string
		limits            Limits
		want              map[string]string
	}{
		{name: "all of them", controllers: "cpu memory pids\n", files: []string{"memory.max", "memory.swap.max", "memory.oom.group", "pids.max"},
			can: []string{"memory", "pids"}, limits: Limits{Memory: 64 << 20, Tasks: 32},
			want: map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "memory.oom.group": "1", "pids.max": "32"}},
		{name: "a kernel that counts tasks only", controllers: "cpu pids\n", files: []string{"pids.max"},
			can: []string{"pids"}, limits: Limits{Memory: 64 << 20, Tasks: 32}, want: map[string]string{"pids.max": "32"}},
		{name: "no limits wanted", controllers: "memory pids\n", files: []string{"memory.max", "pids.max"},
			can: []string{"memory", "pids"}, want: map[string]string{"memory.max": "max", "pids.max": "max"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			kernelFiles(t, folder, "cgroup.subtree_control")
			if err := os.WriteFile(filepath.Join(folder, "cgroup.controllers"), []byte(c.controllers), 0o444); err != nil {
				t.Fatal(err)
			}
			kernelFiles(t, filepath.Join(folder, "node"), c.files...)
			g, can, err := OpenGroups(folder)
			if err != nil || !slices.Equal(can, c.can) {
				t.Fatalf("%v, %v", can, err)
			}
			group, err := g.open("node", c.limits)
			if err != nil {
				t.Fatal(err)
			}
			group.Close()
			entries, err := os.ReadDir(filepath.Join(folder, "node"))
			if err != nil || len(entries) != len(c.files) {
				t.Errorf("%v, %v", entries, err)
			}
			for name, want := range c.want {
				if got, err := os.ReadFile(filepath.Join(folder, "node", name)); err != nil || string(got) != want {
					t.Errorf("%s is %q, %v; want %q", name, got, err, want)
				}
			}
		})
	}
	if _, _, err := OpenGroups(t.TempDir()); err == nil || !strings.Contains(err.Error(), "control groups") {
		t.Errorf("without control groups: %v", err)
	}
}
