package health_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const degraded, immediate, cluster = "X-Envoy-Degraded", "X-Envoy-Immediate-Health-Check-Fail", "X-Envoy-Upstream-Healthchecked-Cluster"
	statuses := health.HTTPConfig{
		ExpectedStatuses:  []health.StatusRange{{Start: 200, End: 300}, {Start: 404, End: 405}},
		RetriableStatuses: []health.StatusRange{{Start: 200, End: 203}, {Start: 500, End: 504}},
	}
	named := health.HTTPConfig{ServiceName: func(name string) bool { return strings.HasPrefix(name, "soup") }}
	body := health.HTTPConfig{Receive: [][]byte{[]byte("ok"), []byte("!")}, RetriableStatuses: []health.StatusRange{{Start: 500, End: 504}}}
	for name, test := range map[string]struct {
		config health.HTTPConfig
		status int
		header http.Header
		body   string
		want   health.Verdict
	}{
		"200":                        {health.HTTPConfig{}, 200, nil, "", health.Verdict{Result: health.Passed, Code: 200}},
		"204 is not 200":             {health.HTTPConfig{}, 204, nil, "", health.Verdict{Code: 204}},
		"503":                        {health.HTTPConfig{}, 503, nil, "", health.Verdict{Code: 503}},
		"start of a range":           {statuses, 200, nil, "", health.Verdict{Result: health.Passed, Code: 200}},
		"last of a range":            {statuses, 299, nil, "", health.Verdict{Result: health.Passed, Code: 299}},
		"end of a range":             {statuses, 300, nil, "", health.Verdict{Code: 300}},
		"a second range":             {statuses, 404, nil, "", health.Verdict{Result: health.Passed, Code: 404}},
		"retriable":                  {statuses, 503, nil, "", health.Verdict{Code: 503, Retriable: true}},
		"end of the retriable":       {statuses, 504, nil, "", health.Verdict{Code: 504}},
		"degraded, even if empty":    {health.HTTPConfig{}, 200, http.Header{degraded: {""}}, "", health.Verdict{Result: health.PassedDegraded, Code: 200}},
		"degraded matters on a pass": {health.HTTPConfig{}, 500, http.Header{degraded: {""}}, "", health.Verdict{Code: 500}},
		"immediate":                  {health.HTTPConfig{}, 503, http.Header{immediate: {"true"}}, "", health.Verdict{Code: 503, Exclude: true}},
		"immediate on a pass":        {health.HTTPConfig{}, 200, http.Header{immediate: {"true"}}, "", health.Verdict{Result: health.Passed, Code: 200}},
		"immediate and retriable":    {statuses, 500, http.Header{immediate: {"true"}}, "", health.Verdict{Code: 500, Exclude: true, Retriable: true}},
		"the right service":          {named, 200, http.Header{cluster: {"soup-v1"}}, "", health.Verdict{Result: health.Passed, Code: 200, Verified: true}},
		"a degraded service":         {named, 200, http.Header{cluster: {"soup"}, degraded: {"1"}}, "", health.Verdict{Result: health.PassedDegraded, Code: 200, Verified: true}},
		"another service":            {named, 200, http.Header{cluster: {"salad"}}, "", health.Verdict{Code: 200, Verified: true}},
		"no service":                 {named, 200, nil, "", health.Verdict{Code: 200, Verified: true}},
		"the status comes first":     {named, 503, http.Header{cluster: {"soup"}}, "", health.Verdict{Code: 503}},
		"the right body":             {body, 200, nil, "it is ok, so!", health.Verdict{Result: health.Passed, Code: 200}},
		"another body":               {body, 200, nil, "! ok", health.Verdict{Code: 200}},
		"another body, immediate":    {body, 200, http.Header{immediate: {"true"}}, "no", health.Verdict{Code: 200, Exclude: true}},
		"another body, retriable":    {body, 500, nil, "no", health.Verdict{Code: 500}},
		"right body, retriable":      {body, 500, nil, "ok!", health.Verdict{Code: 500, Retriable: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := test.config.Judge(test.status, test.header, []byte(test.body))
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(health.Verdict{}, "Err")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if (got.Err != nil) != (got.Result == health.Failed) {
				t.Errorf("got result %v with error %v, want an error for each failure", got.Result, got.Err)
			}
		})
	}
}

func TestHTTPCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config health.HTTPConfig
		want   string
	}{
		"good":          {health.HTTPConfig{Path: "/healthz?full=1"}, ""},
		"no path":       {health.HTTPConfig{}, "health: HTTPConfig.Path: parse"},
		"no slash":      {health.HTTPConfig{Path: "http://x/"}, `health: HTTPConfig.Path: "http://x/" does not start with a slash; write a path such as /healthz`},
		"bad escape":    {health.HTTPConfig{Path: "/%zz"}, "health: HTTPConfig.Path: "},
		"connect":       {health.HTTPConfig{Path: "/", Method: "CONNECT"}, `health: HTTPConfig.Method: "CONNECT" is unknown; use GET, HEAD, DELETE, TRACE, POST, PUT, PATCH, OPTIONS`},
		"lower case":    {health.HTTPConfig{Path: "/", Method: "get"}, `health: HTTPConfig.Method: "get" is unknown`},
		"body with GET": {health.HTTPConfig{Path: "/", Send: []byte("x")}, "health: HTTPConfig.Send: method GET has no body; use POST, PUT, PATCH, OPTIONS"},
		"body":          {health.HTTPConfig{Path: "/", Method: "POST", Send: []byte("x")}, ""},
		"empty range":   {health.HTTPConfig{Path: "/", ExpectedStatuses: []health.StatusRange{{Start: 200, End: 200}}}, "health: HTTPConfig.ExpectedStatuses[0]: {200, 200} is not a range; write 100 <= Start < End <= 600"},
		"low range":     {health.HTTPConfig{Path: "/", RetriableStatuses: []health.StatusRange{{Start: 99, End: 200}}}, "health: HTTPConfig.RetriableStatuses[0]: {99, 200}"},
		"high range":    {health.HTTPConfig{Path: "/", RetriableStatuses: []health.StatusRange{{Start: 500, End: 600}, {Start: 500, End: 601}}}, "health: HTTPConfig.RetriableStatuses[1]: {500, 601}"},
		"whole range":   {health.HTTPConfig{Path: "/", ExpectedStatuses: []health.StatusRange{{Start: 100, End: 600}}}, ""},
		"empty segment": {health.HTTPConfig{Path: "/", Receive: [][]byte{{}}}, "health: HTTPConfig.Receive[0]: the segment is empty; remove it"},
		"small buffer":  {health.HTTPConfig{Path: "/", Receive: [][]byte{[]byte("abc"), []byte("d")}, ResponseBufferSize: 3}, "health: HTTPConfig.Receive: 4 bytes are more than ResponseBufferSize, 3"},
		"no buffer":     {health.HTTPConfig{Path: "/", Receive: [][]byte{make([]byte, 2000)}, ResponseBufferSize: -1}, ""},
		"long payload":  {health.HTTPConfig{Path: "/", Receive: [][]byte{make([]byte, 1025)}}, "health: HTTPConfig.Receive: 1025 bytes are more than ResponseBufferSize, 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := health.NewHTTPProber(test.config, http.DefaultTransport, "http", "x")
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestHTTPAddress(t *testing.T) {
	t.Parallel()
	if _, err := health.NewHTTPProber(health.HTTPConfig{Path: "/"}, http.DefaultTransport, "http", "a b"); err == nil {
		t.Error("an address with a space: got nil, want an error")
	}
}

// roundTripper makes a transport of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestHTTPRequest: what is sent, twice, and as configured.
func TestHTTPRequest(t *testing.T) {
	t.Parallel()
	var got []string
	transport := roundTripper(func(r *http.Request) (*http.Response, error) {
		body := ""
		if r.Body != nil {
			data, _ := io.ReadAll(r.Body)
			body = string(data)
		}
		var b strings.Builder
		_ = r.Header.Write(&b)
		got = append(got, strings.Join([]string{r.Method, r.URL.String(), r.Host, strings.ReplaceAll(b.String(), "\r\n", ";"), body}, " "))
		r.Header.Set("X-Changed", "by the transport")
		return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
	})
	for _, test := range []struct {
		config health.HTTPConfig
		want   string
	}{
		{health.HTTPConfig{Path: "/healthz?full=1&x=%2f"}, "GET http://10.0.0.1:80/healthz?full=1&x=%2f  User-Agent: Envoy/HC; "},
		{health.HTTPConfig{Path: "/a%2fb", Host: "soup.example"}, "GET http://10.0.0.1:80/a%2fb soup.example User-Agent: Envoy/HC; "},
		{
			health.HTTPConfig{Path: "/", Method: "POST", Send: []byte("ping"), Header: http.Header{"x-a": {"1", "2"}, "user-agent": {"me"}}},
			"POST http://10.0.0.1:80/  User-Agent: me;X-A: 1;X-A: 2; ping",
		},
		{
			health.HTTPConfig{Path: "/", Header: http.Header{"X-A": {"1"}}, RemoveHeaders: []string{"user-agent", "x-a"}},
			"GET http://10.0.0.1:80/  User-Agent: ; ",
		},
	} {
		got = nil
		p, err := health.NewHTTPProber(test.config, transport, "http", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if v := p.Probe(t.Context()); v.Result != health.Passed {
				t.Errorf("%+v: got %+v, want passed", test.config, v)
			}
		}
		if diff := cmp.Diff([]string{test.want, test.want}, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", test.config, diff)
		}
		p.Close()
	}
}

// TestHTTPServer probes a real server.
func TestHTTPServer(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/break":
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "ok")
			panic(http.ErrAbortHandler)
		case "/hang":
			_, _ = io.WriteString(w, "ok")
			_ = http.NewResponseController(w).Flush()
			<-release
		case "/redirect":
			http.Redirect(w, r, "/", http.StatusFound)
		default:
			_, _ = io.WriteString(w, "it is ok, and more "+strings.Repeat("x", 3000)+"END")
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	gone := httptest.NewServer(nil)
	gone.Close()
	for name, test := range map[string]struct {
		config  health.HTTPConfig
		address string
		want    health.Verdict
	}{
		"passed":           {health.HTTPConfig{Path: "/"}, server.Listener.Addr().String(), health.Verdict{Result: health.Passed, Code: 200}},
		"redirect":         {health.HTTPConfig{Path: "/redirect"}, server.Listener.Addr().String(), health.Verdict{Code: 302}},
		"refused":          {health.HTTPConfig{Path: "/"}, gone.Listener.Addr().String(), health.Verdict{Failure: health.Network}},
		"broken off":       {health.HTTPConfig{Path: "/break"}, server.Listener.Addr().String(), health.Verdict{Failure: health.Network}},
		"hanging":          {health.HTTPConfig{Path: "/hang"}, server.Listener.Addr().String(), health.Verdict{Failure: health.NetworkTimeout}},
		"body":             {health.HTTPConfig{Path: "/", Receive: [][]byte{[]byte("ok")}}, server.Listener.Addr().String(), health.Verdict{Result: health.Passed, Code: 200}},
		"body over buffer": {health.HTTPConfig{Path: "/", Receive: [][]byte{[]byte("END")}}, server.Listener.Addr().String(), health.Verdict{Code: 200}},
		"body, no buffer":  {health.HTTPConfig{Path: "/", Receive: [][]byte{[]byte("END")}, ResponseBufferSize: -1}, server.Listener.Addr().String(), health.Verdict{Result: health.Passed, Code: 200}},
		"body hanging":     {health.HTTPConfig{Path: "/hang", Receive: [][]byte{[]byte("ok")}}, server.Listener.Addr().String(), health.Verdict{Failure: health.NetworkTimeout}},
		"body broken off":  {health.HTTPConfig{Path: "/break", Receive: [][]byte{[]byte("ok")}}, server.Listener.Addr().String(), health.Verdict{Failure: health.Network}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := health.NewHTTPProber(test.config, &http.Transport{}, "http", test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			limit := 10 * time.Second
			if test.want.Failure == health.NetworkTimeout {
				limit = 50 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if diff := cmp.Diff(test.want, p.Probe(ctx), cmpopts.IgnoreFields(health.Verdict{}, "Err")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestHTTPReuse: connections are kept between checks, unless CloseConnections says otherwise.
func TestHTTPReuse(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", 5000))
	}))
	defer server.Close()
	for closing, want := range map[bool]int{false: 1, true: 3} {
		c := health.HTTPConfig{Path: "/", CloseConnections: closing}
		p, err := health.NewHTTPProber(c, &http.Transport{}, "http", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		connections := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
			if !info.Reused {
				connections++
			}
		}})
		for range 3 {
			if v := p.Probe(ctx); v.Result != health.Passed {
				t.Errorf("got %+v, want passed", v)
			}
		}
		p.Close()
		if connections != want {
			t.Errorf("CloseConnections %v: got %d connections for 3 checks, want %d", closing, connections, want)
		}
	}
}

// reply is a gRPC client that replies the same always.
type reply struct {
	health.GRPCReply
	wait    bool
	service string
	closed  bool
}

func (r *reply) Check(ctx context.Context, service string) health.GRPCReply {
	r.service = service
	if r.wait {
		<-ctx.Done()
	}
	return r.GRPCReply
}

func (r *reply) Close() { r.closed = true }

func TestGRPC(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		reply health.GRPCReply
		wait  bool
		want  health.Verdict
	}{
		"serving":         {health.GRPCReply{Status: health.Serving}, false, health.Verdict{Result: health.Passed}},
		"not serving":     {health.GRPCReply{Status: health.NotServing}, false, health.Verdict{}},
		"unknown":         {health.GRPCReply{}, false, health.Verdict{}},
		"service unknown": {health.GRPCReply{Status: health.ServingServiceUnknown}, false, health.Verdict{}},
		"future status":   {health.GRPCReply{Status: 17}, false, health.Verdict{}},
		"unimplemented":   {health.GRPCReply{Code: 12}, false, health.Verdict{}},
		"not found":       {health.GRPCReply{Code: 5, Err: errors.New("not found")}, false, health.Verdict{}},
		"odd reply":       {health.GRPCReply{Code: 14, Status: health.Serving}, false, health.Verdict{}},
		"network":         {health.GRPCReply{Network: true, Err: net.ErrClosed}, false, health.Verdict{Failure: health.Network}},
		"timeout":         {health.GRPCReply{Code: 4, Err: context.DeadlineExceeded}, true, health.Verdict{Failure: health.NetworkTimeout}},
		"timeout, reset":  {health.GRPCReply{Network: true}, true, health.Verdict{Failure: health.NetworkTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client := &reply{GRPCReply: test.reply, wait: test.wait}
				p := health.NewGRPCProber("soup.v1.Soup", client)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				got := p.Probe(ctx)
				if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(health.Verdict{}, "Err")); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if got.Result == health.Failed && got.Err == nil && !test.reply.Network {
					t.Error("got no cause, want one")
				}
				if p.Close(); client.service != "soup.v1.Soup" || !client.closed {
					t.Errorf("got %+v, want the service and a closed client", client)
				}
			})
		})
	}
}
