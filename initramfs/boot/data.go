package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hearth/firmware/card"
	"hearth/hw/tpm"
	"hearth/initramfs/disk"
)

const (
	// DataLabel is the file system label of the partition, or whole disk, that
	// holds everything the appliance keeps.
	DataLabel = "hearth-data"
	// DataFolder is where it is mounted.
	DataFolder = "/data"
	// dataMapping is the device mapper's name for it when it is encrypted.
	dataMapping = "hearth-data"
)

// Errors of the data stage.
var (
	ErrNoData   = errors.New("no card of the appliance, and no disk or partition with an ext4 file system labelled " + DataLabel)
	ErrManyData = errors.New("more than one place for the appliance's data")
	// ErrReadOnly says that the data can be looked at and not changed.
	ErrReadOnly = errors.New("the data is read-only, nothing new can be kept")
	// ErrSealed says that the data is encrypted and its key not to be had.
	ErrSealed = errors.New("the data is encrypted, and its key does not open")
	// ErrDeveloperData says that the data was made with a TPM.
	ErrDeveloperData = errors.New("the data is encrypted with a key that only the TPM has, which developer mode does not use")
)

// keeper is what encrypting the data needs of a TPM.
type keeper interface {
	io.Reader
	Seal(secret []byte) (blob []byte, err error)
	Unseal(blob []byte) (secret []byte, err error)
}

// mounted is where the data came from.
type mounted struct {
	card      string // device of the card that it is on, "" when it is on no card of ours
	partition string // device of the partition or disk
	cipher    string // by which it is encrypted, "" when it is not
	fresh     bool   // nothing was kept there before
}

// lookEvery is how often PID 1 looks whether the kernel had to stop writing.
const lookEvery = 10 * time.Second

// mountData finds the data partition, on a card's first start makes it, mounts it
// and makes the services' folders. Without keys it stays as it is, and a new one is
// not encrypted. When it can only be read, the error is a Degraded with ErrReadOnly.
func mountData(ctx context.Context, keys keeper, say Say) (m mounted, err error) {
	var found place
	// SD cards and USB disks appear seconds after the kernel has started us.
	poll(ctx, 15*time.Second, func() bool {
		found, err = findData("/sys/class/block", "/dev")
		return !errors.Is(err, ErrNoData)
	})
	if err != nil {
		return m, err
	}
	m = mounted{card: found.card, partition: found.device}
	if ctx.Err() != nil {
		return m, ctx.Err() // the appliance is being switched off
	}
	ready, err := prepare(found, keys, say)
	if err != nil {
		return m, err
	}
	m.cipher, m.fresh = ready.cipher, ready.fresh
	trouble, err := mount(ready.device, ready.state, say)
	if err != nil {
		return m, err
	}
	if trouble == nil {
		if err := enlarge(ready.device, ready.state, say); err != nil {
			say("%v; it keeps its size", err)
		}
	}
	if err := dataFolders(); err != nil && trouble == nil {
		return m, err
	}
	if trouble != nil {
		return m, &Degraded{trouble}
	}
	return m, nil
}

// prepared is a file system that can be mounted.
type prepared struct {
	device string
	cipher string // "" when it is not encrypted
	fresh  bool   // it was made just now
	state  disk.State
}

// prepare brings a partition to where it can be mounted, and tells its state.
func prepare(p place, keys keeper, say Say) (ready prepared, err error) {
	if p.card != "" {
		if err := growPartition(p.card, say); err != nil {
			// The rest of the card stays unused.
			say("%s: %v", p.card, err)
		}
	}
	f, err := openDisk(p.device)
	if err != nil {
		return ready, err
	}
	defer f.Close()
	ready = prepared{device: p.device}
	header, whole, headerErr := disk.ReadHeader(f)
	if headerErr == nil && keys != nil {
		ready, err = unseal(f, header, keys)
		if errors.Is(err, tpm.ErrRevoked) {
			// It was wiped, or is a copy from before: nothing opens it again.
			say("%s: everything here was wiped; beginning anew", p.device)
			if err := blank(p.device, true, say); err != nil {
				return ready, err
			}
			p.blank = true
		} else if err != nil {
			return ready, fmt.Errorf("%s: %w", p.device, err)
		}
	}
	switch {
	case p.blank && keys != nil:
		if ready, err = formatSealed(f, keys, say); err != nil {
			return ready, fmt.Errorf("%s: %w", p.device, err)
		}
	case p.blank:
		say("%s: NOT encrypted, because there is no TPM to seal the key", p.device)
		if err := format(f, say); err != nil {
			return ready, fmt.Errorf("%s: %w", p.device, err)
		}
	case headerErr == nil && keys == nil:
		return ready, fmt.Errorf("%s: %w", p.device, ErrDeveloperData)
	case headerErr == nil:
		if !whole {
			say("%s: one of the two headers is damaged; written again", p.device)
			if err := disk.WriteHeader(f, header); err != nil {
				say("%s: %v", p.device, err)
			}
		}
	default:
		say("%s: NOT encrypted, it was made without a TPM", p.device)
	}
	ready.fresh = p.blank
	if ready.cipher != "" {
		say("%s: encrypted with %s, the key is sealed in the TPM, without PIN", p.device, ready.cipher)
		inner, err := openDisk(ready.device)
		if err != nil {
			return ready, err
		}
		defer inner.Close()
		f = inner
	}
	ready.state, err = disk.Inspect(f)
	if (p.card != "" || ready.cipher != "") && (errors.Is(err, disk.ErrDamaged) || errors.Is(err, disk.ErrNone)) {
		say("%s: %v; looking for a copy", p.device, err)
		if err := disk.Repair(f, DataLabel); err != nil {
			return ready, fmt.Errorf("%s: %w; writing the image to the card again starts anew, without what it holds", p.device, err)
		}
		if err := f.Sync(); err != nil {
			return ready, err
		}
		say("%s: superblock put back from a copy", p.device)
		ready.state, err = disk.Inspect(f)
	}
	if err != nil {
		return ready, fmt.Errorf("%s: %w", p.device, err)
	}
	return ready, nil
}

