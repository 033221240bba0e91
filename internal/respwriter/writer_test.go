package respwriter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// controlled is a writer with all methods for which http.ResponseController looks.
type controlled interface {
	http.ResponseWriter
	io.StringWriter
	FlushError() error
	SetReadDeadline(deadline time.Time) error
	SetWriteDeadline(deadline time.Time) error
	EnableFullDuplex() error
	Unwrap() http.ResponseWriter
}

var errStub = errors.New("the stub is broken")

// stub is a writer with all abilities. It logs the calls of its methods and keeps the status
// that a client sees, as net/http does.
type stub struct {
	header   http.Header
	log      []string
	status   int
	hijacked bool
	cannot   bool // the methods for http.ResponseController are not supported
	wraps    http.ResponseWriter
}

func (s *stub) did(what string) { s.log = append(s.log, what) }

func (s *stub) begin(status int) {
	if s.status == 0 && !s.hijacked {
		s.status = status
	}
}

func (s *stub) control(what string) error {
	if s.cannot {
		return fmt.Errorf("stub: %w", http.ErrNotSupported)
	}
	s.did(what)
	return nil
}

func (s *stub) Header() http.Header { return s.header }

func (s *stub) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("invalid WriteHeader code %v", status))
	}
	s.did(fmt.Sprint("header ", status))
	if status >= 200 || status == http.StatusSwitchingProtocols {
		s.begin(status)
	}
}

func (s *stub) Write(p []byte) (int, error) {
	s.begin(200)
	s.did("write " + string(p))
	return len(p), nil
}

func (s *stub) WriteString(p string) (int, error) { return s.Write([]byte(p)) }

func (s *stub) Flush() { _ = s.FlushError() }

func (s *stub) FlushError() error {
	err := s.control("flush")
	if err == nil {
		s.begin(200)
	}
	return err
}

func (s *stub) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	err := s.control("hijack")
	s.hijacked = s.hijacked || err == nil
	return nil, nil, err
}

func (s *stub) Push(target string, _ *http.PushOptions) error {
	s.did("push " + target)
	return errStub
}

func (s *stub) ReadFrom(src io.Reader) (int64, error) {
	p, err := io.ReadAll(src)
	if len(p) > 0 {
		_, _ = s.Write(p)
	}
	return int64(len(p)), err
}

func (s *stub) CloseNotify() <-chan bool {
	s.did("notify")
	return nil
}

func (s *stub) SetReadDeadline(time.Time) error  { return s.control("read deadline") }
func (s *stub) SetWriteDeadline(time.Time) error { return s.control("write deadline") }
func (s *stub) EnableFullDuplex() error          { return s.control("full duplex") }
func (s *stub) Unwrap() http.ResponseWriter      { return s.wraps }

// watch is a Watcher that records the calls of its methods.
type watch struct {
	statuses []int
	entered  int // the number of operations under way
	most     int
	written  int64
	err      error
	hijacked int
}

func (w *watch) Begin(status int) { w.statuses = append(w.statuses, status) }

func (w *watch) Enter() {
	w.entered++
	w.most = max(w.most, w.entered)
}

func (w *watch) Leave(written int64, err error) {
	w.entered--
	w.written += written
	if err != nil {
		w.err = err
	}
}

func (w *watch) Hijacked(net.Conn) { w.hijacked++ }

