package tracing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
)

// logs collects what is logged to slog.Default until the test ends.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func captureLogs(t *testing.T) *logs {
	t.Helper()
	l := &logs{}
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(l, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })
	return l
}

// recorder is a daemon that keeps the packets that it receives.
type recorder struct {
	mu      sync.Mutex
	packets [][]byte // guarded by mu
	fail    error    // the error of Write; guarded by mu
	dials   int      // guarded by mu
}

func (r *recorder) dial(context.Context, string) (io.WriteCloser, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials++
	return r, nil
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	r.packets = append(r.packets, bytes.Clone(p))
	return len(p), nil
}

func (*recorder) Close() error { return nil }

func (r *recorder) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

// sentDocument is a document as it was sent.
type sentDocument map[string]any

func (d sentDocument) str(path ...string) string {
	s, _ := d.at(path...).(string)
	return s
}

// at returns the value at a path, nil if there is none.
func (d sentDocument) at(path ...string) any {
	var v any = map[string]any(d)
	for _, key := range path {
		switch m := v.(type) {
		case map[string]any:
			v = m[key]
		case []any:
			if len(m) == 0 {
				return nil
			}
			v = m[0].(map[string]any)[key]
		default:
			return nil
		}
	}
	return v
}

// newTestTracer returns a tracer that sends to a recorder, and closes it when the test
// ends.
func newTestTracer(t *testing.T, c Config) (*Tracer, *recorder) {
	t.Helper()
	r := &recorder{}
	if c.Name == "" {
		c.Name = "test-app"
	}
	tracer, err := newTracer(c, r.dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tracer.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tracer, r
}

// documents flushes the tracer and returns the documents that were sent. It validates each
// against the schema.
func (r *recorder) documents(t *testing.T, tracer *Tracer) []sentDocument {
	t.Helper()
	if err := tracer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var docs []sentDocument
	for _, p := range r.packets {
		docs = append(docs, parsePacket(t, p))
	}
	return docs
}

// parsePacket validates a packet and returns its document.
func parsePacket(t *testing.T, p []byte) sentDocument {
	t.Helper()
	head, body, ok := bytes.Cut(p, []byte("\n"))
	if !ok || string(head) != `{"format": "json", "version": 1}` {
		t.Fatalf("got a packet that begins with %q, want the daemon's header", head)
	}
	if len(p) > maxPacket {
		t.Errorf("got a packet of %d bytes, want at most %d", len(p), maxPacket)
	}
	if body[len(body)-1] != '\n' || bytes.Count(body, []byte("\n")) != 1 {
		t.Errorf("got %d lines, want the document on one line", bytes.Count(body, []byte("\n")))
	}
	var d sentDocument
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatalf("got %q, which is not JSON: %v", body, err)
	}
	for _, problem := range schemaProblems(map[string]any(d)) {
		t.Errorf("the document is not valid: %s\n%s", problem, body)
	}
	return d
}

// names returns the names of the documents, in the order in which they were sent.
func names(docs []sentDocument) []string {
	var all []string
	for _, d := range docs {
		all = append(all, d.str("name"))
	}
	return all
}

// find returns the document with the given name.
func find(t *testing.T, docs []sentDocument, name string) sentDocument {
	t.Helper()
	for _, d := range docs {
		if d.str("name") == name {
			return d
		}
	}
	t.Fatalf("got %v, want a document named %s", names(docs), name)
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// respond returns a transport that returns a response with a status and a body.
func respond(status int, body string) roundTripper {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r,
			ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader([]byte(body))),
		}, nil
	}
}

func upstream(t *testing.T, policies ...policy.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func get(ctx context.Context, url string) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		panic(err)
	}
	return req
}

// read makes a call and reads its response.
func read(t *testing.T, rt http.RoundTripper, req *http.Request) (string, error) {
	t.Helper()
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

var errBroken = errors.New("broken")
