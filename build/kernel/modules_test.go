package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// object is the smallest ELF file with a .modinfo section.
func object(info ...string) []byte {
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	modinfo := []byte(strings.Join(info, "\x00") + "\x00")
	order := binary.LittleEndian
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(modinfo) + len(names)),
	}
	binary.Write(&b, order, header)
	b.Write(modinfo)
	b.Write(names)
	for _, s := range []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(modinfo)), Addralign: 1},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(modinfo)), Size: uint64(len(names)), Addralign: 1},
	} {
		binary.Write(&b, order, s)
	}
	return b.Bytes()
}

// tree writes a modules folder: file → .modinfo entries, and the list of what is
// built in. The file's ending decides how it is compressed.
func tree(t *testing.T, builtin string, files map[string][]string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte(builtin), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, info := range files {
		path := filepath.Join(dir, "kernel", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		var w io.WriteCloser
		var err error
		switch filepath.Ext(name) {
		case ".xz":
			w, err = xz.NewWriter(&b)
		case ".gz":
			w = gzip.NewWriter(&b)
		case ".zst":
			w, err = zstd.NewWriter(&b)
		default:
			w = plain{&b}
		}
		if err != nil {
			t.Fatal(err)
		}
		w.Write(object(info...))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	for _, c := range []struct {
		name    string
		builtin string
		files   map[string][]string
		add     string
		want    string
		err     error
	}{
		{
			name: "a chain, in every compression, with - and _ mixed", add: "virtio_net", want: "failover net_failover virtio virtio_net",
			files: map[string][]string{
				"drivers/net/virtio-net.ko.xz":   {"license=GPL", "depends=net-failover,virtio"},
				"drivers/net/net_failover.ko.gz": {"depends=failover"},
				"net/core/failover.ko":           {"depends="},
				"drivers/virtio/virtio.ko.zst":   {},
			},
		},
		{
			name: "what is built in is left out", add: "virtio_net", want: "virtio_net",
			builtin: "kernel/drivers/virtio/virtio.ko\nkernel/net/core/failover.ko\n",
			files:   map[string][]string{"virtio_net.ko": {"depends=failover,virtio"}},
		},
		{
			name: "a built-in module needs no file", add: "ext4", want: "", builtin: "kernel/fs/ext4/ext4.ko\n",
		},
		{
			name: "soft dependencies before, not those behind, and none that is only an alias", add: "ext4", want: "crc32c_generic ext4",
			files: map[string][]string{
				"ext4.ko": {"softdep=pre: crc32c_generic crypto-crc32c post: later"}, "crc32c_generic.ko": {}, "later.ko": {},
			},
		},
		{
			name: "a needed module that is not there", add: "ext4", err: errNoModule,
			files: map[string][]string{"ext4.ko": {"depends=jbd2"}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := openModules(tree(t, c.builtin, c.files))
			if err != nil {
				t.Fatal(err)
			}
			if err := set.add(c.add, nil); !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			var got []string
			for _, m := range set.order {
				got = append(got, m.name)
				if !bytes.HasPrefix(m.object, []byte("\x7fELF")) {
					t.Errorf("%s is still compressed", m.name)
				}
			}
			if c.err == nil && strings.Join(got, " ") != c.want {
				t.Errorf("order %v, want %s", got, c.want)
			}
		})
	}
}

func TestModulesInACircleAreAnError(t *testing.T) {
	set, err := openModules(tree(t, "", map[string][]string{"a.ko": {"depends=b"}, "b.ko": {"depends=a"}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := set.add("a", nil); err == nil {
		t.Error("no error")
	}
}

func TestGatherModulesWritesTheOrder(t *testing.T) {
	files := make(map[string][]string)
	for _, name := range wantedModules {
		files[name+".ko"] = []string{"depends="}
	}
	to := filepath.Join(t.TempDir(), "modules")
	if err := gatherModules(tree(t, "", files), to); err != nil {
		t.Fatal(err)
	}
	k := Kernel{}
	if err := os.WriteFile(filepath.Join(filepath.Dir(to), "vmlinuz"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	k, err := cachedAMD64(filepath.Dir(to), "test")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, path := range k.Modules {
		got = append(got, strings.TrimSuffix(filepath.Base(path), ".ko"))
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(got, wantedModules) {
		t.Errorf("modules %v, want %v", got, wantedModules)
	}
}

func FuzzDependencies(f *testing.F) {
	f.Add(object("depends=a,b", "softdep=pre: c post: d"))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, file []byte) {
		depends, soft, err := dependencies(file)
		if err != nil && (depends != nil || soft != nil) {
			t.Errorf("%v %v with error %v", depends, soft, err)
		}
	})
}
