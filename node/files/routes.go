package files

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hearth/node/attachment"
	"hearth/node/onion"
)

// answer handles the payload of a layer. Routes, statuses and JSON are those of
// Session's file server (fileserver/routes.py, onion_req.py); its headers are in
// lower case.
func (s *Service) answer(ctx context.Context, from string, payload []byte, hold *held) onion.V4Response {
	if !s.intake.request(from) {
		return failure(http.StatusTooManyRequests)
	}
	r, err := onion.DecodeV4Request(payload)
	if err != nil {
		return onion.V4Response{
			Code:    http.StatusBadRequest,
			Headers: map[string]string{"content-type": "text/plain; charset=utf-8"},
			Body:    []byte("Invalid v4 onion request"),
		}
	}
	path, _, _ := strings.Cut(r.Endpoint, "?")
	part := strings.Split(path, "/")[1:]
	if part[0] != "file" || len(part) > 3 {
		return failure(http.StatusNotFound)
	}
	if len(part) == 1 {
		if r.Method != http.MethodPost {
			return failure(http.StatusMethodNotAllowed)
		}
		return s.upload(ctx, from, r)
	}
	do, method := s.download, http.MethodGet
	if len(part) == 3 {
		switch part[2] {
		case "info":
			do = s.info
		case "extend":
			do, method = s.extend, http.MethodPost
		default:
			return failure(http.StatusNotFound)
		}
	}
	if r.Method != method {
		return failure(http.StatusMethodNotAllowed)
	}
	id, ok := attachment.ParseID(part[1])
	if !ok {
		// The numbers of old servers among others: there is no such file here.
		return failure(http.StatusNotFound)
	}
	return do(ctx, r, id, hold)
}

func failure(code int) onion.V4Response {
	return jsonAnswer(code, struct {
		StatusCode int `json:"status_code"`
	}{code})
}

func jsonAnswer(code int, v any) onion.V4Response {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // the types are in this file
	}
	return onion.V4Response{Code: code, Headers: map[string]string{"content-type": "application/json"}, Body: body}
}

// seconds writes a moment as the file server does: seconds with a fraction.
type seconds int64 // ms

func (t seconds) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(t)/1000, 'f', 3, 64), nil
}

// until is when a file expires that somebody uploads or extends now.
func (s *Service) until(r *onion.V4Request, now time.Time) (expires int64, ok bool) {
	ttl := TTL
	if text, given := r.Headers["x-fs-ttl"]; given {
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n <= 0 {
			return 0, false
		}
		ttl = time.Duration(min(n, int64(TTL/time.Second))) * time.Second
	}
	return now.Add(ttl).UnixMilli(), true
}

func (s *Service) upload(ctx context.Context, from string, r *onion.V4Request) onion.V4Response {
	if len(r.Body) == 0 || len(r.Body) > attachment.MaxUpload {
		return failure(http.StatusRequestEntityTooLarge)
	}
	now := s.cfg.Now()
	expires, ok := s.until(r, now)
	if !ok {
		return failure(http.StatusBadRequest)
	}
	if !s.intake.upload(from, len(r.Body)) {
		return failure(http.StatusTooManyRequests)
	}
	m := meta{attachment.IDOf(r.Body), int64(len(r.Body)), now.UnixMilli(), expires}
	expires, err := s.spread(ctx, m, r.Body)
	switch {
	case errors.Is(err, errFull):
		return failure(http.StatusInsufficientStorage)
	case err != nil:
		s.cfg.Log.Debug("an upload found no place", "error", err)
		return failure(http.StatusServiceUnavailable)
	}
	return jsonAnswer(http.StatusOK, struct {
		ID       string  `json:"id"`
		Expires  seconds `json:"expires"`
		Uploaded seconds `json:"uploaded"`
	}{m.id.String(), seconds(expires), seconds(m.uploaded)})
}

