package pillion_test

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// afterwards is what a server does after it has sent 1xx responses.
type afterwards struct {
	name   string
	http1  []step
	http2  func(f *framed) // nil if it does not exist in HTTP/2
	silent bool            // it runs in a bubble, where a limit on time cannot fire before the 1xx responses
	status int             // the status of the response; 0 for none
	local  int             // the status of the local reply without a response
	flags  envoy.Flags
	detail *envoy.Detail
	counts breaker.Status
}

func afterInformational() []afterwards {
	const ok, unavailable = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
	cut := afterwards{local: 503, flags: envoy.UC, detail: envoy.ConnectionTerminationAfter, counts: oneFailure}
	cutBy := func(name string, http2 func(f *framed), http1 ...step) afterwards {
		a := cut
		a.name, a.http1, a.http2 = name, http1, http2
		return a
	}
	malformed := func(name, text string) afterwards {
		return afterwards{name: name, http1: []step{say(text), fin}, local: 502, flags: envoy.UPE, detail: envoy.MalformedResponseAfter, counts: oneFailure}
	}
	return []afterwards{
		{name: "200", http1: []step{say(ok)}, http2: func(f *framed) { f.respond("200") }, status: 200, detail: envoy.ViaUpstream, counts: oneSuccess},
		{name: "503", http1: []step{say(unavailable)}, http2: func(f *framed) { f.respond("503") }, status: 503, detail: envoy.ViaUpstream, counts: oneFailure},
		cutBy("FIN", func(f *framed) { fin(f.peer) }, fin),
		cutBy("RST", func(f *framed) { reset(f.peer) }, reset),
		malformed("nonsense", "220 mail ESMTP\r\n\r\n"),
		malformed("a bad header", "HTTP/1.1 200 OK\r\nsoup\r\n\r\n"),
		{
			name: "RST_STREAM", http2: func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeInternal) },
			local: 503, flags: envoy.UR, detail: envoy.RemoteResetAfter, counts: oneFailure,
		},
		{
			name: "REFUSED_STREAM", http2: func(f *framed) { _ = f.WriteRSTStream(f.stream, http2.ErrCodeRefusedStream) },
			local: 503, flags: envoy.UR, detail: envoy.RemoteResetAfter, counts: oneFailure,
		},
		{
			name: "silence", http1: []step{untilClosed}, http2: func(*framed) {}, silent: true,
			local: 504, flags: envoy.UT, detail: envoy.PerTryTimeout, counts: oneTimeout,
		},
	}
}

// TestInformational sends 1xx responses first: as in Envoy, nothing is retried after them, whatever
// follows, and the call counts neither as a successful retry nor as one whose retries were used up.
func TestInformational(t *testing.T) {
	silenceLog(t)
	early := map[string][]string{"100": {"100"}, "102": {"102"}, "103": {"103"}, "several": {"100", "103", "103"}}
	for name, statuses := range early {
		for _, test := range afterInformational() {
			for _, version := range []string{"HTTP/1", "HTTP/2"} {
				if version == "HTTP/1" && test.http1 == nil || version == "HTTP/2" && test.http2 == nil {
					continue
				}
				for _, local := range []bool{false, true} {
					t.Run(strings.Join([]string{name, test.name, version, map[bool]string{true: "local replies", false: "errors"}[local]}, ", "), func(t *testing.T) {
						if test.silent {
							synctest.Test(t, func(t *testing.T) { test.check(t, version, statuses, local) })
							return
						}
						wantNoLeaks(t)
						test.check(t, version, statuses, local)
					})
				}
			}
		}
	}
}

