package pi

import (
	"bytes"
	"maps"
	"strings"
	"testing"
)

func TestEveryBoardFindsItsOwnDeviceTree(t *testing.T) {
	for _, b := range Boards {
		got := Select(ConfigText(), b.Filters...)
		want := map[string]string{
			"arm_64bit": "1", "upstream_kernel": "1", "kernel": Kernel, "initramfs": Initramfs, "enable_uart": "1",
			"disable_splash": "1", "boot_delay": "0", "device_tree": b.Tree,
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s reads %v", b.Name, got)
		}
	}
	if tree, ok := Select(ConfigText(), "pi5")["device_tree"]; ok {
		t.Errorf("a board that is not supported would take %s", tree)
	}
}

func TestTheBootPartitionNamesTheSlot(t *testing.T) {
	text := AutoBootText(2, 3)
	if got := Select(text)["boot_partition"]; got != "2" {
		t.Errorf("normally slot %s", got)
	}
	if got := Select(text, "tryboot")["boot_partition"]; got != "3" {
		t.Errorf("on trial slot %s", got)
	}
}

func TestConfigurationsAreReadAsTheFirmwareReadsThem(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]string
	}{
		{"nothing", "", map[string]string{}},
		{"comments and empty lines", "# a=1\n\n   # b=2\n", map[string]string{}},
		{"spaces around", "  a = 1 \r\n", map[string]string{"a": "1"}},
		{"the last one wins", "a=1\na=2\n", map[string]string{"a": "2"}},
		{"another board's section", "[pi4]\na=1\n[pi3]\nb=2\n[all]\nc=3\n", map[string]string{"b": "2", "c": "3"}},
		{"an equals sign in the value", "cmd=a=b\n", map[string]string{"cmd": "a=b"}},
		{"words that mean nothing", "initramfs\nhello world\n[", map[string]string{}},
	} {
		if got := Select(c.text, "pi3"); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestTheCommandLineIsOneLine(t *testing.T) {
	line, err := CommandLine("hearth.developer", "hearth.seed=https://example.org/")
	if err != nil || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, " hearth.developer hearth.seed=https://example.org/\n") {
		t.Errorf("%q, %v", line, err)
	}
	for _, word := range []string{"", "two words", "a\nb", "ä"} {
		if _, err := CommandLine(word); err == nil {
			t.Errorf("%q was accepted", word)
		}
	}
}

func TestTheOverlayNamesTheChipSelectOfTheTPM(t *testing.T) {
	if !bytes.Contains(TPMOverlay, []byte("tpm@1")) || !bytes.Contains(TPMOverlay, []byte("tcg,tpm_tis-spi")) {
		t.Error("no TPM in the overlay")
	}
}

func FuzzSelect(f *testing.F) {
	f.Add(ConfigText(), "pi3")
	f.Add("[\n[]\n=\ninitramfs", "")
	f.Fuzz(func(t *testing.T, text, filter string) {
		for key := range Select(text, filter) {
			if strings.Contains(key, "\n") || strings.TrimSpace(key) != key {
				t.Errorf("key %q", key)
			}
		}
	})
}