// operations are what handlers do with a writer. They return the result.
var operations = map[string]func(w http.ResponseWriter) any{
	"Header":      func(w http.ResponseWriter) any { w.Header().Set("A", "b"); return len(w.Header()) },
	"WriteHeader": func(w http.ResponseWriter) any { w.WriteHeader(http.StatusCreated); return nil },
	"hint":        func(w http.ResponseWriter) any { w.WriteHeader(http.StatusEarlyHints); return nil },
	"Write":       func(w http.ResponseWriter) any { return result(w.Write([]byte("soup"))) },
	"WriteString": func(w http.ResponseWriter) any { return result(io.WriteString(w, "leek")) },
	"Copy":        func(w http.ResponseWriter) any { return result(io.Copy(w, strings.NewReader("bread"))) },
	"copy of nothing": func(w http.ResponseWriter) any {
		return result(io.Copy(w, struct{ io.Reader }{strings.NewReader("")}))
	},
	"Flush": func(w http.ResponseWriter) any {
		f, ok := w.(http.Flusher)
		if ok {
			f.Flush()
		}
		return ok
	},
	"Hijack": func(w http.ResponseWriter) any {
		h, ok := w.(http.Hijacker)
		if !ok {
			return false
		}
		_, _, err := h.Hijack()
		return result(0, err)
	},
	"Push": func(w http.ResponseWriter) any {
		p, ok := w.(http.Pusher)
		if !ok {
			return false
		}
		return result(0, p.Push("/a", nil))
	},
	"ReadFrom": func(w http.ResponseWriter) any {
		r, ok := w.(io.ReaderFrom)
		if !ok {
			return false
		}
		return result(r.ReadFrom(strings.NewReader("bread")))
	},
	"CloseNotify": func(w http.ResponseWriter) any {
		n, ok := w.(http.CloseNotifier) //nolint:staticcheck // frameworks still use it
		if ok {
			n.CloseNotify()
		}
		return ok
	},
	"controller Flush": func(w http.ResponseWriter) any { return result(0, http.NewResponseController(w).Flush()) },
	"controller Hijack": func(w http.ResponseWriter) any {
		_, _, err := http.NewResponseController(w).Hijack()
		return result(0, err)
	},
	"controller SetReadDeadline": func(w http.ResponseWriter) any {
		return result(0, http.NewResponseController(w).SetReadDeadline(time.Time{}))
	},
	"controller SetWriteDeadline": func(w http.ResponseWriter) any {
		return result(0, http.NewResponseController(w).SetWriteDeadline(time.Time{}))
	},
	"controller EnableFullDuplex": func(w http.ResponseWriter) any {
		return result(0, http.NewResponseController(w).EnableFullDuplex())
	},
}

// result is comparable.
func result[N int | int64](n N, err error) any {
	return [3]any{int64(n), err == nil, errors.Is(err, http.ErrNotSupported)}
}

// server is a writer that a test wraps, and the stubs that it consists of.
type server struct {
	name  string
	w     http.ResponseWriter
	stubs []*stub
}

// seen returns what a client sees of the server.
func (s server) seen() (log []string, status int, hijacked bool) {
	for _, stub := range s.stubs {
		log = append(log, stub.log...)
		status, hijacked = max(status, stub.status), hijacked || stub.hijacked
	}
	return log, status, hijacked
}

// servers makes new writers with each set of abilities: without and with the methods for
// http.ResponseController, supported or not, in the writer or in the one that it unwraps to.
func servers() (all []server) {
	for set := range bare {
		plain, full, cannot := &stub{header: http.Header{}}, &stub{header: http.Header{}}, &stub{header: http.Header{}, cannot: true}
		inner, outer := &stub{header: http.Header{}}, &stub{header: http.Header{}}
		outer.wraps = inner
		over := struct{ unwrapper }{unwrapper{bare[set][0](outer), outer}} // middleware that has only Unwrap
		all = append(all,
			server{fmt.Sprintf("%05b", set), bare[set][0](plain), []*stub{plain}},
			server{fmt.Sprintf("%05b, controlled", set), bare[set][1](full), []*stub{full}},
			server{fmt.Sprintf("%05b, not supported", set), bare[set][1](cannot), []*stub{cannot}},
			server{fmt.Sprintf("%05b, hidden", set), over, []*stub{outer, inner}},
		)
	}
	return all
}

// unwrapper is a writer that unwraps to another writer.
type unwrapper struct {
	http.ResponseWriter
	below http.ResponseWriter
}

func (u unwrapper) Unwrap() http.ResponseWriter { return u.below }

