package host

import (
	"errors"
	"testing"

	"hearth/node/ledger/light"
)

func TestWhoIsAskedByANodeThatJoins(t *testing.T) {
	ports := make([]uint16, 13)
	for k := range ports {
		ports[k] = uint16(20000 + k)
	}
	g := genesis(12, ports, nil)
	cfg := Config{Genesis: g, Keys: pair(3)}
	if j, done, err := cfg.join(); j != nil || err != nil {
		t.Errorf("without a header: %v, %v", j, err)
	} else {
		done()
	}
	cfg.Join = light.Anchor{Chain: g.Chain, Trust: light.Trust{Height: 7}}
	j, done, err := cfg.join()
	if err != nil {
		t.Fatal(err)
	}
	done()
	if len(j.Sources) != joinSources || j.Trust != cfg.Join.Trust {
		t.Errorf("%d sources, from %v", len(j.Sources), j.Trust)
	}
	cfg.Join.Chain = "another"
	if j, _, err := cfg.join(); !errors.Is(err, ErrJoin) {
		t.Errorf("a header of another ledger: %v, %v", j, err)
	}
}
