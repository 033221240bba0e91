package e2e

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/internal/envoytest"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// thrice is the retry policy of a sidecar's route that makes three attempts.
const thrice = "retry_policy: {retry_on: \"5xx,reset,connect-failure\", num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s}}"

// TestSidecar_attempts sends calls through the library and a sidecar, which both make three
// attempts. With Options.Sidecar there are three in total. Without it there are nine, and
// also if the sidecar does not trust the caller.
func TestSidecar_attempts(t *testing.T) {
	binary := envoytest.Binary(t)
	ours := retry.Config{On: "5xx,reset,connect-failure", NumRetries: 2, BaseInterval: time.Millisecond}
	tests := []struct {
		name     string
		trusting bool
		policies []pillion.Policy
		attempts int   // attempts of the library
		upstream int64 // requests that the upstream receives
	}{
		{"both retry", true, []pillion.Policy{ours}, 3, 9},
		{"only the library retries", true, []pillion.Policy{ours, pillion.Options{Sidecar: true}}, 3, 3},
		{"only the sidecar retries", true, nil, 1, 3},
		{"neither retries", true, []pillion.Policy{pillion.Options{Sidecar: true}}, 1, 1},
		{"a sidecar that does not trust the caller", false, []pillion.Policy{ours, pillion.Options{Sidecar: true}}, 3, 9},
	}
	scenarios := failing(t)
	sidecars := map[bool]*sidecar{}
	for _, trusting := range []bool{true, false} {
		sidecars[trusting] = startEnvoyThat(t, binary, scenarios, trusting)
	}
	for _, s := range scenarios {
		for _, test := range tests {
			t.Run(s.name+"/"+test.name, func(t *testing.T) {
				before := s.seenUpstream()
				client, base := behind(t, test.policies...)
				defer base.CloseIdleConnections()
				ctx, info := pillion.WithInfo(t.Context())
				seen := get(ctx, t, client, http.MethodGet, sidecars[test.trusting].egress+"/"+s.ID+"/")
				if info.Attempts() != test.attempts || seen.Status < 500 {
					t.Errorf("got %d after %d attempts, want a failure after %d", seen.Status, info.Attempts(), test.attempts)
				}
				if got := s.seenUpstream() - before; got != test.upstream {
					t.Errorf("the upstream received %d requests, want %d", got, test.upstream)
				}
			})
		}
	}
}

// failing starts upstreams that fail in different ways, behind routes with three attempts.
func failing(t *testing.T) (scenarios []*scenario) {
	t.Helper()
	scenarios = []*scenario{
		{name: "503", play: afterRequest(say("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\nno\n"))},
		{name: "closed", play: afterRequest(fin)},
		{name: "reset", play: afterRequest(reset)},
		{name: "garbage", play: afterRequest(say("\x00\x01 what is this\r\n\r\n"), fin)},
	}
	for i, s := range scenarios {
		s.Route = thrice
		s.start(t, "s"+strconv.Itoa(i))
	}
	return scenarios
}

// behind returns a client whose calls go through the library to a sidecar.
func behind(t *testing.T, policies ...pillion.Policy) (*http.Client, *http.Transport) {
	t.Helper()
	u, err := pillion.New("upstream", policies...)
	if err != nil {
		t.Fatal(err)
	}
	base := &http.Transport{}
	return &http.Client{Transport: u.Transport(base)}, base
}

// TestSidecar_deadline has an upstream that never responds. With Options.Sidecar the
// sidecar ends the call by itself when the library's timeout fires, and announces the
// timeout to the upstream.
func TestSidecar_deadline(t *testing.T) {
	binary := envoytest.Binary(t)
	const limit = 150 * time.Millisecond
	var expected atomic.Pointer[string]
	s := &scenario{name: "hang", play: func(_ *scripted, conn net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			value := r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms")
			expected.Store(&value)
		}
	}}
	s.start(t, "hang")
	envoy := startEnvoyThat(t, binary, []*scenario{s}, true)
	tests := []struct {
		name   string
		limits timeout.Config
	}{
		{"total", timeout.Config{Total: limit}},
		{"per-try", timeout.Config{PerTry: limit}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			waiting := &waitingBase{base: callID{base, test.name}}
			u, err := pillion.New("upstream", test.limits, pillion.Options{Sidecar: true})
			if err != nil {
				t.Fatal(err)
			}
			seen := get(t.Context(), t, &http.Client{Transport: u.Transport(waiting)}, http.MethodGet, envoy.egress+"/hang/")
			// Both timeouts fire at the same time: the caller receives the library's error
			// or the sidecar's response.
			if seen.Status != 0 && seen.Status != http.StatusGatewayTimeout {
				t.Errorf("got %d, want the library's timeout, or 504", seen.Status)
			}
			if waiting.status != http.StatusGatewayTimeout || waiting.body != "upstream request timeout" {
				t.Errorf("the sidecar: got %d %q, want 504", waiting.status, waiting.body)
			}
			if waiting.asked != "150" {
				t.Errorf("X-Envoy-Upstream-Rq-Timeout-Ms: got %q, want 150", waiting.asked)
			}
			if got := waiting.took; got < limit*9/10 || got > limit+waitLimit/10 { // Envoy's clock is coarse
				t.Errorf("the sidecar gave up after %v, want %v", got, limit)
			}
			if fields := envoy.logged(t, test.name); fields[0] != "UT" || fields[2] != "response_timeout" {
				t.Errorf("the sidecar logged %q, want UT and response_timeout", fields)
			}
			if got := expected.Load(); got == nil || *got != "150" {
				t.Errorf("the upstream received a timeout of %v, want 150", got)
			}
		})
	}
}

// waitingBase waits for the sidecar's response where the library would have canceled the
// request, and records the response.
type waitingBase struct {
	base   http.RoundTripper
	asked  string
	status int
	body   string
	took   time.Duration
}

func (p *waitingBase) RoundTrip(req *http.Request) (*http.Response, error) {
	p.asked = req.Header.Get("X-Envoy-Upstream-Rq-Timeout-Ms")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(req.Context()), waitLimit)
	defer cancel()
	began := time.Now()
	resp, err := p.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	p.status, p.body, p.took = resp.StatusCode, string(body), time.Since(began)
	resp.Body = http.NoBody
	return resp, err
}

// TestSidecar_libraryTimeout gives the sidecar the longer timeout. The library's timeout
// fires, and the requests to the sidecar and to the upstream are canceled.
func TestSidecar_libraryTimeout(t *testing.T) {
	binary := envoytest.Binary(t)
	closed := make(chan struct{})
	s := &scenario{name: "hang", play: func(_ *scripted, conn net.Conn) {
		requests := bufio.NewReader(conn)
		if _, err := http.ReadRequest(requests); err != nil {
			return
		}
		_, _ = requests.ReadByte() // until the sidecar closes
		close(closed)
	}}
	s.start(t, "hang")
	envoy := startEnvoy(t, binary, []*scenario{s})
	client, base := behind(t, timeout.Config{Total: 50 * time.Millisecond})
	defer base.CloseIdleConnections()
	began := time.Now()
	if seen := get(t.Context(), t, client, http.MethodGet, envoy.egress+"/hang/"); seen.Status != 0 {
		t.Errorf("got %d, want the library's timeout", seen.Status)
	}
	wantSoon(t, closed, "the sidecar's connection to the upstream")
	if took := time.Since(began); took > waitLimit/2 {
		t.Errorf("the request to the upstream was canceled after %v, want soon after the library's timeout", took)
	}
}
