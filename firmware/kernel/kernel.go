// Package kernel holds the appliance's kernel configuration: the options in
// appliance.config, and which of them the appliance cannot start without.
//
// It only knows what the kernel must contain. Fetching the source, compiling and
// caching are the image builder's work.
package kernel

import (
	_ "embed"
	"slices"
	"strings"
)

// Config is appliance.config, a KCONFIG_ALLCONFIG file for "make allnoconfig".
//
//go:embed appliance.config
var Config []byte

// Required lists the options, without the prefix CONFIG_, that must come out as
// "y" in the final .config. Kconfig silently drops an option whose parent is off,
// and the loss would otherwise show as a device that is missing at boot.
var Required = []string{
	// Starting an initramfs and running Go programs in it.
	"BLK_DEV_INITRD", "RD_ZSTD", "BINFMT_ELF", "DEVTMPFS", "TMPFS", "PROC_FS", "SYSFS",
	"FUTEX", "EPOLL", "EVENTFD", "SIGNALFD", "MULTIUSER", "UNIX", "INET", "PACKET",
	"PROC_PAGE_MONITOR", "SYSCTL", "FILE_LOCKING",
	// A home's line is long and loses packets; BBR does not take each loss for a jam.
	"TCP_CONG_BBR", "DEFAULT_BBR",
	// Console and clock of QEMU's virt machine and of the boards.
	"TTY", "SERIAL_AMBA_PL011_CONSOLE", "SERIAL_8250_CONSOLE", "RTC_INTF_DEV", "RTC_DRV_PL031",
	// TPM: QEMU's, and those on SPI and I2C.
	"TCG_TPM", "TCG_TIS", "TCG_TIS_SPI", "TCG_TIS_I2C",
	// QEMU's devices.
	"PCI_HOST_GENERIC", "VIRTIO_PCI", "VIRTIO_MMIO", "VIRTIO_BLK", "VIRTIO_NET", "VIRTIO_CONSOLE",
	"HW_RANDOM_VIRTIO",
	// Storage.
	"EXT4_FS", "VFAT_FS", "NLS_CODEPAGE_437", "NLS_ASCII", "BLK_DEV_DM", "DM_CRYPT",
	// The boards.
	"ARCH_BCM2835", "RASPBERRYPI_FIRMWARE", "MMC_BCM2835", "MMC_SDHCI_IPROC", "BCMGENET", "USB_DWC2",
	"NOP_USB_XCEIV", "USB_NET_SMSC95XX", "USB_LAN78XX", "PCIE_BRCMSTB", "SPI_BCM2835", "I2C_BCM2835",
	"MMC_BLOCK", "MSDOS_PARTITION", "SERIAL_8250_BCM2835AUX", "BCM2835_WDT", "BROADCOM_PHY", "USB_NET_CDCETHER",
	// Sandbox.
	"SECCOMP_FILTER", "SECURITY_LANDLOCK", "SECURITY_LOCKDOWN_LSM_EARLY", "SECURITY_YAMA",
	"PID_NS", "NET_NS", "UTS_NS", "NAMESPACES", "CGROUPS", "MEMCG", "CGROUP_PIDS",
	// Hardening: the kernel's memory closed even to root, freed memory empty, faults fatal.
	"LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY", "INIT_ON_ALLOC_DEFAULT_ON", "INIT_ON_FREE_DEFAULT_ON",
	"HARDENED_USERCOPY", "FORTIFY_SOURCE", "STACKPROTECTOR_STRONG", "SHADOW_CALL_STACK", "RANDOMIZE_BASE",
	"SLAB_FREELIST_RANDOM", "SLAB_FREELIST_HARDENED", "UBSAN_BOUNDS", "UBSAN_TRAP", "PANIC_ON_OOPS",
	"STRICT_KERNEL_RWX", "VMAP_STACK", "WATCHDOG_NOWAYOUT",
	// Disk encryption, with and without the processor's help, and packet filters.
	"CRYPTO_XTS", "CRYPTO_ADIANTUM", "CRYPTO_AES_ARM64_CE_BLK", "CRYPTO_AES_ARM64_BS", "NF_TABLES", "NF_TABLES_INET", "NFT_CT",
}

