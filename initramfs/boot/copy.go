package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hearth/hw/tpm"
	"hearth/node/wholefile"
)

// stateFile holds the number of the card's state, which the TPM counts as well.
var stateFile = filepath.Join(DataFolder, "state")

// Errors of the copy stage.
var (
	// ErrOldCopy says that the data was put back to what it was before.
	ErrOldCopy = errors.New("the card is an older copy of itself: what was kept since then is not on it")
	// ErrOtherState says that card and TPM do not know each other.
	ErrOtherState = errors.New("the TPM does not know the state of this card: the TPM or the card was exchanged or edited")
)

// counter is what counting the card's states needs of a TPM.
type counter interface {
	Count(tpm.Counter) (uint64, error)
	Advance(tpm.Counter) (uint64, error)
}

// checkCopy compares the number on the card with the TPM's, which only grows, and
// goes on to the next one, so that any copy of the card that was made before is an
// old one from now on. fresh says that there is no number yet because nothing is kept.
//
// A copy that is put back while the device is on, or within one run from switching on
// to switching off, has the right number and is not noticed.
func checkCopy(c counter, path string, fresh bool, say Say) error {
	counted, err := c.Count(tpm.CardCounter)
	if err != nil {
		return err
	}
	kept, known, err := readState(path)
	switch {
	case err != nil:
		return err
	case fresh:
		known = true
	case known && kept == counted+1:
		// The power failed between the card's step and the TPM's.
		if counted, err = c.Advance(tpm.CardCounter); err != nil {
			return err
		}
	}
	var trouble error
	switch {
	case fresh || known && kept == counted:
		say("the card is the newest state that the TPM knows, number %d", counted)
	case known && kept < counted:
		trouble = fmt.Errorf("%w (it has number %d, the TPM %d)", ErrOldCopy, kept, counted)
	default:
		trouble = ErrOtherState
	}
	return errors.Join(trouble, nextState(c, path, counted))
}

// nextState writes the next number to the card and lets the TPM follow.
func nextState(c counter, path string, counted uint64) error {
	if err := wholefile.Write(path, []byte(strconv.FormatUint(counted+1, 10)+"\n")); err != nil {
		return fmt.Errorf("the number of the card's state: %w", err)
	}
	now, err := c.Advance(tpm.CardCounter)
	if err == nil && now != counted+1 {
		err = fmt.Errorf("the TPM counted on to %d instead of %d", now, counted+1)
	}
	return err
}

// leaveCopy goes on to the next state when the device is switched off, so that a copy
// that was made while it was on is an old one as well.
func leaveCopy(c counter, path string) error {
	counted, err := c.Count(tpm.CardCounter)
	if err != nil {
		return err
	}
	return nextState(c, path, counted)
}

// readState gives the number on the card; known is false when there is none that
// makes sense.
func readState(path string) (number uint64, known bool, err error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	number, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return number, err == nil, nil
}
