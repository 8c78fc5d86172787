package main

import (
	"math"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// ownMemory is how many bytes of memory a role should get along with: what
// GOMEMLIMIT says, which PID 1 sets, or else a quarter of the machine's.
func ownMemory() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0 // nobody knows; then the defaults
	}
	return int64(info.Totalram) * int64(info.Unit) / 4
}
