package pillion

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/pillion-go/pillion/internal/report"
)

var (
	errOverBuffer = errors.New("pillion: the request's body cannot be sent again: it is over HTTP.ReplayBuffer")
	errCallOver   = errors.New("pillion: the request's body cannot be sent again: the call is over")
)

// replay keeps what is read of a request body, up to a limit, so that it can be
// sent again. It reads no further than the attempts do. Attempts may read beside
// each other, at different places.
type replay struct {
	limit int64
	over  atomic.Bool // more was read than is kept

	reading sync.Mutex    // held while source is read
	source  io.ReadCloser // guarded by reading, but for Close
	kept    []byte        // what was read of source, while not over; guarded by reading
	read    int64         // how much was read of source; guarded by reading
	err     error         // how source ended; guarded by reading

	mu      sync.Mutex
	readers int  // attempts that have not closed theirs; guarded by mu
	settled bool // no further attempt will come; guarded by mu
	closed  bool // guarded by mu
}

// source is a caller's body that may fail to be read, which is not the
// upstream's failure.
type source struct {
	io.ReadCloser
	length  int64                 // that the request names; 0 or less for none
	read    atomic.Int64          // how much was read
	ended   atomic.Bool           // and that was all
	err     atomic.Pointer[error] // what Read failed with
	closed  atomic.Bool
	reading atomic.Bool // a Read waits for the caller's body
	blocked atomic.Bool // and did so when the attempt's context ended

	mu     sync.Mutex
	call   *Call   // the attempt, until it has returned; guarded by mu
	replay *replay // where the body is kept, nil for nowhere; guarded by mu
}

// begin lets s report its progress to c.
func (s *source) begin(c *Call, r *replay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call, s.replay = c, r
}

// detach ends that: the attempt has returned, and c may be used again.
func (s *source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = nil
}

// progressed reports that a part of the body was read, or the last one.
func (s *source) progressed(whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.call != nil {
		s.call.Uploaded(whole)
	}
}

// Read remembers what it failed with. The body is the caller's and net/http reads it in a
// goroutine of its own, where a panic would end the process: it becomes an error.
func (s *source) Read(p []byte) (n int, err error) {
	defer func() {
		s.reading.Store(false)
		if value := recover(); value != nil {
			report.Panic("the body of a request", value)
			n, err = 0, fmt.Errorf("pillion: the request's body panicked: %v", value)
		}
		s.note(n, err)
	}()
	s.reading.Store(true)
	return s.ReadCloser.Read(p)
}

// note keeps what a Read came to.
func (s *source) note(n int, err error) {
	s.read.Add(int64(n))
	if err == io.EOF {
		s.ended.Store(true)
	} else if err != nil {
		s.err.CompareAndSwap(nil, &err)
	}
	s.progressed(err != nil)
}

// Close closes the body once.
func (s *source) Close() error {
	if !s.closed.CompareAndSwap(false, true) {
		return nil
	}
	return s.ReadCloser.Close()
}

// wake ends a Read that waits for the caller's body, when the attempt's context has
// ended: net/http waits for it. over says that no other attempt will need the body.
func (s *source) wake(over bool) {
	s.blocked.Store(s.reading.Load())
	_ = s.Close() // the response does not depend on it
	s.mu.Lock()
	r := s.replay
	s.mu.Unlock()
	if over && r != nil {
		r.abort()
	}
}

// silent reports whether the attempt waits, or waited at its end, for the caller's body.
func (s *source) silent() bool { return s.blocked.Load() || s.reading.Load() }

// broke reports whether err, of an attempt, came from the body.
func (s *source) broke(err error) bool {
	failed := s.err.Load()
	return (failed != nil && errors.Is(err, *failed)) || s.otherLength()
}

// explain adds to err what net/http may not have said.
func (s *source) explain(err error) error {
	if s.otherLength() && !hasPrefix(err, "http: ContentLength=") {
		return fmt.Errorf("http: ContentLength=%d with Body length %d: %w", s.length, s.read.Load(), err)
	}
	return err
}

// otherLength reports whether the body turned out to have another length than its
// request says. net/http cuts the connection then, and may report just that.
func (s *source) otherLength() bool {
	read := s.read.Load()
	return s.length > 0 && (read > s.length || (s.ended.Load() && read < s.length))
}

// inMemory reports whether body, of a request with GetBody, is what http.NewRequest
// makes of a reader over memory, which cannot fail.
func inMemory(body io.ReadCloser) bool { return reflect.TypeOf(body) == memoryBody }

//nolint:gochecknoglobals // a type that has no name outside of package io
var memoryBody = reflect.TypeOf(io.NopCloser(strings.NewReader("")))

// newReplay keeps nothing of a body that is known to be too large, nor where
// nothing may be kept.
func newReplay(source io.ReadCloser, length, limit int64) *replay {
	if limit == 0 || length > limit {
		return nil
	}
	return &replay{source: source, limit: limit}
}

// whole reports whether all that was read is still there.
func (r *replay) whole() bool { return !r.over.Load() }

// reader gives the body from its start, for one more attempt.
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

// settle says that no further attempt will come: the source is closed with the
// last reader.
func (r *replay) settle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settled = true
	r.closeSource()
}

// leave is a reader's end.
func (r *replay) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readers--
	r.closeSource()
}

// closeSource closes the source when nobody will read it any more. The caller
// holds mu.
func (r *replay) closeSource() {
	if r.settled && r.readers == 0 && !r.closed {
		r.closed = true
		_ = r.source.Close() // nobody to tell: the answer does not depend on it
	}
}

// abort closes the source under a Read that waits for it, when the call is over.
func (r *replay) abort() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		_ = r.source.Close() // the response does not depend on it
	}
}

// readAt fills p with what stands at offset. It waits for the source under the
// lock: what one attempt reads there is what the next one needs.
func (r *replay) readAt(p []byte, offset int64, frozen *atomic.Bool) (int, error) {
	r.reading.Lock()
	defer r.reading.Unlock()
	switch {
	case offset < int64(len(r.kept)):
		return copy(p, r.kept[offset:]), nil
	case offset != r.read:
		return 0, errOverBuffer // another attempt read on, and it was not kept
	case r.err != nil:
		return 0, r.err
	}
	n, err := r.source.Read(p)
	r.err = err
	r.read += int64(n)
	r.keep(p[:n], frozen.Load())
	return n, err
}

// keep remembers what was read, or, once it is too much, that it does not. What was
// on its way when its reader's attempt ended is kept all the same: the next one was promised.
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
	closed atomic.Bool
	frozen atomic.Bool // the attempt has ended, whether net/http knows or not
}

// Read reads on from where this attempt is.
func (r *replayReader) Read(p []byte) (int, error) {
	if r.closed.Load() || r.frozen.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := r.replay.readAt(p, r.offset, &r.frozen)
	r.offset += int64(n)
	return n, err
}

// Close ends this attempt's reading. The source stays open for the next one.
func (r *replayReader) Close() error {
	if r.closed.CompareAndSwap(false, true) {
		r.replay.leave()
	}
	return nil
}
