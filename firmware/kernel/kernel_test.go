package kernel

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestTheConfigurationAsksForWhatIsRequiredAndForNothingForbidden(t *testing.T) {
	asked := Parse(Config)
	if len(asked) < 300 {
		t.Fatalf("only %d options", len(asked))
	}
	for _, name := range Required {
		if asked[name] != "y" {
			t.Errorf("%s is required and not asked for", name)
		}
	}
	for _, name := range Forbidden {
		if asked[name] == "y" {
			t.Errorf("%s is forbidden and asked for", name)
		}
	}
}

// testdata has, for each version, the options that were on in the kernel that was
// compiled and started.
func TestEachKnownVersionMakesOfItWhatIsOnItsList(t *testing.T) {
	for version, expected := range absent {
		dotConfig, err := os.ReadFile("testdata/" + version + ".config")
		if err != nil {
			t.Fatal(err)
		}
		if got := Version(dotConfig); got != version {
			t.Errorf("the file of %s is of version %q", version, got)
		}
		missing, unwelcome, dropped := Check(dotConfig)
		if len(missing) > 0 || len(unwelcome) > 0 {
			t.Errorf("%s: missing %v, unwelcome %v", version, missing, unwelcome)
		}
		for _, name := range expected {
			if !slices.Contains(dropped, name) {
				t.Errorf("%s has %s, which is on the list of what it has not", version, name)
			}
		}
		// Values that are no yes or no came out as asked, too.
		got := Parse(dotConfig)
		for name, value := range Parse(Config) {
			if value != "y" && value != "n" && got[name] != value {
				t.Errorf("%s: %s is %s, not %s", version, name, got[name], value)
			}
			if value == "n" && (got[name] == "y" || got[name] == "m") {
				t.Errorf("%s: %s is on", version, name)
			}
		}
	}
}

func TestALossInAKnownVersionIsAMistake(t *testing.T) {
	dotConfig, err := os.ReadFile("testdata/6.12.config")
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(string(dotConfig), "CONFIG_SYN_COOKIES=y\n", "", 1)
	if missing, _, _ := Check([]byte(without)); !slices.Equal(missing, []string{"SYN_COOKIES"}) {
		t.Errorf("missing %v", missing)
	}
	later := strings.Replace(without, "6.12.117", "8.1.0", 1)
	if missing, _, dropped := Check([]byte(later)); len(missing) > 0 || !slices.Contains(dropped, "SYN_COOKIES") {
		t.Errorf("an unknown version: missing %v, dropped %v", missing, dropped)
	}
}

func TestTheVersionIsRead(t *testing.T) {
	for text, want := range map[string]string{
		"# Linux/arm64 6.12.117 Kernel Configuration\n": "6.12",
		"#\n# Linux/arm64 7.3.4 Kernel Configuration":   "7.3",
		"# Linux/arm64 8 Kernel Configuration":          "8",
		"# Automatically generated file; DO NOT EDIT.":  "",
		"": "",
	} {
		if got := Version([]byte(text)); got != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name                        string
		change                      func(options map[string]string)
		missing, unwelcome, dropped []string
	}{
		{name: "everything came out as asked", change: func(map[string]string) {}},
		{
			name:    "a required option was dropped",
			change:  func(o map[string]string) { delete(o, "TCG_TIS") },
			missing: []string{"TCG_TIS"},
		},
		{
			name:    "a required option became a module",
			change:  func(o map[string]string) { o["VIRTIO_NET"] = "m" },
			missing: []string{"VIRTIO_NET"},
		},
		{
			name:      "something forbidden was selected by another option",
			change:    func(o map[string]string) { o["MODULES"], o["KEXEC"] = "y", "m" },
			unwelcome: []string{"MODULES", "KEXEC"},
		},
		{
			name:    "an option that only some sources know",
			change:  func(o map[string]string) { o["MISC_RP1"] = "n" },
			dropped: []string{"MISC_RP1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := Parse(Config)
			c.change(options)
			var dot strings.Builder
			dot.WriteString("#\n# Automatically generated file; DO NOT EDIT.\n#\n")
			for name, value := range options {
				if value == "n" {
					dot.WriteString("# CONFIG_" + name + " is not set\n")
				} else {
					dot.WriteString("CONFIG_" + name + "=" + value + "\n")
				}
			}
			missing, unwelcome, dropped := Check([]byte(dot.String()))
			if !slices.Equal(missing, c.missing) || !slices.Equal(unwelcome, c.unwelcome) || !slices.Equal(dropped, c.dropped) {
				t.Errorf("missing %v, unwelcome %v, dropped %v; want %v, %v, %v", missing, unwelcome, dropped, c.missing, c.unwelcome, c.dropped)
			}
		})
	}
}
