package servicenode

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hearth/node/files"
	"hearth/node/internal/bubble"
	"hearth/node/storage"
)

const mib = 1 << 20

func TestTheOwnerKeepsPartOfEveryDisk(t *testing.T) {
	for _, tt := range []struct {
		name               string
		size, share, quota int64
		want               room
	}{
		{"the smallest disk", 64 * mib, 0, 0, room{messages: (32*mib - storage.Fixed) / slack, files: -1, reserve: 16 * mib}},
		{"a large card", 64 << 30, 0, 0, room{messages: (30<<30 - storage.Fixed) / slack, files: files.DefaultQuota, reserve: maxReserve}},
		{"a disk with room for some files", 1 << 30, 0, 0, room{messages: (256*mib - storage.Fixed) / slack, files: 256 * mib, reserve: maxReserve}},
		{"no files", 1 << 30, 0, -1, room{messages: (512*mib - storage.Fixed) / slack, files: -1, reserve: maxReserve}},
		{"few files", 1 << 30, 0, mib, room{messages: (511*mib - storage.Fixed) / slack, files: mib, reserve: maxReserve}},
		{"a share of the owner's choice", 64 << 30, 1 << 30, -1, room{messages: (1<<30 - storage.Fixed) / slack, files: -1, reserve: maxReserve}},
		{"more than there is", 64 * mib, 1 << 40, -1, room{messages: (48*mib - storage.Fixed) / slack, files: -1, reserve: 16 * mib}},
		{"no disk at all", 0, 0, 0, room{messages: 1, files: -1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := divide(tt.size, tt.share, tt.quota); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// small is a partition of 24 MiB with nothing on it but the node's folder and what
// others of the owner's put there.
type small struct{ others atomic.Int64 }

func (s *small) disk(dir string) (size, free int64, err error) {
	used := s.others.Load()
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			used += blocks(path)
		}
		if errors.Is(err, os.ErrNotExist) {
			err = nil // the database merged files meanwhile
		}
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	return 24 * mib, 24*mib - used, nil
}

// blocks is what a file takes of the disk, in bytes.
func blocks(path string) int64 {
	var st syscall.Stat_t
	if syscall.Stat(path, &st) != nil {
		return 0
	}
	return st.Blocks * 512
}

// strangers stores messages of a size until one is refused, and returns how many
// there were and what the node said to the last.
func strangers(t *testing.T, n *Node, size int) (taken int, refused map[string]any) {
	t.Helper()
	key := own.Ed25519()
	for ; taken < 100_000; taken++ {
		data, owner := make([]byte, size), make([]byte, 32)
		rand.Read(data)
		rand.Read(owner)
		resp := n.storage.Handle(t.Context(), fmt.Appendf(nil, `{"method":"store","params":{"pubkey":"05%x","data":"%s","ttl":3600000,"timestamp":%d}}`,
			owner, base64.StdEncoding.EncodeToString(data), time.Now().UnixMilli()))
		b, err := json.Marshal(resp.Body)
		if err != nil || resp.Status != 200 {
			t.Fatalf("store: %d %s, %v", resp.Status, b, err)
		}
		var body struct {
			Swarm map[string]map[string]any `json:"swarm"`
		}
		if err := json.Unmarshal(b, &body); err != nil {
			t.Fatal(err)
		}
		if element := body.Swarm[hex.EncodeToString(key[:])]; element["failed"] != nil {
			return taken, element
		}
	}
	t.Fatal("the disk never was full")
	return 0, nil
}

func TestStrangersCannotFillTheDisk(t *testing.T) {
	for _, size := range []int{700, 76_000} {
		t.Run(fmt.Sprintf("with messages of %d bytes", size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bubble.Clean(t)
				dir, disk := t.TempDir(), &small{}
				r := &registry{}
				r.set()
				n, err := New(Config{Keys: own, Dir: dir, Public: public, Seed: r, Disk: disk.disk, Log: slog.New(slog.DiscardHandler)})
				if err != nil {
					t.Fatal(err)
				}
				stop := run(t, n)
				defer stop()
				time.Sleep(time.Minute)
				if s, _ := n.Status(t.Context(), nil); !s.Ready || s.Trouble != "" {
					t.Fatalf("at first: %v", s)
				}
				taken, refused := strangers(t, n, size)
				delete(refused, "t")
				if want := (map[string]any{"failed": true, "query_failure": true}); !reflect.DeepEqual(refused, want) {
					t.Errorf("the refusal is %v, want %v", refused, want)
				}
				if taken == 0 || int64(taken)*int64(size) > n.room.messages {
					t.Errorf("%d messages of %d bytes were taken", taken, size)
				}
				if _, free, _ := disk.disk(dir); free < 12*mib {
					t.Errorf("half of the disk is the owner's, %d bytes are left", free)
				}
				time.Sleep(time.Minute)
				if s, _ := n.Status(t.Context(), nil); !s.Ready || !strings.Contains(s.Trouble, "% of the room for messages is used") {
					t.Errorf("when it is full: %v", s)
				}
				time.Sleep(2 * time.Hour) // the messages expire
				if s, _ := n.Status(t.Context(), nil); s.Trouble != "" || s.Messages != 0 {
					t.Errorf("when it is empty again: %v", s)
				}
			})
		})
	}
}

func TestNothingIsTakenOfTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bubble.Clean(t)
		disk := &small{}
		r := &registry{}
		r.set()
		n, err := New(Config{Keys: own, Dir: t.TempDir(), Public: public, Seed: r, Disk: disk.disk, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, n)()
		disk.others.Store(19 * mib) // a long conversation
		time.Sleep(time.Minute)
		if taken, _ := strangers(t, n, 1000); taken > 0 {
			t.Errorf("%d messages were taken of a disk that is nearly full", taken)
		}
		if s, _ := n.Status(t.Context(), nil); !strings.Contains(s.Trouble, "the disk is nearly full") {
			t.Errorf("status %v", s)
		}
		disk.others.Store(0)
		time.Sleep(time.Minute)
		if taken, _ := strangers(t, n, 1000); taken == 0 {
			t.Error("nothing is taken, though there is room again")
		}
	})
}