// TestShaped checks that the handler's writer has exactly the abilities of the wrapped writer,
// also through two Writers.
func TestShaped(t *testing.T) {
	for _, s := range servers() {
		once := Make(s.w, &watch{})
		twice := Make(once.Shaped(), &watch{})
		for i, w := range []http.ResponseWriter{once.Shaped(), twice.Shaped()} {
			if got, want := abilities(w), abilities(s.w); got != want {
				t.Errorf("%s, %d: got abilities %05b, want %05b", s.name, i, got, want)
			}
			if _, ok := w.(controlled); !ok {
				t.Errorf("%s, %d: got %T, want the methods for http.ResponseController", s.name, i, w)
			}
			if _, ok := w.(interface{ Status() int }); ok {
				t.Errorf("%s, %d: handlers see more than the writer's abilities", s.name, i)
			}
		}
	}
	if len(shapes) != 1<<5 || len(bare) != len(shapes) {
		t.Errorf("got %d shapes, want one for each set of 5 abilities", len(shapes))
	}
}

// TestWriter_sameEffect does random operations with a writer and with a wrapped one: the
// results and effects are the same, and the watcher receives the status that the client sees.
func TestWriter_sameEffect(t *testing.T) {
	names := make([]string, 0, len(operations))
	for name := range operations {
		names = append(names, name)
	}
	slices.Sort(names)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		twins := servers()
		for i, bare := range servers() {
			wrapped, observed := twins[i], &watch{}
			w := Make(wrapped.w, observed)
			shaped := w.Shaped()
			var did []string
			for range 1 + random.IntN(6) {
				name := names[random.IntN(len(names))]
				did = append(did, name)
				if got, want := operations[name](shaped), operations[name](bare.w); got != want {
					t.Fatalf("%s: %q: got %v, want %v", bare.name, did, got, want)
				}
			}
			wantLog, status, hijacked := bare.seen()
			log, _, _ := wrapped.seen()
			if !slices.Equal(log, wantLog) {
				t.Errorf("%s: %q: got effects %q, want %q", bare.name, did, log, wantLog)
			}
			if w.Status() != status || w.Begun() != (status != 0 || hijacked) {
				t.Errorf("%s: %q: got status %d, begun %v, want %d", bare.name, did, w.Status(), w.Begun(), status)
			}
			if status != 0 && (len(observed.statuses) == 0 || observed.statuses[len(observed.statuses)-1] != status) {
				t.Errorf("%s: %q: the watcher received %v, want %d", bare.name, did, observed.statuses, status)
			}
			if observed.entered != 0 || observed.most > 1 {
				t.Errorf("%s: %q: got %d operations under way, at most %d, want none and 1", bare.name, did, observed.entered, observed.most)
			}
		}
	}
}

// TestWriter_status checks that the status is the client's, with operations that do not send
// headers.
func TestWriter_status(t *testing.T) {
	broken := struct{ io.Reader }{io.MultiReader(strings.NewReader(""), failing{})}
	tests := []struct {
		name   string
		do     func(w http.ResponseWriter)
		status int
	}{
		{"nothing", func(http.ResponseWriter) {}, 0},
		{"an informational response", func(w http.ResponseWriter) { w.WriteHeader(http.StatusEarlyHints) }, 0},
		{"a response that switches protocols", func(w http.ResponseWriter) { w.WriteHeader(http.StatusSwitchingProtocols) }, 101},
		{"two statuses", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusNotFound)
			w.WriteHeader(http.StatusInternalServerError)
		}, 404},
		{"an empty Write", func(w http.ResponseWriter) { _, _ = w.Write(nil); w.WriteHeader(http.StatusInternalServerError) }, 200},
		{"a copy that fails", func(w http.ResponseWriter) { _, _ = io.Copy(w, broken); w.WriteHeader(http.StatusBadGateway) }, 502},
		{"an invalid status", func(w http.ResponseWriter) {
			func() {
				defer func() { _ = recover() }()
				w.WriteHeader(0)
			}()
			w.WriteHeader(http.StatusInternalServerError)
		}, 500},
		{"a source that panics", func(w http.ResponseWriter) {
			func() {
				defer func() { _ = recover() }()
				_, _ = io.Copy(w, struct{ io.Reader }{panicking{}})
			}()
			w.WriteHeader(http.StatusInternalServerError)
		}, 500},
		{"a Hijack", func(w http.ResponseWriter) {
			_, _, _ = w.(http.Hijacker).Hijack()
			w.WriteHeader(http.StatusInternalServerError)
		}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			observed := &watch{}
			w := Make(&stub{header: http.Header{}}, observed)
			test.do(w.Shaped())
			if w.Status() != test.status || observed.entered != 0 {
				t.Errorf("got status %d, %d operations under way, want %d, none", w.Status(), observed.entered, test.status)
			}
			if want := test.status != 0; (len(observed.statuses) == 1) != want {
				t.Errorf("the watcher received %v, want one status: %v", observed.statuses, want)
			}
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errStub }

