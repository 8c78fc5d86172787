// Package bubble lets tests in a bubble of testing/synctest open message databases.
package bubble

import (
	"runtime"
	"testing"
)

// Clean is called before a test opens a message database, in whatever bubble it runs
// or in none. The database's engine keeps channels for the next use in a sync.Pool,
// and a channel that was made in a bubble can only be used there: two collections of
// garbage empty the pool, now and at the test's end. Such tests must not run in
// parallel with each other.
func Clean(t testing.TB) {
	t.Helper()
	empty := func() { runtime.GC(); runtime.GC() }
	empty()
	t.Cleanup(empty)
}
