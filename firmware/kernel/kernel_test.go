package kernel

import (
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
