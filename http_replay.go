package pillion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pillion-go/pillion/internal/report"
	"github.com/pillion-go/pillion/policy"
)

var (
	errOverBuffer = errors.New("pillion: the request's body cannot be sent again: it exceeds Options.ReplayBuffer")
	errCallOver   = errors.New("pillion: the request's body cannot be sent again: the call has ended")
)

// replay keeps what is read of a request body, up to a limit, so that it can be sent again. It
// reads only as far as the attempts do. Attempts may read concurrently, at different offsets.
type replay struct {
	limit int64
	over  atomic.Bool // more was read than may be kept

	reading sync.Mutex    // held while source is read
	source  io.ReadCloser // guarded by reading, except for Close
	kept    []byte        // what was read of source, while not over; guarded by reading
	read    int64         // how much was read of source; guarded by reading
	err     error         // the error with which source ended; guarded by reading

	mu      sync.Mutex
	readers int  // how many attempts have not closed theirs; guarded by mu
	settled bool // no further attempt follows; guarded by mu
	closed  bool // guarded by mu
}

// source is a caller's body that takes time to send, or whose Read may fail, which is not the
// upstream's failure. net/http reads it in its own goroutine.
type source struct {
	body   io.ReadCloser
	kept   *replayReader // body, if it is a replayReader; else nil
	copied bool          // GetBody returned body
	length int64         // the length that the request names; 0 or less for none
	closed atomic.Bool
	ctx    context.Context //nolint:containedctx // the attempt's; nil until it is watched
	stop   func() bool     // ends the watch of ctx

	mu      sync.Mutex
	call    *policy.Attempt // the attempt, until it has returned; guarded by mu
	begun   bool            // a Read was called; guarded by mu
	reading bool            // a Read waits for the caller's body; guarded by mu
	blocked bool            // a Read waited when the body was closed; guarded by mu
	read    int64           // how much was read; guarded by mu
	ended   bool            // the body was read to its end; guarded by mu
	err     error           // the first error of the body; guarded by mu
}

// Read records its error. A panic of the caller's body would end the process here, so it becomes an
// error.
func (s *source) Read(p []byte) (n int, err error) {
	returned := false
	defer func() {
		if !returned {
			n, err = 0, fmt.Errorf("pillion: the request's body panicked: %v", reported("the Read of a request's body", recover()))
		}
		s.readReturned(n, err)
	}()
	s.readBegins()
	n, err = s.body.Read(p)
	returned = true
	return n, err
}

// reported reports a panic with value, and returns it.
func reported(what string, value any) any {
	report.Panic(what, value)
	return value
}

func (s *source) readBegins() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = true
	if !s.begun && s.call != nil {
		s.call.Uploading()
	}
	s.begun = true
}

// readReturned records the result of a Read. It ignores a body that was closed meanwhile.
func (s *source) readReturned(n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reading = false
	if s.closed.Load() {
		return
	}
	s.read += int64(n)
	switch {
	case err == io.EOF: //nolint:errorlint // as net/http compares
		s.ended = true
	case err != nil && s.err == nil:
		s.err = err
	}
	if s.call != nil {
		s.call.Uploaded(s.live(), err != nil)
	}
}

// live reports whether the caller has just supplied the last part.
func (s *source) live() bool { return !s.copied && (s.kept == nil || s.kept.live) }

// detach ends the reports to the attempt: it has returned, and its Call may be reused.
func (s *source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = nil
}

// Close closes the body once. It records an error, with which net/http fails a request. If the
// attempt has ended, it does not wait for the body's own Close.
func (s *source) Close() error {
	switch {
	case !s.close():
		return nil
	case s.ctx != nil && s.ctx.Err() != nil:
		go func() { _ = closeBody(s.body) }()
		return nil //nolint:nilerr // only the end matters, not its reason
	}
	err := closeBody(s.body)
	s.failed(err)
	return err
}

// close marks the body as closed, and records whether a Read was waiting then. It reports true the
// first time.
func (s *source) close() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return false
	}
	s.blocked = s.reading
	s.closed.Store(true)
	return true
}

// closeBody closes a request's body, in whatever goroutine that is due. A panic becomes an error.
func closeBody(body io.Closer) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("pillion: closing the request's body panicked: %v", reported("the Close of a request's body", value))
		}
	}()
	return body.Close()
}

// failed records the first error of the body.
func (s *source) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

// wake ends a Read that waits for the caller's body when the attempt's context has ended, since
// net/http waits for that Read. over means that no other attempt will need the body.
func (s *source) wake(over bool) {
	if s.close() {
		_ = closeBody(s.body) // the response does not depend on it
	}
	if over && s.kept != nil {
		s.kept.replay.abort()
	}
}

// silent reports whether the attempt waits for the caller's body, or waited for it at its end.
func (s *source) silent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocked || s.reading
}