// openDisk opens a disk to write, or, when its switch says so, to read.
func openDisk(device string) (*os.File, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
		return os.Open(device)
	}
	return f, err
}

// formatSealed makes an encrypted file system on a blank partition. The header takes
// the place of the mark that it is blank and goes last: if the power fails before, the
// next start begins again, with another key.
func formatSealed(f *os.File, keys keeper, say Say) (ready prepared, err error) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ready, err
	}
	c := disk.ChooseCipher(cpuinfo)
	key := make([]byte, c.KeySize())
	defer clear(key)
	if _, err := io.ReadFull(keys, key); err != nil {
		return ready, fmt.Errorf("drawing the key of the data: %w", err)
	}
	sealed, err := keys.Seal(key)
	if err != nil {
		return ready, fmt.Errorf("sealing the key of the data: %w", err)
	}
	header := disk.Header{Cipher: c, Sealed: sealed}
	// Opened again, so that a key which never comes back is found out now.
	if ready, err = unseal(f, header, keys); err != nil {
		return ready, err
	}
	inner, err := os.OpenFile(ready.device, os.O_RDWR, 0)
	if err != nil {
		return ready, err
	}
	defer inner.Close()
	size, err := disk.Size(inner)
	if err != nil {
		return ready, err
	}
	say("first start: making an encrypted file system on %d MiB", size>>20)
	if err := disk.Format(inner, size, DataLabel); err != nil {
		return ready, err
	}
	return ready, disk.WriteHeader(f, header)
}

// unseal lets the disk behind a header appear.
func unseal(f *os.File, header disk.Header, keys keeper) (prepared, error) {
	key, err := keys.Unseal(header.Sealed)
	if err != nil {
		return prepared{}, fmt.Errorf("%w: %w", ErrSealed, err)
	}
	defer clear(key)
	device, err := disk.Open(f, dataMapping, header.Cipher, key)
	if err != nil {
		return prepared{}, err
	}
	if !poll(context.Background(), 5*time.Second, func() bool { return exists(device) }) {
		return prepared{}, fmt.Errorf("%s does not appear", device)
	}
	return prepared{device: device, cipher: header.Cipher.String()}, nil
}

func growPartition(path string, say Say) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	changed, err := disk.GrowPartition(f)
	if err == nil && changed {
		say("%s: the partition now reaches to the end of the card", path)
	}
	return err
}

// format makes the file system on a blank partition. The mark that it is blank goes
// last: if the power fails before, the next start begins again.
func format(f *os.File, say Say) error {
	size, err := disk.Size(f)
	if err != nil {
		return err
	}
	say("first start: making a file system on %d MiB", size>>20)
	if err := disk.Format(f, size, DataLabel); err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, card.SectorSize), 0); err != nil {
		return err
	}
	return f.Sync()
}

// mount mounts the data, which replays its journal. Trouble says why it is
// read-only: because the kernel has found errors in it before, or because it does
// not work otherwise.
func mount(device string, state disk.State, say Say) (trouble, err error) {
	if state.Unclean {
		say("%s was not unmounted, the kernel replays its journal", device)
	}
	flags, options := uintptr(sealed|unix.MS_NOATIME), "errors=remount-ro"
	if state.Errors != "" {
		trouble = fmt.Errorf("%w: the kernel has seen damage (%s); e2fsck on another computer can repair it", ErrReadOnly, state.Errors)
		flags |= unix.MS_RDONLY
	}
	err = unix.Mount(device, DataFolder, "ext4", flags, options)
	// Without the journal what was written last is missing, or half there.
	for _, options := range []string{"errors=remount-ro", "errors=remount-ro,noload"} {
		if err == nil {
			break
		}
		say("mount %s: %v", device, err)
		trouble = fmt.Errorf("%w: mounting %s: %w", ErrReadOnly, device, err)
		err = unix.Mount(device, DataFolder, "ext4", flags|unix.MS_RDONLY, options)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", device, err)
	}
	say("%s at %s", device, DataFolder)
	return trouble, nil
}