// Forbidden lists options that must not come out as "y" or "m": each one gives a
// process on the appliance a power that it must not have.
var Forbidden = []string{
	"MODULES", "DEVMEM", "KEXEC", "BPF_SYSCALL", "IO_URING", "USERFAULTFD", "USER_NS", "COREDUMP",
	"BINFMT_SCRIPT", "BINFMT_MISC", "DEBUG_FS", "KPROBES", "MAGIC_SYSRQ", "LEGACY_TIOCSTI", "SWAP",
	"KEXEC_FILE", "FTRACE", "PERF_EVENTS", "COMPAT", "VT", "HIBERNATION", "GPIO_SYSFS", "GPIO_CDEV_V1", "EFI", "ACPI",
	"DEVPORT", "PROC_KCORE", "USB_STORAGE", "MODIFY_LDT_SYSCALL",
}

// absent lists, for each version of the kernel that was compiled and started with
// this configuration, what it does not make of the options that appliance.config
// asks for as "y". With these versions, any other loss is a mistake.
var absent = map[string][]string{
	"6.12": {
		// Raspberry Pi 5, whose drivers came later.
		"BCM2712_MIP", "MISC_RP1", "COMMON_CLK_RP1", "PINCTRL_RP1", "PINCTRL_BCM2712",
		// They belong to set-top boxes (ARCH_BRCMSTB is off), and are asked for because
		// later kernels need them for Raspberry Pi 5.
		"PINCTRL_BRCMSTB", "SERIAL_8250_BCM7271",
		// Comes with the ciphers that use it, and none does.
		"CRYPTO_POLY1305_NEON",
		// About 32-bit programs, which the kernel does not run (COMPAT is off).
		"ARM64_ERRATUM_1742098",
	},
}

// Version reads the version out of a finished .config, such as "6.12"; "" when it
// does not say.
func Version(dotConfig []byte) string {
	for line := range strings.Lines(string(dotConfig)) {
		// # Linux/arm64 6.12.117 Kernel Configuration
		fields := strings.Fields(line)
		if len(fields) == 5 && fields[0] == "#" && strings.HasPrefix(fields[1], "Linux/") && fields[3] == "Kernel" {
			parts := strings.SplitN(fields[2], ".", 3)
			return strings.Join(parts[:min(2, len(parts))], ".")
		}
	}
	return ""
}

// Parse reads a .config or a KCONFIG_ALLCONFIG file into option → value, without
// the prefix CONFIG_. Options that are "not set" have the value "n"; an option
// that is not named is absent.
func Parse(config []byte) map[string]string {
	options := make(map[string]string)
	for line := range strings.Lines(string(config)) {
		line = strings.TrimSpace(line)
		if off, ok := strings.CutPrefix(line, "# CONFIG_"); ok {
			if name, ok := strings.CutSuffix(off, " is not set"); ok {
				options[name] = "n"
			}
			continue
		}
		if name, value, ok := strings.Cut(line, "="); ok {
			if name, ok := strings.CutPrefix(name, "CONFIG_"); ok {
				options[name] = value
			}
		}
	}
	return options
}

// Check compares a finished .config with what was wanted. Missing are the
// required options that are not "y", unwelcome the forbidden ones that are on,
// dropped all other options that appliance.config asked for as "y" and did not
// get. Those depend on the version of the source; of a version that we know (see
// absent) they are those that are known not to come, and all others are missing.
func Check(dotConfig []byte) (missing, unwelcome, dropped []string) {
	got, wanted := Parse(dotConfig), Parse(Config)
	expected, known := absent[Version(dotConfig)]
	required := make(map[string]bool)
	for _, name := range Required {
		required[name] = true
		if got[name] != "y" {
			missing = append(missing, name)
		}
	}
	for _, name := range Forbidden {
		if got[name] == "y" || got[name] == "m" {
			unwelcome = append(unwelcome, name)
		}
	}
	for line := range strings.Lines(string(Config)) { // in the file's order
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "CONFIG_"), "=")
		if !ok || wanted[name] != "y" || got[name] == "y" || required[name] {
			continue
		}
		if known && !slices.Contains(expected, name) {
			missing = append(missing, name)
		} else {
			dropped = append(dropped, name)
		}
	}
	return missing, unwelcome, dropped
}
