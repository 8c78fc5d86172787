package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hearth/node/account"
)

// large makes a database with one conversation of so many messages, as they come in:
// lines of some words, every tenth own, one in the middle that is looked for.
func large(t testing.TB, file string, count int) (who account.ID) {
	t.Helper()
	a, _ := open(t, file)
	defer a.Close()
	who = someone(1)
	if _, _, err := a.AddContact(who, "Alice"); err != nil {
		t.Fatal(err)
	}
	const batch = 2000
	for from := 0; from < count; from += batch {
		var items []Incoming
		for i := from; i < min(from+batch, count); i++ {
			text := fmt.Sprintf("Message %d says that the weather is about what it was the day before, more or less.", i)
			if i == count/2 {
				text = "Where did you put the Haystack needle?"
			}
			in := incoming(who, i, text)
			in.Hash = fmt.Sprintf("%043d", i)
			in.Message.Hash = in.Hash
			if i%10 == 0 {
				in.Own, in.Message.Outgoing, in.Message.Read = true, true, true
			}
			items = append(items, in)
		}
		if _, err := a.Receive(Place{}, fmt.Sprint(from), items); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.MarkRead(who, nil); err != nil {
		t.Fatal(err)
	}
	return who
}

// heap is what is in use after all garbage is gone, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestAConversationOf10000MessagesIsPagedAndSearched(t *testing.T) {
	const count = 10_000
	file := filepath.Join(t.TempDir(), "db")
	who := large(t, file, count)
	before := heap()
	a, _ := open(t, file)
	defer a.Close()
	list, err := a.Messages(who, 0, 50, 1<<20)
	if err != nil || len(list) != 50 || list[49].Number != count {
		t.Fatalf("%d messages, %v", len(list), err)
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("an open database of %d messages holds %d KiB", count, grown>>10)
	}
	// Back to the beginning, page by page.
	seen := make(map[uint64]bool)
	for at := uint64(0); ; {
		page, err := a.Messages(who, at, 900, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			if seen[m.Number] {
				t.Fatalf("message %d comes twice", m.Number)
			}
			seen[m.Number] = true
		}
		at = page[0].Number
	}
	if len(seen) != count {
		t.Errorf("%d messages were paged through", len(seen))
	}

	for _, c := range []struct {
		text  string
		with  account.ID
		limit int
		want  int
	}{
		{"haystack NEEDLE", who, 50, 1},
		{"haystack NEEDLE", account.ID{}, 50, 1},
		{"haystack NEEDLE", someone(2), 50, 0},
		{"the weather", account.ID{}, 50, 50},
		{"message 9999 ", who, 50, 1},
		{"  message 99 ", who, 5, 5}, // 9999 and so on: the latest
		{"not in any of them", account.ID{}, 50, 0},
		{"", account.ID{}, 50, 0},
	} {
		found, err := a.Search(t.Context(), c.with, c.text, c.limit, 1<<20)
		if err != nil || len(found) != c.want {
			t.Errorf("%q: %d messages, want %d, %v", c.text, len(found), c.want, err)
		}
		for i := range found {
			if !strings.Contains(strings.ToLower(found[i].Text), strings.ToLower(strings.TrimSpace(c.text))) || i > 0 && found[i].Shown() > found[i-1].Shown() {
				t.Errorf("%q: found %q after %v", c.text, found[i].Text, found[max(i-1, 0)])
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Search(ctx, who, "not in any of them", 50, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	// What strangers wrote is not looked through, and what was deleted is gone.
	receive(t, a, incoming(someone(3), count+1, "a stranger's needle"))
	if found, err := a.Search(t.Context(), account.ID{}, "needle", 50, 1<<20); err != nil || len(found) != 1 {
		t.Errorf("with a stranger: %v, %v", found, err)
	}
	if found, err := a.Search(t.Context(), someone(3), "needle", 50, 1<<20); err != nil || len(found) != 1 {
		t.Errorf("in the stranger's own: %v, %v", found, err)
	}
	if err := a.Forget(who); err != nil {
		t.Fatal(err)
	}
	if found, err := a.Search(t.Context(), account.ID{}, "weather", 50, 1<<20); err != nil || len(found) != 0 {
		t.Errorf("after all was deleted: %v, %v", found, err)
	}
}

// BenchmarkOf100000Messages is what a long conversation costs: on the disk, in
// memory, to open the database and see the first screen, and to search.
func BenchmarkOf100000Messages(b *testing.B) {
	const count = 100_000
	file := filepath.Join(b.TempDir(), "db")
	who := large(b, file, count)
	info, err := os.Stat(file)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			a, _ := open(b, file)
			a.Close()
		}
		b.ReportMetric(float64(info.Size())/count, "disk-B/message")
	})
	before := heap()
	a, _ := open(b, file)
	defer a.Close()
	b.Run("first screen", func(b *testing.B) {
		for b.Loop() {
			if list, err := a.Messages(who, 0, 50, 1<<20); err != nil || len(list) != 50 {
				b.Fatal(len(list), err)
			}
		}
		b.ReportMetric(float64(heap()-before)/(1<<20), "heap-MiB")
	})
	b.Run("a screen in the middle", func(b *testing.B) {
		for b.Loop() {
			if list, err := a.Messages(who, count/2, 50, 1<<20); err != nil || len(list) != 50 {
				b.Fatal(len(list), err)
			}
		}
	})
	for _, c := range []struct {
		name, text string
		found      int
	}{{"search, found at once", "the weather", 50}, {"search through all", "needle", 1}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if list, err := a.Search(b.Context(), account.ID{}, c.text, 50, 1<<20); err != nil || len(list) != c.found {
					b.Fatal(len(list), err)
				}
			}
		})
	}
}