func (s *Service) download(ctx context.Context, r *onion.V4Request, id attachment.ID, hold *held) onion.V4Response {
	m, content, err := s.find(ctx, id, hold)
	switch {
	case errors.Is(err, errAbsent):
		return failure(http.StatusNotFound)
	case err != nil:
		return failure(http.StatusServiceUnavailable)
	}
	answer := onion.V4Response{Code: http.StatusOK, Body: content, Headers: map[string]string{
		"content-type": "application/octet-stream",
		"expires":      time.UnixMilli(m.expires).UTC().Format(http.TimeFormat),
	}}
	from, to, err := byteRange(r.Headers["range"], m.size)
	switch {
	case errors.Is(err, errNoRange):
	case err != nil:
		answer.Code = http.StatusRequestedRangeNotSatisfiable
		answer.Body = []byte(err.Error())
		answer.Headers = map[string]string{"content-type": "text/plain; charset=utf-8", "content-range": fmt.Sprintf("bytes */%d", m.size)}
	default:
		answer.Code = http.StatusPartialContent
		answer.Body = content[from : to+1]
		answer.Headers["content-range"] = fmt.Sprintf("bytes %d-%d/%d", from, to, m.size)
	}
	return answer
}

// Errors of byteRange.
var (
	errNoRange  = errors.New("no range of bytes asked for")
	errBadRange = errors.New("range: want bytes=FIRST-, bytes=FIRST-LAST or bytes=-COUNT")
	errOutside  = errors.New("range: it begins behind the end of the file")
)

// byteRange reads the header range (RFC 9110, section 14.1): one range of bytes of a
// file, first and last included. Session's own file server has no ranges; our
// messenger goes on with a download that broke off.
func byteRange(header string, size int64) (from, to int64, err error) {
	unit, spec, _ := strings.Cut(header, "=")
	if !strings.EqualFold(strings.TrimSpace(unit), "bytes") {
		return 0, 0, errNoRange // other units are to be ignored
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return 0, 0, errBadRange
	}
	number := func(s string, otherwise int64) (n int64) {
		if s == "" {
			return otherwise
		}
		u, e := strconv.ParseUint(s, 10, 63)
		if e != nil {
			err = errBadRange
		}
		return int64(u)
	}
	if first == "" {
		count := number(last, -1)
		if err == nil && count < 0 {
			err = errBadRange
		} else if err == nil && count == 0 {
			err = errOutside
		}
		return max(size-count, 0), size - 1, err
	}
	from, to = number(first, 0), min(number(last, size-1), size-1)
	switch {
	case err != nil:
	case from >= size:
		err = errOutside
	case to < from:
		err = errBadRange
	}
	return from, to, err
}

type description struct {
	Size     int64   `json:"size"`
	Uploaded seconds `json:"uploaded"`
	Expires  seconds `json:"expires"`
}

func (s *Service) info(ctx context.Context, _ *onion.V4Request, id attachment.ID, _ *held) onion.V4Response {
	m, err := s.describe(ctx, id)
	switch {
	case errors.Is(err, errAbsent):
		return failure(http.StatusNotFound)
	case err != nil:
		return failure(http.StatusServiceUnavailable)
	}
	return jsonAnswer(http.StatusOK, description{m.size, seconds(m.uploaded), seconds(m.expires)})
}

func (s *Service) extend(ctx context.Context, r *onion.V4Request, id attachment.ID, _ *held) onion.V4Response {
	expires, ok := s.until(r, s.cfg.Now())
	if !ok {
		return failure(http.StatusBadRequest)
	}
	m, err := s.describe(ctx, id)
	if err == nil && m.expires < expires {
		m.expires = expires
		m.expires, err = s.spread(ctx, m, nil)
	}
	switch {
	case errors.Is(err, errAbsent):
		return failure(http.StatusNotFound)
	case err != nil:
		return failure(http.StatusServiceUnavailable)
	}
	return jsonAnswer(http.StatusOK, description{m.size, seconds(m.uploaded), seconds(m.expires)})
}