// run serves until the function that it returns is called.
func run(t *testing.T, n *Node) (stop func()) {
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { ended <- n.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestADamagedDatabaseMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bubble.Clean(t)
		dir, disk := t.TempDir(), &small{}
		path := filepath.Join(dir, "messages.db")
		damage := func(what string) {
			t.Helper()
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(what+strings.Repeat("x", 20_000)), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := storage.Open(path, time.Now); !errors.Is(err, storage.ErrDamaged) {
				t.Fatalf("it is not damaged: %v", err)
			}
		}
		open := func() *Node {
			t.Helper()
			r := &registry{}
			r.set()
			n, err := New(Config{Keys: own, Dir: dir, Public: public, Seed: r, Disk: disk.disk, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		for _, what := range []string{"first", "second"} {
			damage(what)
			n := open()
			stop := run(t, n)
			time.Sleep(time.Minute)
			if s, _ := n.Status(t.Context(), nil); !s.Ready || !strings.Contains(s.Trouble, "damaged") {
				t.Errorf("after the %s damage: %v", what, s)
			}
			if b, err := os.ReadFile(path + damaged); err != nil || !strings.HasPrefix(string(b), what) {
				t.Errorf("the %s damaged file was not kept: %.10q, %v", what, b, err)
			}
			time.Sleep(newsworthy)
			if s, _ := n.Status(t.Context(), nil); s.Trouble != "" {
				t.Errorf("a day after the %s damage: %v", what, s)
			}
			stop()
		}
		n := open()
		if s, _ := n.Status(t.Context(), nil); strings.Contains(s.Trouble, "damaged") {
			t.Errorf("at the next start: %v", s)
		}
		n.Close()

		disk.others.Store(19 * mib)
		damage("third")
		open().Close()
		if b, err := os.ReadFile(path + damaged); err == nil {
			t.Errorf("a damaged file takes the last room: %.10q", b)
		}
	})
}

func TestADatabaseThatGoesBadEndsTheNode(t *testing.T) {
	n, err := New(Config{Keys: own, Dir: t.TempDir(), Public: public, Seed: &registry{err: errors.New("gone")}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	n.damaged <- storage.ErrDamaged
	if err := n.Run(t.Context()); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("run: %v", err)
	}
}

func TestAFloodToOneAccountLeavesRoomForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bubble.Clean(t)
		r := &registry{}
		r.set()
		n, err := New(Config{Keys: own, Dir: t.TempDir(), Public: public, Seed: r, Disk: (&small{}).disk, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer run(t, n)()
		time.Sleep(time.Minute)
		store := func(owner string) bool {
			data := make([]byte, 5000)
			rand.Read(data)
			resp := n.storage.Handle(t.Context(), fmt.Appendf(nil, `{"method":"store","params":{"pubkey":"05%s","data":"%s","ttl":3600000,"timestamp":%d}}`,
				owner, base64.StdEncoding.EncodeToString(data), time.Now().UnixMilli()))
			b, err := json.Marshal(resp.Body)
			if err != nil || resp.Status != 200 {
				t.Fatalf("store: %d %s, %v", resp.Status, b, err)
			}
			return !strings.Contains(string(b), `"query_failure":true`)
		}
		victim := strings.Repeat("ab", 32)
		taken := 0
		for taken < 10_000 && store(victim) {
			taken++
		}
		if kept := int64(taken) * 5000; kept < n.room.messages/5 || kept > n.room.messages/4+5000 {
			t.Errorf("%d messages, %d bytes of %d, went to one account", taken, kept, n.room.messages)
		}
		for k := range taken {
			if !store(fmt.Sprintf("%064x", k+1)) {
				t.Fatalf("message %d to somebody else was refused", k)
			}
		}
		if s, _ := n.Status(t.Context(), nil); !s.Ready {
			t.Errorf("status %v", s)
		}
	})
}