// check makes a call to a server that sends statuses first.
func (a afterwards) check(t *testing.T, version string, statuses []string, local bool) {
	t.Helper()
	url, base := a.serve(t, version, statuses)
	l := newLedger(t)
	ctx, info := pillion.WithInfo(bounded(t))
	limits := timeout.Config{Total: patience}
	if a.silent {
		limits.PerTry = short
	}
	resp, err := l.upstream(t, pillion.Options{LocalReplies: local}, limits,
		retry.Config{On: "5xx,reset,connect-failure,refused-stream", NumRetries: 2, BaseInterval: time.Millisecond}).Transport(base).
		RoundTrip(newRequest(t, http.MethodGet, url, nil).WithContext(ctx))
	status := 0
	if err == nil {
		status = resp.StatusCode
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	want := a.status
	if local && want == 0 {
		want = a.local
	}
	if status != want || (err == nil) != (want != 0) {
		t.Errorf("got status %d, %v, want %d", status, err, want)
	}
	if info.Flags() != a.flags {
		t.Errorf("got flags %v, want %v", info.Flags(), a.flags)
	}
	if info.Detail() != a.detail {
		t.Errorf("got %v, want %v", info.Detail(), a.detail)
	}
	l.wantBalanced(t, 1, 1)
	for _, kind := range []policy.EventKind{policy.EventRetrySuccess, policy.EventRetryScheduled, policy.EventRetryLimitExceeded} {
		if n := l.count(kind); n != 0 {
			t.Errorf("%v: got %d, want none", kind, n)
		}
	}
	l.wantCounted(t, a.counts)
}

// serve starts a server that sends statuses first, and returns a transport to it.
func (a afterwards) serve(t *testing.T, version string, statuses []string) (url string, base http.RoundTripper) {
	t.Helper()
	if version == "HTTP/2" {
		serve := func(f *framed) {
			for _, status := range statuses {
				f.respond(status)
			}
			a.http2(f)
		}
		if a.silent {
			return pipes(t, unencryptedHTTP2(), part{frames(new(atomic.Int64), serve)})
		}
		url, base, _ = http2Bases()["h2c"].serve(t, serve)
		return url, base
	}
	steps := part{request}
	for _, status := range statuses {
		steps = append(steps, say("HTTP/1.1 "+status+" Early\r\nLink: </style.css>\r\n\r\n"))
	}
	steps = append(steps, a.http1...)
	transport := &http.Transport{}
	if a.silent {
		return pipes(t, transport, steps)
	}
	url = "http://" + serveScript(t, steps).addr() + "/"
	t.Cleanup(transport.CloseIdleConnections)
	return url, transport
}

// pipes makes transport connect to a server that plays steps.
func pipes(t *testing.T, transport *http.Transport, steps part) (url string, base http.RoundTripper) {
	t.Helper()
	transport.DialContext = dialScript(t, steps)
	t.Cleanup(transport.CloseIdleConnections)
	return "http://recipes.test/", transport
}

// TestInformational_endless sends 1xx responses without end: their size is limited like the headers
// of a response.
func TestInformational_endless(t *testing.T) {
	silenceLog(t)
	const early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
	for name, policies := range map[string][]pillion.Policy{
		"retries": {timeout.Config{Total: 3 * patience}, quick(2)}, "limits": {timeout.Config{Total: 3 * patience}}, "without policies": nil,
	} {
		t.Run(name, func(t *testing.T) {
			wantNoLeaks(t)
			base := &http.Transport{MaxResponseHeaderBytes: 64 << 10}
			defer base.CloseIdleConnections()
			l := newLedger(t)
			_, err := l.upstream(t, policies...).Transport(base).RoundTrip(newRequest(t, http.MethodGet, "http://"+serveScript(t, part{request, sayOn(early)}).addr()+"/", nil))
			if end := l.last(t); err == nil || !strings.Contains(err.Error(), "headers exceeded") || end.Flags != envoy.UPE {
				t.Errorf("got %v, %v, want UPE and headers that exceed the limit", end.Flags, err)
			}
			l.wantBalanced(t, 1, 1)
		})
	}
}

// TestInformational_callersHook accepts and refuses 1xx responses in the caller's own trace.
func TestInformational_callersHook(t *testing.T) {
	wantNoLeaks(t)
	const text = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, refuse := range []error{nil, errBroken} {
		base := &http.Transport{}
		l := newLedger(t)
		seen := 0
		ctx := httptrace.WithClientTrace(bounded(t), &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error {
			seen++
			return refuse
		}})
		resp, err := l.upstream(t, timeout.Config{Total: patience}, quick(2)).Transport(base).
			RoundTrip(newRequest(t, http.MethodGet, "http://"+serveScript(t, part{request, say(text)}).addr()+"/", nil).WithContext(ctx))
		if !strings.Contains(textOf(err), textOf(refuse)) || (err == nil) != (refuse == nil) || seen != 1 {
			t.Errorf("got %v after %d hooks, want %v after 1", err, seen, refuse)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		l.wantBalanced(t, 1, 1)
		base.CloseIdleConnections()
	}
}

func textOf(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
