package pillion

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/iotest"
)

var errSource = errors.New("source broke")

// spring is a source of known bytes in pieces. It counts the calls of its methods.
type spring struct {
	data   []byte
	end    error
	piece  int // at most so many bytes in one Read
	given  int
	closed int
}

func (s *spring) Read(p []byte) (int, error) {
	if s.closed != 0 {
		return 0, errors.New("read after close")
	}
	n := copy(p[:min(len(p), s.piece)], s.data[s.given:])
	s.given += n
	if s.given == len(s.data) && (n == 0 || len(s.data)%2 == 0) { // EOF comes with the last bytes or after them
		return n, s.end
	}
	return n, nil
}

func (s *spring) Close() error {
	s.closed++
	return nil
}

func TestNewReplay(t *testing.T) {
	tests := []struct {
		name          string
		length, limit int64
		want          bool
	}{
		{"no buffer", 1, 0, false},
		{"fits", 10, 10, true},
		{"too large", 11, 10, false},
		{"unknown", -1, 10, true},
		{"unknown, no buffer", -1, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := newReplay(http.NoBody, test.length, test.limit) != nil; got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestReplay_settled pins that a source that was closed, because no further attempt was expected,
// is not read by a later attempt.
func TestReplay_settled(t *testing.T) {
	s := &spring{data: []byte("order"), end: io.EOF, piece: 9}
	r := newReplay(s, 5, 100)
	r.settle()
	if s.closed != 1 {
		t.Errorf("closed %d times, want once", s.closed)
	}
	if reader, err := r.reader(); err == nil {
		t.Errorf("got %T, want an error", reader)
	}
	if s.given != 0 || s.closed != 1 {
		t.Errorf("got %d bytes read, closed %d times, want 0 and once", s.given, s.closed)
	}
}

// TestSource pins that a failed body is distinguished from a failed upstream.
func TestSource(t *testing.T) {
	s := &source{body: io.NopCloser(io.MultiReader(bytes.NewReader([]byte("order")), iotest.ErrReader(errSource)))}
	if s.fault(errSource) != nil {
		t.Error("broke before anything was read")
	}
	if _, err := io.ReadAll(s); !errors.Is(err, errSource) {
		t.Fatalf("got %v, want errSource", err)
	}
	if s.fault(errors.Join(io.ErrUnexpectedEOF, errSource)) == nil || s.fault(io.ErrUnexpectedEOF) != nil {
		t.Error("want it to have broken with errSource, and with nothing else")
	}
	whole := &source{body: io.NopCloser(bytes.NewReader([]byte("order")))}
	if _, err := io.ReadAll(whole); err != nil || whole.fault(io.EOF) != nil {
		t.Errorf("got %v, broke with EOF: %v, want neither", err, whole.fault(io.EOF))
	}
}

// replayModel is the model of FuzzReplay: the bytes, and how many of them were read.
type replayModel struct {
	t       *testing.T
	data    []byte
	end     error
	limit   int
	readers []*modelReader
	settled bool
}

type modelReader struct {
	io.ReadCloser
	offset int
	closed bool
}

func (m *replayModel) open(r *replay, given int) {
	rc, err := r.reader()
	switch gone := m.settled && m.live() == 0; {
	case gone || given > m.limit:
		if err == nil {
			m.t.Errorf("got a reader, want an error: settled %v, %d bytes given with a limit of %d", gone, given, m.limit)
		}
	case err != nil:
		m.t.Errorf("got %v, want a reader: %d bytes given with a limit of %d", err, given, m.limit)
	default:
		m.readers = append(m.readers, &modelReader{ReadCloser: rc})
	}
}

func (m *replayModel) live() (n int) {
	for _, r := range m.readers {
		if !r.closed {
			n++
		}
	}
	return n
}

// read reads once. given is how many bytes the source had returned before.
func (m *replayModel) read(r *modelReader, size int, given *int) {
	before, p := *given, make([]byte, size)
	n, err := r.Read(p)
	after := *given
	switch {
	case r.closed:
		if n != 0 || !errors.Is(err, http.ErrBodyReadAfterClose) {
			m.t.Errorf("after Close: got %d, %v", n, err)
		}
		return
	case before > m.limit && r.offset != before:
		if n != 0 || !errors.Is(err, errOverBuffer) {
			m.t.Errorf("at %d of %d that were not kept: got %d, %v, want errOverBuffer", r.offset, before, n, err)
		}
		return
	case r.offset < before && after != before:
		m.t.Errorf("at %d of %d: the source was read, want what was kept", r.offset, before)
	}
	if got, want := p[:n], m.data[r.offset:min(r.offset+n, len(m.data))]; !bytes.Equal(got, want) {
		m.t.Errorf("at %d: got %q, want %q", r.offset, got, want)
	}
	r.offset += n
	if r.offset > after {
		m.t.Errorf("got to %d, but the source returned only %d", r.offset, after)
	}
	if err != nil && (r.offset != len(m.data) || !errors.Is(err, m.end)) {
		m.t.Errorf("at %d of %d: got %v, want %v at the end", r.offset, len(m.data), err, m.end)
	}
}

// FuzzReplay drives a replay with a script of opens, reads, closes and a settle, and compares it
// with its bytes. Its invariants: each reader returns the source's bytes from the start, or
// errOverBuffer if they are no longer kept; there is a new reader as long as everything is kept;
// the source is never read ahead nor twice, and closed once, when it is settled and the last reader
// has closed. Then many readers read concurrently.
func FuzzReplay(f *testing.F) {
	f.Add([]byte("order"), uint8(10), uint8(3), false, []byte{0, 17, 18, 1, 17, 33, 2, 3})
	f.Add([]byte("a longer order"), uint8(4), uint8(2), true, []byte{0, 0, 17, 17, 17, 18, 18, 0, 3, 2, 6})
	f.Add([]byte(""), uint8(1), uint8(1), false, []byte{0, 17, 3, 2, 0})
	f.Add([]byte("x"), uint8(1), uint8(1), true, []byte{3, 0, 17, 2})
	f.Add([]byte("order"), uint8(5), uint8(9), false, []byte{0, 1, 1, 1, 0, 5, 5, 5, 3, 2, 6, 0})
	f.Fuzz(func(t *testing.T, data []byte, limit, piece uint8, breaks bool, script []byte) {
		if limit == 0 {
			return // there is no replay
		}
		m := &replayModel{t: t, data: data, end: io.EOF, limit: int(limit)}
		if breaks {
			m.end = errSource
		}
		s := &spring{data: data, end: m.end, piece: int(piece) + 1}
		r := newReplay(s, -1, int64(limit))
		for _, op := range script {
			var reader *modelReader
			if n := len(m.readers); n != 0 {
				reader = m.readers[int(op>>2)%n]
			}
			switch {
			case op%4 == 3:
				r.settle()
				m.settled = true
			case op%4 == 0 || reader == nil:
				m.open(r, s.given)
			case op%4 == 1:
				m.read(reader, 1+int(op>>4), &s.given)
			case op%4 == 2:
				_ = reader.Close()
				_ = reader.Close() // a second Close has no effect
				reader.closed = true
			}
			if got, want := s.closed == 1, m.settled && m.live() == 0; got != want || s.closed > 1 {
				t.Fatalf("closed %d times, want %v", s.closed, want)
			}
			if got, want := r.whole(), s.given <= int(limit); got != want {
				t.Fatalf("whole: got %v, want %v", got, want)
			}
		}
		readBeside(t, m, int(piece)+1)
	})
}

// readBeside reads the whole body in several attempts concurrently.
func readBeside(t *testing.T, m *replayModel, piece int) {
	t.Helper()
	s := &spring{data: m.data, end: m.end, piece: piece}
	r := newReplay(s, -1, int64(m.limit))
	var readers [3]io.ReadCloser
	for i := range readers {
		var err error
		if readers[i], err = r.reader(); err != nil {
			t.Fatal(err)
		}
	}
	var attempts sync.WaitGroup
	for _, reader := range readers {
		attempts.Go(func() {
			defer reader.Close()
			got, err := io.ReadAll(reader)
			if err == nil && errors.Is(m.end, io.EOF) {
				err = io.EOF
			}
			switch {
			case len(m.data) > m.limit && errors.Is(err, errOverBuffer):
				if !bytes.HasPrefix(m.data, got) {
					t.Errorf("got %q, want the start of %q", got, m.data)
				}
			case !bytes.Equal(got, m.data) || !errors.Is(err, m.end):
				t.Errorf("got %q, %v, want %q, %v", got, err, m.data, m.end)
			}
		})
	}
	r.settle()
	attempts.Wait()
	if s.closed != 1 || s.given != len(m.data) {
		t.Errorf("closed %d times after %d bytes, want once after %d", s.closed, s.given, len(m.data))
	}
}
