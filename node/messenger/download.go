package messenger

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hearth/node/attachment"
	"hearth/node/messenger/mailbox"
	"hearth/node/onion"
)

// chunkSize is how much of a file one request asks for, in bytes: what a path that
// is lost costs, and the steps in which a download is written down.
const chunkSize = 1 << 20

const (
	fetchTries = 3 // rounds over the network that bring nothing, each over up to three paths
	fetchPause = 2 * time.Second
)

// download fetches an upload from a file service in chunks, each over a path of its
// own choice, as a range of HTTP (RFC 9110, 14). A service that knows no ranges
// answers with the whole, which is as well.
type download struct {
	s      *session
	server onion.WebServer
	id     string
	whole  bool // ask for no ranges
	tell   func(got, total int64)
	keep   func(at int64, part []byte) // writes down what has come; may be nil
	drop   func()                      // forgets what was written down; may be nil

	content []byte // so far
	total   int64  // bytes, 0 = not known
	all     bool   // content is as much as the service has
}

// fetch gets the whole of a file, in content, and opens it. Nothing less than the
// whole is of use: before that nobody knows whose bytes they are. It goes on for as
// long as something comes. Errors: [ErrFileGone], that of open, and [ErrFetch].
func (d *download) fetch(ctx context.Context, u attachment.URL, open func(content []byte) error) error {
	forget := func() {
		if d.content, d.total = nil, 0; d.drop != nil {
			d.drop()
		}
	}
	for try := 1; ; try++ {
		before := len(d.content)
		err := d.run(ctx)
		if err == nil {
			// Whoever ends a path may have made something up; another one gives the
			// right bytes.
			id, named := u.OnNodes()
			if named && attachment.IDOf(d.content) != id {
				err = ErrForged
			} else if err = open(d.content); err == nil {
				return nil
			} else if named {
				forget()
				return err // these are the very bytes that the address names
			}
			// Nobody knows which piece is wrong. The whole, from one path, is worth
			// more than pieces from several, of which one may be bad.
			forget()
			d.whole = true
		} else if len(d.content) > before {
			try = 0
		}
		switch {
		case ctx.Err() != nil:
			return forCaller(ErrFetch, context.Cause(ctx))
		case errors.Is(err, ErrFileGone):
			forget()
			return err
		case try == fetchTries:
			return forCaller(ErrFetch, err)
		}
		d.s.log.Warn("fetching a file", "try", try, "err", err)
		if mailbox.Pause(ctx, fetchPause) != nil {
			return forCaller(ErrFetch, context.Cause(ctx))
		}
	}
}

// run goes on until all of it is there, or something fails. The bytes are whatever
// the service gave. The error is [ErrFileGone] when nobody has the file.
func (d *download) run(ctx context.Context) error {
	d.all = d.total > 0 && int64(len(d.content)) == d.total
	for !d.all {
		if err := d.next(ctx); err != nil {
			return err
		}
	}
	return nil
}

// next fetches a chunk, or all of it.
func (d *download) next(ctx context.Context) error {
	from := int64(len(d.content))
	r := onion.V4Request{Method: http.MethodGet, Endpoint: "/file/" + d.id}
	if !d.whole {
		r.Headers = map[string]string{"range": fmt.Sprintf("bytes=%d-%d", from, from+chunkSize-1)}
	}
	answer, err := d.s.client.AskServer(ctx, d.server, r.Encode(), func(_, received, total int64) {
		if received == 0 || d.tell == nil {
			return
		}
		if d.total > 0 {
			total = d.total
		}
		d.tell(min(from+received, total), total)
	})
	if err != nil {
		return err
	}
	switch answer.Code {
	case http.StatusOK:
		d.content, d.total, d.all = answer.Body, int64(len(answer.Body)), true
		return nil
	case http.StatusPartialContent:
		return d.add(from, answer)
	case http.StatusNotFound:
		return ErrFileGone
	case http.StatusRequestedRangeNotSatisfiable:
		// The file is shorter than what is here: one of the two is not it.
		d.content, d.total, d.whole = nil, 0, true
		return errRange
	}
	return fmt.Errorf("the file service says %d", answer.Code)
}

var errRange = errors.New("the file service gives another part than was asked for")

// add takes a part of the file. Its bounds are a stranger's word.
func (d *download) add(from int64, answer *onion.V4Response) error {
	first, total, ok := contentRange(answer.Headers["content-range"], int64(len(answer.Body)))
	if !ok || first != from || total > attachment.MaxUpload || d.whole {
		return errRange
	}
	if d.total != 0 && d.total != total {
		// Somebody was wrong, now or before.
		d.content, d.total, d.whole = nil, 0, true
		return errRange
	}
	d.total = total
	if d.keep != nil {
		d.keep(from, answer.Body)
	}
	d.content = append(d.content, answer.Body...)
	d.all = int64(len(d.content)) == total
	return nil
}

// contentRange reads "bytes 0-99/1000" of a part of that many bytes, which are not
// none, and gives where it begins and how large the whole is.
func contentRange(text string, size int64) (first, total int64, ok bool) {
	text, ok = strings.CutPrefix(strings.TrimSpace(text), "bytes ")
	bounds, all, ok2 := strings.Cut(text, "/")
	from, to, ok3 := strings.Cut(bounds, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	var n [3]int64
	for i, digits := range []string{from, to, all} {
		v, err := strconv.ParseUint(digits, 10, 40)
		if err != nil {
			return 0, 0, false
		}
		n[i] = int64(v)
	}
	first, last, total := n[0], n[1], n[2]
	return first, total, size > 0 && last-first+1 == size && last < total
}
