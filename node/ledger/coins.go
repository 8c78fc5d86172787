package ledger

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// decimals is how many digits of a coin there are behind the point.
const decimals = 9

// ErrCoins reports a text that is no amount.
var ErrCoins = errors.New("not an amount of coins")

// Coins writes an amount in units as coins, without zeros that say nothing.
func Coins(units uint64) string {
	whole := strconv.FormatUint(units/Coin, 10)
	if part := units % Coin; part != 0 {
		whole += "." + strings.TrimRight(fmt.Sprintf("%0*d", decimals, part), "0")
	}
	return whole
}

// ParseCoins reads what [Coins] writes, and the same with zeros more. What is
// smaller than a unit is refused, and so is what is larger than [MaxSupply].
func ParseCoins(text string) (units uint64, err error) {
	whole, part, point := strings.Cut(text, ".")
	bad := fmt.Errorf("%w: %.40q; write it like 1000 or 0.25", ErrCoins, text)
	if len(whole) == 0 || len(whole) > 10 || point && (part == "" || len(part) > decimals) {
		return 0, bad
	}
	for _, r := range whole + part {
		if r < '0' || r > '9' {
			return 0, bad
		}
	}
	units, err = strconv.ParseUint(whole+part+strings.Repeat("0", decimals-len(part)), 10, 64)
	if err != nil || units > MaxSupply {
		return 0, bad
	}
	return units, nil
}
