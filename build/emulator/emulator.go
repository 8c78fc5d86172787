// Package emulator runs the appliance in QEMU, with a TPM from swtpm.
//
// Start takes a kernel, an initramfs and a data disk (see NewDisk), for a Raspberry
// Pi an SD card and what a board would start from it, and returns a Machine whose serial line is a connection; nothing that the machine says on it
// is lost. The machine's panel is a Unix socket that a viewer may open and close
// as it likes. Stop ends what Start began, and nothing else: every process is
// this program's own child, every socket lies in a folder of its own.
package emulator

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"hearth/hw/panel"
)

// Target is a kind of machine.
type Target string

// The targets. AMD64 is QEMU's standard PC, VirtARM64 its board "virt". RaspberryPi3
// is the one board of which QEMU has enough for us: an SD card, a serial line, and a
// network adapter on USB; no TPM and no panel. The vendor's firmware does not run
// there: see Options.Tree.
const (
	AMD64        Target = "amd64"
	VirtARM64    Target = "virt-arm64"
	RaspberryPi3 Target = "raspi3b"
)

// Targets lists them all.
var Targets = []Target{AMD64, VirtARM64, RaspberryPi3}

// Arch is the target's GOARCH.
func (t Target) Arch() string {
	if t == AMD64 {
		return "amd64"
	}
	return "arm64"
}

// hardware is how QEMU makes the machine.
var hardware = map[Target]struct {
	program string
	machine string
	cpu     string
	tpm     string // the device that shows the TPM to the guest
	console string
}{
	AMD64:        {"qemu-system-x86_64", "q35", "max", "tpm-tis", "ttyS0"},
	VirtARM64:    {"qemu-system-aarch64", "virt,gic-version=3", "cortex-a72", "tpm-tis-device", "ttyAMA0"},
	RaspberryPi3: {"qemu-system-aarch64", "raspi3b", "cortex-a53", "", ""},
}

// Forward lets the host reach a TCP port of the guest.
type Forward struct {
	Host  netip.AddrPort // on the host
	Guest uint16         // port in the guest
}

// Options describes a machine.
type Options struct {
	Target      Target
	Kernel      string // path
	Initramfs   string // path
	Disk        string // path of the data disk, on a board of the SD card; "" = none
	Tree        string // path of the device tree, of a board only
	BootLine    string // the board's own kernel command line, of a board only
	TPM         string // folder that holds the TPM's state, the TPM itself, so to speak; "" = no TPM
	Memory      int    // MiB, 0 = 256
	CommandLine string // added to the kernel's command line
	Panel       string // path of the Unix socket for the virtual panel, at most 107 bytes; "" = no panel
	Forwards    []Forward
	Offline     bool      // no network adapter; not of a board
	Clock       time.Time // what the battery-backed clock says at the start, zero = the host's; not of a board
	Cache       string    // folder where the result of the KVM probe is kept; "" = never use KVM
}

// ErrEnded says that the machine ended before it was asked to.
var ErrEnded = errors.New("the emulator ended")

// Machine is a running emulator.
type Machine struct {
	Serial      net.Conn // the serial line
	Accelerated bool     // KVM runs it

	dir   string
	qemu  *process
	swtpm *process
}

