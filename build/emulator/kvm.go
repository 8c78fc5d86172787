package emulator

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// probeKVM tells whether the processor itself can run the guest. That /dev/kvm
// exists proves nothing: inside another virtual machine it may start a guest that
// then never gets anywhere. So the given kernel is booted once, without a root
// file system, and must arrive at its panic in time. The answer is kept until the
// host is restarted.
func probeKVM(ctx context.Context, o Options) bool {
	if runtime.GOARCH != o.Target.Arch() {
		return false
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	device.Close()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false
	}
	answer := filepath.Join(o.Cache, "kvm-"+string(o.Target))
	if known, err := os.ReadFile(answer); err == nil {
		if id, result, ok := strings.Cut(string(known), "="); ok && id == strings.TrimSpace(string(boot)) {
			return result == "yes"
		}
	}
	limited, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	works := bootsKVM(limited, o)
	if ctx.Err() != nil { // interrupted: this proves nothing
		return false
	}
	result := "no"
	if works {
		result = "yes"
	}
	if os.MkdirAll(o.Cache, 0o755) == nil {
		os.WriteFile(answer, []byte(strings.TrimSpace(string(boot))+"="+result), 0o644)
	}
	return works
}

func bootsKVM(ctx context.Context, o Options) bool {
	hw := hardware[o.Target]
	args := append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", hw.machine, "-m", "256",
		"-kernel", o.Kernel, "-append", "console=" + hw.console + " panic=-1", "-serial", "stdio",
	}, accelerate(true, hw.cpu)...)
	p, err := start(ctx, hw.program, args...)
	if err != nil {
		return false
	}
	<-p.done // the panic restarts the machine, which with -no-reboot ends QEMU
	return strings.Contains(p.output.String(), "Kernel panic")
}
