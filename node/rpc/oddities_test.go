package rpc

import (
	"fmt"
	"testing"
)

// What the storage server 2.8.0 answered to the same bytes.
func TestHalvesOfSurrogatePairsAreNoJSON(t *testing.T) {
	for text, whole := range map[string]bool{
		`"plain"`:                   true,
		`"\u00e9"`:                  true,
		`"\ud83d\ude00"`:            true,
		`"\ud83d"`:                  false,
		`"\ude00"`:                  false,
		`"\ud83d\ud83d\ude00"`:      false,
		`"\ud83dx\ude00"`:           false,
		`"\ud83d\n\ude00"`:          false,
		`"\\ud83d"`:                 true,
		`{"a\ud800":1}`:             false,
		`["\ud83d\ude00","\ud83d"]`: false,
	} {
		if _, ok := checkJSON([]byte(text)); ok != whole {
			t.Errorf("%s: %v", text, ok)
		}
	}
}

func TestACountBelowMinusOneIsNone(t *testing.T) {
	n, nodes := swarmOf(t, 1)
	u := newUser(t, 1)
	for i := range 3 {
		if status, answer := nodes[0].call(t, "store", n.storeParams(u.id, fmt.Sprint(i))); status != 200 {
			t.Fatal(status, answer)
		}
	}
	for count, want := range map[int]int{0: 3, 2: 2, -1: 0, -2: 3, -1 << 40: 3} {
		params := u.signed(RetrieveText(0, n.ms()), map[string]any{"namespace": 0, "timestamp": n.ms(), "max_count": count})
		status, answer := nodes[0].call(t, "retrieve", params)
		if list, _ := at(answer, "messages").([]any); status != 200 || len(list) != want {
			t.Errorf("max_count %d: %d messages, want %d; %d", count, len(list), want, status)
		}
	}
}