// enlarge gives the file system what its partition has more.
func enlarge(device string, state disk.State, say Say) error {
	f, err := os.Open(device)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := disk.Size(f)
	if err != nil {
		return err
	}
	changed, err := disk.GrowFileSystem(DataFolder, state.Blocks, size)
	if err == nil && changed {
		say("%s: the file system now has %d MiB", device, size>>20)
	}
	return err
}

// dataFolders makes the folders of the services.
func dataFolders() error {
	// Services may pass through the top folder, not list it.
	if err := os.Chmod(DataFolder, 0o711); err != nil {
		return err
	}
	for _, r := range storing {
		folder := filepath.Join(DataFolder, r.name)
		if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chown(folder, int(r.uid), int(r.uid)); err != nil {
			return err
		}
		if err := os.Chmod(folder, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// watchData tells once when the data has become read-only: the kernel stops writing
// when it meets damage, so that it does not grow. It returns then, or when ctx ends.
func watchData(ctx context.Context, writable func() bool, trouble func(error)) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !writable() {
			trouble(fmt.Errorf("%w: the kernel has stopped writing to it; a restart tells more", ErrReadOnly))
			return
		}
	}
}

// dataWritable tells whether the mounted data can be changed.
func dataWritable() bool {
	var s unix.Statfs_t
	return unix.Statfs(DataFolder, &s) == nil && s.Flags&unix.ST_RDONLY == 0
}

// place is where the data is, or will be.
type place struct {
	device string // of the partition or disk
	card   string // device of the card that it is a partition of, "" when it is none of ours
	blank  bool   // the image builder says that nothing is there yet
}

// findData returns the one place of the data: the last partition of a card with our
// table, a whole disk that says that it is blank, or anything with encrypted data or a
// file system of that label. It goes by what is on the
// disks: the kernel's names depend on the order in which drivers find their
// hardware.
func findData(sysfs, dev string) (place, error) {
	entries, err := os.ReadDir(sysfs)
	if err != nil {
		return place{}, err
	}
	var found []place
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "loop") || strings.HasPrefix(e.Name(), "ram") || strings.HasPrefix(e.Name(), "dm-") {
			continue
		}
		p := place{device: filepath.Join(dev, e.Name())}
		f, err := os.Open(p.device)
		if err != nil {
			continue // an empty card reader, for example
		}
		if parent := cardOf(sysfs, dev, e.Name()); parent != "" {
			p.card, p.blank = parent, card.IsBlank(firstSector(f))
			found = append(found, p)
		} else if p.blank = !exists(filepath.Join(sysfs, e.Name(), "partition")) && card.IsBlank(firstSector(f)); p.blank {
			found = append(found, p)
		} else if _, _, err := disk.ReadHeader(f); err == nil {
			found = append(found, p)
		} else if state, err := disk.Inspect(f); err == nil && state.Label == DataLabel {
			found = append(found, p)
		}
		f.Close()
	}
	switch len(found) {
	case 0:
		return place{}, ErrNoData
	case 1:
		return found[0], nil
	}
	var names []string
	for _, p := range found {
		names = append(names, p.device)
	}
	return place{}, fmt.Errorf("%w: %s", ErrManyData, strings.Join(names, ", "))
}

// cardOf returns the device of the card whose data partition has that name, "" when
// it is no such partition.
func cardOf(sysfs, dev, name string) string {
	number, err := os.ReadFile(filepath.Join(sysfs, name, "partition"))
	if err != nil || strings.TrimSpace(string(number)) != strconv.Itoa(card.Data) {
		return ""
	}
	// A partition's folder lies in that of its disk.
	folder, err := filepath.EvalSymlinks(filepath.Join(sysfs, name))
	if err != nil {
		return ""
	}
	whole := filepath.Join(dev, filepath.Base(filepath.Dir(folder)))
	f, err := os.Open(whole)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := card.Parse(firstSector(f)); err != nil {
		return ""
	}
	return whole
}

// firstSector is nil when it cannot be read.
func firstSector(f *os.File) []byte {
	sector := make([]byte, card.SectorSize)
	if _, err := f.ReadAt(sector, 0); err != nil {
		return nil
	}
	return sector
}