type panicking struct{}

func (panicking) Read([]byte) (int, error) { panic("no soup") }

// fileSink is a writer that records whether the kernel could send what it reads.
type fileSink struct {
	*stub
	file bool
}

func (s *fileSink) ReadFrom(src io.Reader) (int64, error) {
	s.file = s.file || isFile(src)
	return s.stub.ReadFrom(src)
}

// TestReadFrom checks that the wrapped writer receives files as they are, and that only its
// own time and errors count.
func TestReadFrom(t *testing.T) {
	name := filepath.Join(t.TempDir(), "soup")
	if err := os.WriteFile(name, []byte(strings.Repeat("soup ", 400)), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func() *os.File {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	pipe, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	_, _ = io.WriteString(in, "soup")
	_ = in.Close()
	tests := []struct {
		name string
		src  io.Reader
		n    int64
		file bool
		fail bool
	}{
		{"a file", open(), 2000, true, false},
		{"a part of a file", io.LimitReader(open(), 1000), 1000, true, false},
		{"a small part of a file", io.LimitReader(open(), 10), 10, false, false},
		{"nothing of a file", io.LimitReader(open(), 0), 0, false, false},
		{"a pipe", pipe, 4, false, false},
		{"a text", strings.NewReader("soup"), 4, false, false},
		{"a source that breaks", io.MultiReader(strings.NewReader("soup"), failing{}), 4, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			observed := &watch{}
			sink := &fileSink{stub: &stub{header: http.Header{}}}
			w := Make(sink, observed)
			n, err := w.Shaped().(io.ReaderFrom).ReadFrom(test.src)
			if n != test.n || observed.written != test.n || (err != nil) != test.fail || sink.file != test.file {
				t.Errorf("got %d bytes, observed %d, %v, a file %v, want %d, an error %v, a file %v",
					n, observed.written, err, sink.file, test.n, test.fail, test.file)
			}
			if observed.err != nil || observed.entered != 0 || w.Begun() != (test.n > 0) {
				t.Errorf("observed of %v, %d under way, begun %v", observed.err, observed.entered, w.Begun())
			}
		})
	}
}

// TestAllocations bounds the allocations of a Writer: one for the handler's writer.
func TestAllocations(t *testing.T) {
	observed := &watch{}
	w := Make(&stub{}, observed)
	if got := testing.AllocsPerRun(100, func() { _ = w.Shaped() }); got > 1 {
		t.Errorf("got %v allocations, want at most 1", got)
	}
	shaped := w.Shaped()
	w.begun = true
	s := w.wrapped.(*stub)
	text := []byte("soup")
	if got := testing.AllocsPerRun(100, func() { s.log = nil; _, _ = shaped.Write(text) }); got > 2 { // the stub's
		t.Errorf("Write: got %v allocations, want the wrapped writer's own", got)
	}
}