// Start starts a machine. It returns when the kernel begins to load; what happens
// from then on is to be seen on the serial line. When ctx ends, so does the
// machine.
func Start(ctx context.Context, o Options) (_ *Machine, err error) {
	hw, ok := hardware[o.Target]
	if !ok {
		return nil, fmt.Errorf("emulator: unknown target %q", o.Target)
	}
	dir, err := os.MkdirTemp("", "hearth-") // short: it holds sockets
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir}
	defer func() {
		if err != nil {
			m.Stop()
		}
	}()
	var args []string
	if o.Target == RaspberryPi3 {
		args, err = board(o)
	} else {
		args, err = m.virtual(ctx, o)
	}
	if err != nil {
		return nil, err
	}

	// QEMU connects to us and not the other way round, so that the first byte of
	// the guest already has a reader.
	serial, err := net.Listen("unix", filepath.Join(dir, "serial"))
	if err != nil {
		return nil, err
	}
	defer serial.Close()
	args = append(args, "-chardev", "socket,id=serial,path="+filepath.Join(dir, "serial"), "-serial", "chardev:serial")

	if m.qemu, err = start(ctx, hw.program, args...); err != nil {
		return nil, err
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := serial.Accept(); err == nil {
			accepted <- c
		}
	}()
	select {
	case m.Serial = <-accepted:
		return m, nil
	case <-m.qemu.done:
		return nil, fmt.Errorf("%w: %s", ErrEnded, m.qemu.ending())
	case <-time.After(15 * time.Second):
		return nil, fmt.Errorf("%s does not connect to its serial line: %s", hw.program, m.qemu.ending())
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// virtual are the arguments for a machine that is made of virtio devices. It starts
// the TPM.
func (m *Machine) virtual(ctx context.Context, o Options) ([]string, error) {
	hw := hardware[o.Target]
	m.Accelerated = o.Cache != "" && probeKVM(ctx, o)
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-M", hw.machine, "-smp", "2", "-m", strconv.Itoa(cmp.Or(o.Memory, 256)),
		"-kernel", o.Kernel, "-initrd", o.Initramfs,
		"-append", strings.TrimSpace("console=" + hw.console + ",115200 panic=-1 oops=panic quiet loglevel=1 " + o.CommandLine),
		"-device", "virtio-rng-pci",
	}
	args = append(args, accelerate(m.Accelerated, hw.cpu)...)
	if o.TPM != "" {
		control, err := m.startTPM(ctx, o.TPM)
		if err != nil {
			return nil, err
		}
		args = append(args, "-chardev", "socket,id=tpm,path="+control,
			"-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", hw.tpm+",tpmdev=tpm")
	}
	if o.Disk != "" {
		args = append(args, "-drive", "file="+escape(o.Disk)+",if=none,id=data,format=raw,discard=unmap",
			"-device", "virtio-blk-pci,drive=data")
	}
	// No boot ROM: the kernel comes from -kernel.
	if !o.Offline {
		args = append(args, "-netdev", network(o), "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	if !o.Clock.IsZero() {
		args = append(args, "-rtc", "base="+o.Clock.UTC().Format("2006-01-02T15:04:05"))
	}
	if o.Panel != "" {
		os.Remove(o.Panel)
		// The guest's kernel spins until QEMU has taken what it says to this device.
		// With ioeventfd that is the main loop's work, which is one more thing that can
		// be late: a guest was seen whose two processors hung about here.
		args = append(args, "-device", "virtio-serial-pci,ioeventfd=off",
			"-chardev", "socket,id=panel,server=on,wait=off,path="+escape(o.Panel),
			"-device", "virtserialport,chardev=panel,name="+panel.PortName)
	}
	return args, nil
}

// ErrNoDevice says that the emulated board lacks something that was asked for.
var ErrNoDevice = errors.New("the emulated board has no such device")

// board are the arguments for a Raspberry Pi 3: its processors, memory and serial
// lines are as they are. The second serial line is the one on the pins.
func board(o Options) ([]string, error) {
	if o.TPM != "" || o.Panel != "" {
		return nil, fmt.Errorf("%w: TPM or panel", ErrNoDevice)
	}
	hw := hardware[o.Target]
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-M", hw.machine,
		"-kernel", o.Kernel, "-initrd", o.Initramfs, "-dtb", o.Tree,
		// QEMU's watchdog of this board restarts it as soon as it is opened.
		"-append", strings.TrimSpace(o.BootLine + " hearth.watchdog=off " + o.CommandLine),
		"-netdev", network(o), "-device", "usb-net,netdev=net",
		"-serial", "null",
	}
	args = append(args, accelerate(false, hw.cpu)...)
	if o.Disk != "" {
		args = append(args, "-drive", "file="+escape(o.Disk)+",if=sd,format=raw")
	}
	return args, nil
}

// network is the guest's network, behind QEMU's own router.
func network(o Options) string {
	network := "user,id=net,ipv6=off"
	for _, f := range o.Forwards {
		network += fmt.Sprintf(",hostfwd=tcp:%s:%d-:%d", f.Host.Addr(), f.Host.Port(), f.Guest)
	}
	return network
}

// startTPM starts a software TPM and returns the path of its control socket.
func (m *Machine) startTPM(ctx context.Context, state string) (string, error) {
	state, err := filepath.Abs(state)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	control := filepath.Join(m.dir, "tpm")
	m.swtpm, err = start(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--ctrl", "type=unixio,path="+control, "--terminate")
	if err != nil {
		return "", err
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if _, err := os.Stat(control); err == nil {
			return control, nil
		}
		select {
		case <-m.swtpm.done:
			return "", fmt.Errorf("swtpm: %w: %s", ErrEnded, m.swtpm.ending())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return "", errors.New("swtpm does not open its socket")
		}
	}
}

// Done is closed when the machine has ended: it was switched off, or Stop was
// called, or QEMU gave up. A restart does not end it.
func (m *Machine) Done() <-chan struct{} { return m.qemu.done }

// Err says why the emulator ended, nil when it did so in order. Only to be asked
// after Done.
func (m *Machine) Err() error {
	if m.qemu.err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrEnded, m.qemu.ending())
}

// Stop pulls the plug and cleans up. It may be called more than once.
func (m *Machine) Stop() {
	if m.Serial != nil {
		m.Serial.Close()
	}
	for _, p := range []*process{m.qemu, m.swtpm} {
		if p != nil {
			p.stop()
		}
	}
	os.RemoveAll(m.dir)
}

// accelerate returns the flags for the processor.
func accelerate(kvm bool, cpu string) []string {
	if kvm {
		if cpu != "max" {
			cpu = "host"
		}
		return []string{"-accel", "kvm", "-cpu", cpu}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", cpu}
}

// process is a program that this package started.
type process struct {
	cmd    *exec.Cmd
	output tail
	done   chan struct{}
	err    error // read after done
}

func start(ctx context.Context, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	// Its own group: Ctrl-C in the terminal is a key for the guest's console. And
	// it must not outlive us, however we end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("%s is not installed; run: make deps", program)
		}
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return
	case <-time.After(5 * time.Second):
	}
	p.cmd.Process.Kill()
	<-p.done
}

// ending is how the process ended and the last that it said.
func (p *process) ending() string {
	said := strings.TrimSpace(p.output.String())
	select {
	case <-p.done:
		if p.err != nil {
			return strings.TrimSpace(p.err.Error() + "\n" + said)
		}
	default:
	}
	return said
}

// tail keeps the last 4 KiB of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - 4096; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// escape doubles the commas of a path: QEMU separates options with them.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }
