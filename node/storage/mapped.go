package storage

import (
	"bytes"
	"os"
	"strconv"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// bbolt maps the whole file, and what has been read once counts as this process's
// memory until the kernel needs it for something else. On a device that watches
// its processes' memory that looks like a leak as large as the file. So what is
// mapped is let go from time to time: it stays in the kernel's cache, and who reads
// it again pays a microsecond.
const (
	mappedLimit  = 32 << 20 // bytes of mapped files, of which the program itself is a part
	mappedChecks = 64       // transactions, or records of one, between two looks
)

// touched counts transactions and looks now and then. It is called outside of them.
func (db *DB) touched() {
	if db.touches.Add(1)%mappedChecks == 0 && mapped() > mappedLimit {
		_ = db.bolt.View(unmap) // which has no errors
	}
}

// touchedBy is touched for a record that a transaction reads or writes. A second
// transaction within one could wait for ever, for a writer that waits for the first.
func (db *DB) touchedBy(tx *bolt.Tx) {
	if db.touches.Add(1)%mappedChecks == 0 && mapped() > mappedLimit {
		_ = unmap(tx)
	}
}

// unmap lets go of what is mapped of a file. While the transaction is open the file
// stays mapped where it is, and what somebody is looking at comes back by itself.
// Without the kernel's consent things stay as they are.
func unmap(tx *bolt.Tx) error {
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, tx.DB().Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
	return nil
}

// mapped is how many bytes of files this process has in memory; 0 when the kernel
// does not say.
func mapped() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	fields := bytes.Fields(b)
	if err != nil || len(fields) < 3 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[2]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
