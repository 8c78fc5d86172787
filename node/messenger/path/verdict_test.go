package path

import (
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func TestErrorsOfThePathAreJudged(t *testing.T) {
	list := nodes(5, 1)
	path := &Path{hops: list[:3]}
	destination, stranger := list[3].Ed25519, list[4].Ed25519
	digits := func(k Key) string { return hex.EncodeToString(k[:]) }
	middle := list[1].Ed25519
	for _, c := range []struct {
		name   string
		status int
		text   string
		want   Verdict
	}{
		{"a wrong clock is ours", 406, "Timestamp error: check your clock", Verdict{FaultOurs, Key{}, ErrClock, true}},
		{"the older status of a wrong clock", 425, "", Verdict{FaultOurs, Key{}, ErrClock, true}},
		{"a hop that the next one does not know is dropped", 502, "Next node not found: " + digits(middle), Verdict{FaultGone, middle, ErrPath, true}},
		{"also in capitals, with a line end", 502, "Next node not found: " + strings.ToUpper(digits(middle)) + "\n", Verdict{FaultGone, middle, ErrPath, true}},
		{"a destination that nobody knows is dropped", 502, "Next node not found: " + digits(destination), Verdict{FaultGone, destination, ErrPath, true}},
		{"an unreachable hop is struck", 502, "Next node is currently unreachable: " + digits(middle), Verdict{FaultNode, middle, ErrPath, true}},
		{"a guard cannot have a stranger dropped", 502, "Next node not found: " + digits(stranger), Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a name that is not a key", 502, "Next node not found: nobody", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"502 of anything else", 502, "Bad Gateway", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a hop that is not ready is struck", 503, "Snode not ready: " + digits(middle), Verdict{FaultNode, middle, ErrPath, true}},
		{"a stranger that is not ready is the guard's invention", 503, "Snode not ready: " + digits(stranger), Verdict{FaultGuard, Key{}, ErrPath, true}},
		{"a guard that is not ready", 503, "Service node is not ready: still syncing\n", Verdict{FaultGuard, Key{}, ErrPath, true}},
		{"a guard that is busy", 503, "Server busy, try again later", Verdict{FaultGuard, Key{}, ErrPath, true}},
		{"a hop that does not answer", 504, "Request time out", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a hop that answers nonsense", 500, "Invalid response from snode", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a layer that does not open", 400, "Invalid ciphertext", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a status that only a destination may give", 401, "", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"421 outside of the onion is not believed", 421, `{"snodes":[]}`, Verdict{FaultPath, Key{}, ErrPath, true}},
		{"a redirect", 302, "", Verdict{FaultPath, Key{}, ErrPath, true}},
		{"the daemon's general error is final", 500, "Oxen Server error", Verdict{FaultOurs, Key{}, ErrRequest, false}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := judgePath(c.status, c.text, path, destination); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestErrorsOfTheDestinationAreJudged(t *testing.T) {
	destination := nodes(1, 1)[0].Ed25519
	struck := Verdict{FaultNode, destination, ErrNode, true}
	for _, c := range []struct {
		name   string
		status int
		text   string
		want   Verdict
	}{
		{"200 is an answer", 200, "{}", Verdict{}},
		{"400 is not repeated", 400, "invalid request", Verdict{FaultOurs, Key{}, ErrRequest, false}},
		{"401 is not repeated", 401, "retrieve signature verification failed", Verdict{FaultOurs, Key{}, ErrRefused, false}},
		{"403 is not repeated", 403, "Provided expiry/TTL is not valid.", Verdict{FaultOurs, Key{}, ErrRequest, false}},
		{"406 is the clock", 406, "", Verdict{FaultOurs, Key{}, ErrClock, true}},
		{"425 is the clock", 425, "", Verdict{FaultOurs, Key{}, ErrClock, true}},
		{"421 is the wrong swarm", 421, "{}", Verdict{FaultOurs, Key{}, ErrWrongSwarm, true}},
		{"429 is a strike", 429, "", struck},
		{"too many who wait for messages is nobody's fault", 429, "too many subscriptions at this node", Verdict{FaultOurs, Key{}, ErrBusy, true}},
		{"500 is a strike", 500, "request failed", struck},
		{"502 is a strike", 502, "oxend returned unparsable data", struck},
		{"503 is a strike", 503, "Snode not ready", struck},
		{"504 is a strike", 504, "", struck},
		{"the daemon's general error is final", 500, "Oxen Server error", Verdict{FaultOurs, Key{}, ErrRequest, false}},
		{"a status that does not exist is a strike", -1, "", struck},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Judge(c.status, c.text, destination)
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if got.Err != nil {
				err := error(&StatusError{Verdict: got, Status: c.status, Text: c.text})
				if !errors.Is(err, c.want.Err) || Retryable(err) != c.want.Retry {
					t.Errorf("error %v, retryable %v", err, Retryable(err))
				}
			}
		})
	}
}
