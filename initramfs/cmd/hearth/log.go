package main

import (
	"log/slog"
	"os"

	"hearth/initramfs/boot"
	"hearth/initramfs/journal"
)

// newLog makes what a role logs with: for the journal when PID 1 has started it,
// which stamps the lines itself, and otherwise for a person on standard error.
func newLog(verbose bool) *slog.Logger {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	if os.Getenv(boot.LogVariable) == "journal" {
		return slog.New(journal.NewHandler(os.Stderr, level))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}
