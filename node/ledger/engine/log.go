package engine

import (
	"context"
	"log/slog"

	cmtlog "github.com/cometbft/cometbft/libs/log"
)

// logger lets CometBFT write to ours. What it calls information is one line for
// each step of each block, and what it calls an error of its connections is
// every peer that goes: both are for debugging here.
type logger struct {
	to    *slog.Logger
	quiet bool
}

func (l logger) Debug(string, ...any) {} // formats blocks for each line

func (l logger) Info(msg string, args ...any) { l.log(slog.LevelDebug, msg, args) }

func (l logger) Error(msg string, args ...any) {
	if l.quiet {
		l.log(slog.LevelDebug, msg, args)
	} else {
		l.log(slog.LevelWarn, msg, args)
	}
}

func (l logger) With(args ...any) cmtlog.Logger {
	for i := 0; i+1 < len(args); i += 2 {
		if args[i] == "module" {
			switch args[i+1] {
			case "p2p", "pex", "blocksync", "mempool", "evidence":
				l.quiet = true
			}
		}
	}
	l.to = l.to.With(args...)
	return l
}

func (l logger) log(level slog.Level, msg string, args []any) {
	if ctx := context.Background(); l.to.Enabled(ctx, level) {
		l.to.Log(ctx, level, "consensus: "+msg, args...)
	}
}
