package servicenode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hearth/node/files"
	"hearth/node/storage"
)

// Disk tells how large the partition of a folder is and how much of it is free
// for the owner of this process, in bytes.
type Disk func(dir string) (size, free int64, err error)

// systemDisk asks the kernel.
func systemDisk(dir string) (size, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("asking for the room on the disk: %w", err)
	}
	return int64(st.Blocks) * int64(st.Bsize), int64(st.Bavail) * int64(st.Bsize), nil
}

const (
	// A byte that the message database counts takes up to 1.1 bytes of disk, and twice
	// that while files are merged. What accounts ask to be done with their messages
	// takes up to a quarter of the messages' room on top.
	slack = 3

	// maxReserve is the most that is kept free for messenger, vault and clock;
	// it is a quarter of a smaller partition.
	maxReserve = 256 << 20

	// leastFiles is what a part for files must have to be worth one.
	leastFiles = 32 << 20

	// newsworthy is how long the owner is told that the database began anew.
	newsworthy = 24 * time.Hour

	soon = 90 // percent of the room from which on the owner is told
)

// room is what strangers may fill of the partition. The rest of it is the
// owner's, whose messenger has to work when strangers store all they can.
type room struct {
	messages int64 // bytes that the database may count; at least 1
	files    int64 // bytes of disk; -1 for none
	reserve  int64 // bytes of the partition that stay free
}

// divide makes the room of a node on a partition of that size. share and quota are
// those of Config.
func divide(size, share, quota int64) room {
	r := room{reserve: min(size/4, maxReserve), files: -1}
	if share <= 0 {
		share = size / 2
	}
	share = min(share, size-r.reserve)
	if quota == 0 {
		quota = files.DefaultQuota
	}
	if part := min(quota, share/2); part > 0 && (part == quota || part >= leastFiles) {
		r.files = part
		share -= part
	}
	r.messages = max((share-storage.Fixed)/slack, 1)
	return r
}

// damaged is the name that a message database gets that cannot be read any more.
const damaged = ".damaged"

// openMessages opens the message database. One that is damaged makes way for an
// empty one: the other members of the swarm hold the messages, and give them back.
// The newest damaged one is kept for whoever wants to know why, if there is room.
func (n *Node) openMessages() error {
	path := filepath.Join(n.cfg.Dir, "messages.db")
	var err error
	n.db, err = storage.Open(path, n.cfg.Now)
	if !errors.Is(err, storage.ErrDamaged) {
		return err
	}
	n.log.Error("the message database is damaged: the node begins with an empty one", "error", err, "kept_as", filepath.Base(path)+damaged)
	if err := os.RemoveAll(path + damaged); err != nil {
		return err
	}
	if err := os.Rename(path, path+damaged); err != nil {
		return err
	}
	size, err := sizeOf(path + damaged)
	if err != nil {
		return err
	}
	_, free, err := n.cfg.Disk(n.cfg.Dir)
	if err != nil {
		return err
	}
	if free < n.room.reserve+size {
		n.log.Warn("no room to keep the damaged message database", "bytes", size)
		if err := os.RemoveAll(path + damaged); err != nil {
			return err
		}
	}
	n.restarted = "the message database was damaged and began anew; its swarm fills it"
	n.db, err = storage.Open(path, n.cfg.Now)
	return err
}

// sizeOf gives the size of a file, or of the files in a folder, in bytes.
func sizeOf(path string) (size int64, err error) {
	err = filepath.WalkDir(path, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// measure sets how much the database may hold, and keeps what to tell the owner
// about it.
func (n *Node) measure() {
	_, used := n.db.Stats()
	limit := n.room.messages
	trouble := ""
	_, free, err := n.cfg.Disk(n.cfg.Dir)
	switch {
	case err != nil:
		trouble = "the disk does not say how much is free"
	case free < n.room.reserve:
		// Somebody else filled it: what is here stays, nothing is added.
		limit = max(min(limit, int64(used)), 1)
		trouble = "the disk is nearly full: no new messages are taken"
	case int64(used) > limit/100*soon:
		trouble = fmt.Sprintf("%d %% of the room for messages is used", min(int64(used)*100/limit, 100))
	}
	n.db.SetLimit(uint64(limit))
	before := ""
	if old := n.crowded.Swap(&trouble); old != nil {
		before = *old
	}
	if trouble != "" && before == "" {
		n.log.Warn("room for messages", "trouble", trouble)
	}
}
