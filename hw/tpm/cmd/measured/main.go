// Command measured replays a log of measurements: it prints what was measured and
// the values that the TPM's PCRs must have after it. With -tpm it compares them
// with a chip's, and fails when they differ.
//
//	measured boot.log
//	measured -tpm /dev/tpmrm0 /run/hearth/measurements
//
// What the console's command logs shows is a log as well: other lines are passed
// over. With files behind the log it says which of them were measured, by their
// contents:
//
//	measured boot.log config.txt kernel8.img initramfs.zst
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"hearth/hw/tpm"
)

func main() {
	chip := flag.String("tpm", "", "device or socket of a TPM to compare with")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "usage: measured [-tpm DEVICE] LOG [FILE …]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(os.Stdout, *chip, flag.Arg(0), flag.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "measured:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, chip, path string, files []string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	log, err := tpm.ParseLog(fromJournal(text))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, m := range log {
		fmt.Fprintf(w, "PCR %-2d  %-24s %x\n", m.PCR, m.Name, m.Digest)
	}
	values := log.Replay()
	fmt.Fprintln(w)
	for _, pcr := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(w, "PCR %-2d  = %x\n", pcr, values[pcr])
	}
	var missing error
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		digest := sha256.Sum256(content)
		at := slices.IndexFunc(log, func(m tpm.Measurement) bool { return m.Digest == digest })
		if at < 0 {
			missing = errors.Join(missing, fmt.Errorf("%s was not measured", file))
			continue
		}
		fmt.Fprintf(w, "%s is %s\n", file, log[at].Name)
	}
	if chip != "" {
		t, err := tpm.Open(chip)
		if err != nil {
			return err
		}
		defer t.Close()
		if err := t.Verify(log); err != nil {
			return err
		}
		fmt.Fprintln(w, "The TPM has the same values.")
	}
	return missing
}

// spoken is how a line of PID 1's journal says a measurement.
const spoken = "] measure: PCR "

// fromJournal takes the measurements out of lines of the journal. A text without any
// is left as it is.
func fromJournal(text []byte) []byte {
	var log []byte
	for line := range bytes.Lines(text) {
		if _, m, ok := bytes.Cut(line, []byte(spoken)); ok {
			log = append(append(log, bytes.TrimRight(m, "\r\n")...), '\n')
		}
	}
	if log == nil {
		return text
	}
	return log
}
