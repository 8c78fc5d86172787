package ledger

import (
	"errors"
	"testing"
)

func TestAmountsForPeople(t *testing.T) {
	for _, c := range []struct {
		units uint64
		text  string
	}{
		{0, "0"}, {1, "0.000000001"}, {Coin, "1"}, {25_000 * Coin, "25000"}, {Coin / 1000, "0.001"}, {1_500_000_000, "1.5"}, {MaxSupply, "9223372036.854775807"},
	} {
		if got := Coins(c.units); got != c.text {
			t.Errorf("%d units are written %s", c.units, got)
		}
		if got, err := ParseCoins(c.text); err != nil || got != c.units {
			t.Errorf("%s is read as %d, %v", c.text, got, err)
		}
	}
	for text, units := range map[string]uint64{"1.50": 1_500_000_000, "007": 7 * Coin, "0.0": 0} {
		if got, err := ParseCoins(text); err != nil || got != units {
			t.Errorf("%s is read as %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", ".", "1.", ".5", "-1", "+1", "1,5", "1e3", "0x10", "1.0000000001", "9223372036.854775808", "99999999999", "ten", "1 0", "１"} {
		if got, err := ParseCoins(text); !errors.Is(err, ErrCoins) {
			t.Errorf("%q is read as %d, %v", text, got, err)
		}
	}
}

func FuzzParseCoins(f *testing.F) {
	f.Add("1.5")
	f.Add("-0")
	f.Fuzz(func(t *testing.T, text string) {
		units, err := ParseCoins(text)
		if err != nil {
			return
		}
		if again, err := ParseCoins(Coins(units)); err != nil || again != units {
			t.Errorf("%q is %d, and written again %d (%v)", text, units, again, err)
		}
	})
}
