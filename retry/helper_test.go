package retry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire takes the role of the network. It returns its responses in order, and repeats the last.
type wire struct {
	answers []answer

	mu     sync.Mutex
	sent   []sent // guarded by mu
	open   int    // response bodies not closed yet; guarded by mu
	served int    // response bodies returned; guarded by mu
	read   int    // bytes read from them; guarded by mu
}

// sent is a request that reached the wire.
type sent struct {
	After time.Duration // since the first request
	Body  string
	at    time.Time
}

// answer returns a response or an error.
type answer func(*http.Request) (*http.Response, error)

// informational sends a 1xx response before that of next.
func informational(next answer) answer {
	return func(req *http.Request) (*http.Response, error) {
		if err := httptrace.ContextClientTrace(req.Context()).Got1xxResponse(http.StatusEarlyHints, nil); err != nil {
			return nil, err
		}
		return next(req)
	}
}

func answers(list ...answer) *wire { return &wire{answers: list} }

// RoundTrip reads the request's body, as a server would, and responds.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	s := sent{at: time.Now()}
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		_ = req.Body.Close()
		if err != nil {
			return nil, err
		}
		s.Body = string(body)
	}
	w.mu.Lock()
	if len(w.sent) > 0 {
		s.After = s.at.Sub(w.sent[0].at)
	}
	w.sent = append(w.sent, s)
	next := w.answers[min(len(w.sent), len(w.answers))-1]
	w.mu.Unlock()
	resp, err := next(req)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.open++
		w.served++
		resp.Body = &watchedBody{ReadCloser: resp.Body, wire: w}
	}
	return resp, err
}

// times returns when each attempt reached the wire, relative to the first.
func (w *wire) times() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []time.Duration
	for _, s := range w.sent {
		list = append(list, s.After)
	}
	return list
}

// bodies returns the request bodies that reached the wire.
func (w *wire) bodies() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, s := range w.sent {
		list = append(list, s.Body)
	}
	return list
}

// attempts returns the number of requests that reached the wire.
func (w *wire) attempts() int { return len(w.bodies()) }

// watchedBody is a response body that counts its reads and its Close in the wire.
type watchedBody struct {
	io.ReadCloser
	wire *wire
	once sync.Once
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.wire.mu.Lock()
	defer b.wire.mu.Unlock()
	b.wire.read += n
	return n, err
}

func (b *watchedBody) Close() error {
	b.once.Do(func() {
		b.wire.mu.Lock()
		defer b.wire.mu.Unlock()
		b.wire.open--
	})
	return b.ReadCloser.Close()
}

// status responds with code, the header as pairs of name and value, and a body that contains the
// code.
func status(code int, header ...string) answer {
	return func(req *http.Request) (*http.Response, error) {
		text := fmt.Sprintf("response %d", code)
		resp := &http.Response{
			StatusCode: code, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: req,
			Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
		}
		for i := 0; i < len(header); i += 2 {
			resp.Header.Add(header[i], header[i+1])
		}
		return resp, nil
	}
}

// failure returns an error.
func failure(err error) answer {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// silence waits until the attempt's context ends.
func silence(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// later responds after a delay.
func later(d time.Duration, next answer) answer {
	return func(req *http.Request) (*http.Response, error) {
		select {
		case <-time.After(d):
			return next(req)
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
}

// upstream makes an upstream with the name recipes.
func upstream(t *testing.T, policies ...policy.Policy) *pillion.Upstream {
	t.Helper()
	u, err := pillion.New("recipes", policies...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// result is the result of a call whose body was read.
type result struct {
	code     int
	body     string
	err      error
	attempts int
	flags    envoy.Flags
	detail   *envoy.Detail
	elapsed  time.Duration
}

// call makes one call, and reads and closes the body of its response.
func call(t *testing.T, u *pillion.Upstream, base http.RoundTripper, req *http.Request) result {
	t.Helper()
	ctx, info := pillion.WithInfo(req.Context())
	began := time.Now()
	resp, err := u.Transport(base).RoundTrip(req.WithContext(ctx))
	r := result{err: err}
	if err == nil {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Errorf("reading the response body: %v", err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Errorf("closing the response body: %v", err)
		}
		r.code, r.body = resp.StatusCode, string(body)
	}
	if !info.Done() {
		t.Error("the call has not ended")
	}
	r.attempts, r.flags, r.detail, r.elapsed = info.Attempts(), info.Flags(), info.Detail(), time.Since(began)
	return r
}

// get returns a request without a body.
func get(ctx context.Context) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/1", nil)
	if err != nil {
		panic(err)
	}
	return req
}

// post returns a request with a body. It has a GetBody if net/http can copy the body.
func post(ctx context.Context, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://recipes/", body)
	if err != nil {
		panic(err)
	}
	return req
}

// diary is a Listener that records events.
type diary struct {
	mu     sync.Mutex
	events []string           // guarded by mu
	kinds  []policy.EventKind // guarded by mu
}

// listen records the event, the number of its attempt, and its back-off.
func (d *diary) listen(_ context.Context, e policy.Event) {
	line := fmt.Sprintf("%d %v", e.Call.Attempt(), e.Kind)
	if e.Kind == policy.EventRetryScheduled || e.Kind == policy.EventRetry {
		line += fmt.Sprintf(" %v", e.BackOff.Wait)
		if e.BackOff.RateLimited {
			line += " as asked for"
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.events, d.kinds = append(d.events, line), append(d.kinds, e.Kind)
}

// lines returns the events recorded so far.
func (d *diary) lines() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.events)
}

// has reports whether an event of the kind was recorded.
func (d *diary) has(kind policy.EventKind) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.kinds, kind)
}

// always returns a Rand that always returns the same number.
func always(f float64) func() float64 { return func() float64 { return f } }

// errBroken is an error that the library does not recognize.
var errBroken = errors.New("broken")