// fault returns an error if the body is the reason why an attempt failed with err, else nil.
func (s *source) fault(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.length > 0 && (s.read > s.length || (s.ended && s.read < s.length)):
		// net/http closes the connection then, and may report only that.
		return lengthError(err, s.length, s.read)
	case s.err == nil:
		return nil
	case errors.Is(err, s.err):
		return err
	case errors.Is(err, net.ErrClosed): // net/http closed the connection because of s.err
		return fmt.Errorf("%w: %w", s.err, err)
	}
	return nil
}

// lengthError returns err if it is net/http's error about a body whose length differs from the one
// in its request, else that error around err.
func lengthError(err error, want, got int64) error {
	if hasPrefix(err, otherLength) {
		return err
	}
	return fmt.Errorf(otherLength+"%d with Body length %d: %w", want, got, err)
}

const otherLength = "http: ContentLength=" // the start of net/http's text

// inMemory reports whether body, of a request with GetBody, is what http.NewRequest makes of a
// reader over memory, and how much of it is left. Reading such a body neither fails nor takes time.
func inMemory(body io.ReadCloser) (left int64, ok bool) {
	if body == http.NoBody {
		return 0, true
	}
	v := reflect.ValueOf(body)
	if !v.IsValid() || v.Type() != memoryBody {
		return 0, false
	}
	switch r := v.Field(0).Interface().(type) {
	case *bytes.Buffer:
		return int64(r.Len()), true
	case *bytes.Reader:
		return int64(r.Len()), true
	case *strings.Reader:
		return int64(r.Len()), true
	}
	return 0, false
}

//nolint:gochecknoglobals // package io does not export this type
var memoryBody = reflect.TypeOf(io.NopCloser(strings.NewReader("")))

// newReplay returns nil if nothing may be kept, or if the body is known to be too large.
func newReplay(source io.ReadCloser, length, limit int64) *replay {
	if limit == 0 || length > limit {
		return nil
	}
	return &replay{source: source, limit: limit}
}

// whole reports whether everything that was read is kept.
func (r *replay) whole() bool { return !r.over.Load() }

// reader returns the body from its start, for the next attempt.
func (r *replay) reader() (*replayReader, error) {
	if !r.whole() {
		return nil, errOverBuffer
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errCallOver
	}
	r.readers++
	return &replayReader{replay: r}, nil
}

// settle reports that no further attempt follows: the source is closed with the last reader.
func (r *replay) settle() {
	r.closeIf(func() bool {
		r.settled = true
		return r.readers == 0
	})
}

// leave reports that a reader was closed.
func (r *replay) leave() {
	r.closeIf(func() bool {
		r.readers--
		return r.settled && r.readers == 0
	})
}

// abort closes the source under a Read that waits for it, when the call has ended.
func (r *replay) abort() { r.closeIf(func() bool { return true }) }

// closeIf closes the source if due returns true and it is not closed yet. due runs with mu held.
func (r *replay) closeIf(due func() bool) {
	r.mu.Lock()
	closing := due() && !r.closed
	r.closed = r.closed || closing
	r.mu.Unlock()
	switch {
	case !closing:
	case r.reading.TryLock():
		r.reading.Unlock()
		_ = closeBody(r.source) // the response does not depend on it
	default: // a Read waits for the source, as its Close may
		go func() { _ = closeBody(r.source) }()
	}
}

// readAt fills p with the bytes at offset. live reports whether they were just read from the
// source. It waits for the source under the lock: what one attempt reads there is what the next one
// needs.
func (r *replay) readAt(p []byte, offset int64, frozen *atomic.Bool) (n int, live bool, err error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	switch {
	case offset < int64(len(r.kept)):
		return copy(p, r.kept[offset:]), false, nil
	case offset != r.read:
		return 0, false, errOverBuffer // another attempt has read further, and that was not kept
	case r.err != nil:
		return 0, false, r.err
	}
	n, err = r.source.Read(p)
	r.err = err
	r.read += int64(n)
	r.keep(p[:n], frozen.Load())
	return n, true, err
}

// keep stores p, or drops everything if the limit is exceeded. A read that was running when its
// attempt ended is stored regardless, because a retry was already promised.
func (r *replay) keep(p []byte, promised bool) {
	if r.read > r.limit && !promised {
		r.over.Store(true)
		r.kept = nil
		return
	}
	r.kept = append(r.kept, p...)
}

// replayReader is one attempt's view of the body.
type replayReader struct {
	replay *replay
	offset int64
	live   bool // the last Read read from the source
	closed atomic.Bool
	frozen atomic.Bool // the attempt has ended, even if net/http does not know yet
}

// Read reads from the current offset of this attempt.
func (r *replayReader) Read(p []byte) (int, error) {
	if r.closed.Load() || r.frozen.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, live, err := r.replay.readAt(p, r.offset, &r.frozen)
	r.offset += int64(n)
	r.live = live
	return n, err
}

// Close ends this attempt's reading. The source stays open for the next attempt.
func (r *replayReader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		r.replay.leave()
	}
	return nil
}
