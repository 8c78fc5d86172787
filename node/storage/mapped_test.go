package storage

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatIsMappedIsLetGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "messages")
	db, err := Open(path, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	const each = 70_000
	fill := func() {
		t.Helper()
		err := db.update(func(tb tables) error {
			for i := range 1000 {
				m := message(alice, 0, realHash(int(db.NextStamp())+i))
				m.Data = make([]byte, each)
				if err := tb.insert(m, time.Now().Add(time.Hour).UnixMilli()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	fill()
	before := mapped()
	total, last := 0, ""
	for more := true; more; {
		var list []Message
		if list, more, err = db.Retrieve(alice, 0, last, 1, 0); err != nil || len(list) != 1 {
			t.Fatal(len(list), err)
		}
		last = list[0].Hash
		total += len(list[0].Data)
	}
	if total != 1000*each {
		t.Errorf("%d bytes came back", total)
	}
	if err := db.bolt.View(unmap); err != nil {
		t.Fatal(err)
	}
	if after := mapped(); before <= 0 || after > mappedLimit {
		t.Errorf("%d MB are mapped, before reading %d MB", after>>20, before>>20)
	}
	if got := fmt.Sprint(db.messages.Load()); got != "1000" {
		t.Errorf("%s messages afterwards", got)
	}
	db.consistent(t)
}
