package archive

import (
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// The database is mapped into the memory, and a page that was looked at once counts
// as this process's for as long as the mapping lasts; the kernel also maps the pages
// around it. On a board with little memory that is the difference between a messenger
// of 20 MiB and one as large as all that it ever wrote. So the pages are given back
// now and then: they stay in the kernel's cache, which it empties as it needs, and
// another look at one costs less than a microsecond.

// letGoAfter is how many changes, or pages of messages, are read between two times
// that pages are given back: each looks at some ten, of which the kernel makes some
// hundred.
const letGoAfter = 32

// letGo gives the pages of the database back that are mapped. What is mapped does not
// move while there is a transaction, whose values stay good.
func (a *Archive) letGo(tx *bbolt.Tx) {
	// A kernel that refuses keeps the pages, and that is all.
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, a.db.Info().Data, uintptr(tx.Size()), unix.MADV_DONTNEED)
}

// looked counts looks into the database, and gives the pages back now and then.
func (a *Archive) looked() {
	if a.looks.Add(1)%letGoAfter != 0 {
		return
	}
	_ = a.db.View(func(tx *bbolt.Tx) error {
		a.letGo(tx)
		return nil
	})
}
