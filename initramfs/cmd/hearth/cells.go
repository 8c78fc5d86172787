package main

import (
	"log/slog"
	"os"

	"hearth/initramfs/cell"
)

// afterSettling is called in each cell when its doors are open; the image that
// tests the cells has something to do then.
var afterSettling func(r cell.Rules)

// locked is the cell of this role, nil outside of one.
var locked *cell.Rules

// enterCell locks the role in, if PID 1 wants that. On a developer's machine files
// lie anywhere and debuggers are welcome.
func enterCell(log *slog.Logger, r cell.Rules) error {
	if os.Getenv(cell.Variable) == "" {
		return nil
	}
	strength, err := cell.Enter(r)
	if err != nil {
		return err
	}
	locked = &r
	log.Info("locked into its cell", "by", strength)
	return nil
}

// settleCell is called when everything listens that ever will.
func settleCell() error {
	if locked == nil {
		return nil
	}
	if err := cell.Settle(); err != nil {
		return err
	}
	if afterSettling != nil {
		afterSettling(*locked)
	}
	return nil
}

// names are the files by which a name becomes an address.
var names = []string{"/etc", "/run/hearth/resolv.conf"}
