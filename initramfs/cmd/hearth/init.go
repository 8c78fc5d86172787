package main

import (
	"context"
	"errors"
	"os"

	"hearth/initramfs/boot"
)

// runInit is PID 1. It takes no flags: what it needs to know is on the kernel's
// command line.
func runInit(_ context.Context, _ []string) error {
	if os.Getpid() != 1 {
		return errors.New("this role starts a whole machine; it only runs as the kernel's first process")
	}
	boot.Run()
	return nil
}
