package servicenode

import (
	"errors"
	"testing"
)

func TestSeedsAnswerForEachOther(t *testing.T) {
	gone, away := errors.New("gone"), errors.New("away")
	works := func() *registry { r := &registry{}; r.set(); return r }
	for _, c := range []struct {
		name  string
		seeds []*registry
		from  int // whose list it is; -1 for nobody's
		errs  []error
	}{
		{name: "nobody", from: -1, errs: []error{ErrNoSeed}},
		{name: "the first of two", seeds: []*registry{works(), works()}, from: 0},
		{name: "the second when the first is gone", seeds: []*registry{{err: gone}, works()}, from: 1},
		{name: "none of two", seeds: []*registry{{err: gone}, {err: away}}, from: -1, errs: []error{gone, away}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s Seeds
			for _, r := range c.seeds {
				s = append(s, r)
			}
			list, err := s.Poll(t.Context(), nil)
			if c.from >= 0 && (err != nil || list != c.seeds[c.from].list) || c.from < 0 && list != nil {
				t.Errorf("list %v, %v", list, err)
			}
			announced := s.Announce(t.Context(), own, public)
			for _, e := range c.errs {
				if !errors.Is(err, e) || !errors.Is(announced, e) {
					t.Errorf("errors %v and %v, want %v", err, announced, e)
				}
			}
			if c.from >= 0 && announced != nil {
				t.Errorf("announcement: %v", announced)
			}
			for i, r := range c.seeds {
				if r.announcements() != 1 {
					t.Errorf("seed %d heard %d announcements", i, r.announcements())
				}
			}
		})
	}
}
