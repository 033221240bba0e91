package pool_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/internal/testtime"
)

// realServer is a server on loopback. Its responses say what protocol was spoken.
func realServer(t *testing.T, kind string) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sni := ""
		if r.TLS != nil {
			sni = r.TLS.ServerName
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s host=%s sni=%s read=%d", r.Proto, r.Host, sni, n)
	}))
	s.Config.ErrorLog = quietLog()
	switch kind {
	case "h1":
		s.Start()
	case "h2c":
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	case "tls h1":
		s.StartTLS()
	case "tls h2":
		s.EnableHTTP2 = true
		s.StartTLS()
	case "tls h2, one stream":
		s.EnableHTTP2 = true
		s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1}
		s.StartTLS()
	}
	t.Cleanup(s.Close)
	return s
}

// realPool is a pool of connections to s. It is closed at the end of the test.
func realPool(t *testing.T, s *httptest.Server, template *pool.Template, change func(*pool.Config)) (*pool.Pool, *counts) {
	t.Helper()
	seen := new(counts)
	u, _ := url.Parse(s.URL)
	cfg := pool.Config{Template: template, Scheme: u.Scheme, Address: u.Host, Observer: seen}
	if change != nil {
		change(&cfg)
	}
	p := pool.New(cfg)
	t.Cleanup(func() { finished(t, p, seen) })
	return p, seen
}

// finished closes p and checks that nothing is left of it.
func finished(t *testing.T, p *pool.Pool, seen *counts) {
	t.Helper()
	p.Close()
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Errorf("got %+v 10s after Close, want nothing left", p.Stats())
	}
	checkBalanced(t, seen, newSlots(0, 0, 0))
}

// trusting is a transport that trusts s.
func trusting(s *httptest.Server) *http.Transport {
	t := &http.Transport{}
	if s.Certificate() != nil {
		roots := x509.NewCertPool()
		roots.AddCert(s.Certificate())
		t.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com"}
	}
	return t
}

// The protocol is the template's, whatever the transport spoke before, and however it
// came to speak it.
func TestTemplateProtocol(t *testing.T) {
	use := func(s *httptest.Server, base *http.Transport) {
		if resp, err := base.RoundTrip(httptest.NewRequest(http.MethodGet, s.URL, nil)); err == nil {
			finishBody(resp)
		}
		base.CloseIdleConnections()
	}
	prepare := map[string]func(s *httptest.Server, base *http.Transport){
		"new":     func(*httptest.Server, *http.Transport) {},
		"used":    use,
		"used h2": func(s *httptest.Server, base *http.Transport) { base.ForceAttemptHTTP2 = true; use(s, base) },
		"used h1": func(s *httptest.Server, base *http.Transport) {
			base.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
			use(s, base)
		},
		"protocols": func(s *httptest.Server, base *http.Transport) {
			base.Protocols = new(http.Protocols)
			base.Protocols.SetHTTP1(true)
			base.Protocols.SetHTTP2(true)
			use(s, base)
		},
		"x/net": func(s *httptest.Server, base *http.Transport) {
			http2.ConfigureTransport(base) //nolint:staticcheck // users still call it
			use(s, base)
		},
		"limits of its own": func(_ *httptest.Server, base *http.Transport) {
			base.MaxConnsPerHost, base.MaxIdleConnsPerHost, base.MaxIdleConns = 1, -1, 1
			base.IdleConnTimeout, base.TLSHandshakeTimeout = time.Nanosecond, time.Nanosecond
		},
	}
	tests := []struct {
		server   string
		protocol pool.Protocol
		want     string
	}{
		{"h1", pool.HTTP1, "HTTP/1.1"},
		{"h1", pool.Auto, "HTTP/1.1"},
		{"h2c", pool.HTTP2, "HTTP/2.0"},
		{"tls h1", pool.HTTP1, "HTTP/1.1"},
		{"tls h1", pool.Auto, "HTTP/1.1"},
		{"tls h2", pool.HTTP1, "HTTP/1.1"},
		{"tls h2", pool.HTTP2, "HTTP/2.0"},
		{"tls h2", pool.Auto, "HTTP/2.0"},
		{"tls h2, one stream", pool.Auto, "HTTP/2.0"},
	}
	for _, test := range tests {
		for name, change := range prepare {
			t.Run(fmt.Sprint(test.server, " as ", test.protocol, " ", name), func(t *testing.T) {
				s := realServer(t, test.server)
				base := trusting(s)
				change(s, base)
				p, seen := realPool(t, s, pool.NewTemplate(base, test.protocol), nil)
				for range 3 {
					if o := send(t.Context(), p, http.MethodGet, nil); !strings.HasPrefix(o.body, test.want) {
						t.Errorf("got %v, want %s", o, test.want)
					}
				}
				h1, h2 := seen.get(pool.CxHTTP1Total), seen.get(pool.CxHTTP2Total)
				if h1+h2 != 1 || (h2 == 1) != (test.want == "HTTP/2.0") {
					t.Errorf("got %d HTTP/1 and %d HTTP/2 connections, want one", h1, h2)
				}
			})
		}
	}
}

// The template's TLS names the server, also when the address is an IP address. The URL
// does not matter.
func TestTemplateServerName(t *testing.T) {
	s := realServer(t, "tls h2")
	p, _ := realPool(t, s, pool.NewTemplate(trusting(s), pool.Auto), nil)
	if o := send(t.Context(), p, http.MethodGet, nil); o.body != "HTTP/2.0 host=lab sni=example.com read=0" {
		t.Errorf("got %v", o)
	}
}

// The template is a copy: base stays as it is.
func TestTemplateCopies(t *testing.T) {
	base := &http.Transport{TLSClientConfig: &tls.Config{NextProtos: []string{"h2", "soup"}}, MaxConnsPerHost: 3}
	for _, protocol := range []pool.Protocol{pool.HTTP1, pool.HTTP2, pool.Auto} {
		got := pool.NewTemplate(base, protocol).Transport()
		if got == base || got.MaxConnsPerHost != 0 || !strings.Contains(strings.Join(got.TLSClientConfig.NextProtos, " "), "soup") {
			t.Errorf("%v: got %+v", protocol, got)
		}
	}
	if base.MaxConnsPerHost != 3 || len(base.TLSClientConfig.NextProtos) != 2 || base.DialContext != nil || base.Protocols != nil {
		t.Errorf("base was changed: %+v", base)
	}
	if pool.NewTemplate(nil, pool.HTTP1).Transport().Proxy == nil {
		t.Error("the default template has no proxy, want that of http.DefaultTransport")
	}
}

// DisableKeepAlives makes a connection for each request.
func TestTemplateWithoutKeepAlives(t *testing.T) {
	for _, kind := range []string{"tls h1", "tls h2"} {
		s := realServer(t, kind)
		base := trusting(s)
		base.DisableKeepAlives = true
		p, seen := realPool(t, s, pool.NewTemplate(base, pool.Auto), nil)
		for range 3 {
			if o := send(t.Context(), p, http.MethodGet, nil); o.status != http.StatusOK {
				t.Errorf("%s: got %v", kind, o)
			}
		}
		if got := seen.get(pool.CxTotal); got != 3 {
			t.Errorf("%s: got %d connections, want 3", kind, got)
		}
	}
}

// A server that does not choose HTTP/2 fails the connect, as a certificate does that is
// not trusted, or that is for another name.
func TestTLSFails(t *testing.T) {
	tests := map[string]struct {
		server   string
		protocol pool.Protocol
		change   func(*http.Transport)
		is       func(error) bool
	}{
		"no HTTP/2": {"tls h1", pool.HTTP2, func(*http.Transport) {}, func(err error) bool {
			var alert tls.AlertError // no application protocol
			return strings.Contains(err.Error(), "HTTP/2") || errors.As(err, &alert) || strings.Contains(err.Error(), "application protocol")
		}},
		"not trusted": {"tls h1", pool.HTTP1, func(t *http.Transport) { t.TLSClientConfig.RootCAs = x509.NewCertPool() }, func(err error) bool {
			var verify *tls.CertificateVerificationError
			return errors.As(err, &verify)
		}},
		"other name": {"tls h2", pool.Auto, func(t *http.Transport) { t.TLSClientConfig.ServerName = "soup.example" }, func(err error) bool {
			var name x509.HostnameError
			return errors.As(err, &name)
		}},
		"no TLS": {"h1", pool.Auto, func(*http.Transport) {}, func(err error) bool {
			var record tls.RecordHeaderError
			return errors.As(err, &record)
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := realServer(t, test.server)
			base := trusting(s)
			test.change(base)
			p, seen := realPool(t, s, pool.NewTemplate(base, test.protocol), func(cfg *pool.Config) { cfg.Scheme = "https" })
			o := send(t.Context(), p, http.MethodGet, nil)
			var failed *pool.ConnectError
			if !errors.As(o.err, &failed) || failed.Reason != pool.RemoteFailure || !failed.TLS || !test.is(o.err) {
				t.Errorf("got %#v, %v", o.err, o.err)
			}
			if seen.get(pool.CxConnectFail) != 1 || seen.get(pool.CxDestroyRemote) != 1 {
				t.Errorf("got %d failed connects, %d closed by the server, want 1 and 1", seen.get(pool.CxConnectFail), seen.get(pool.CxDestroyRemote))
			}
		})
	}
}

// The dial functions of old are called, too, and those that do their own TLS.
func TestTemplateDials(t *testing.T) {
	for _, kind := range []string{"h1", "tls h1", "tls h2"} {
		s := realServer(t, kind)
		config := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}}
		var calls atomic.Int32
		plain := func(network, address string) (net.Conn, error) { calls.Add(1); return net.Dial(network, address) }
		secure := func(network, address string) (net.Conn, error) {
			calls.Add(1)
			return tls.Dial(network, address, config)
		}
		bases := map[string]*http.Transport{
			"Dial":    {Dial: plain, TLSClientConfig: config},
			"DialTLS": {DialTLS: secure, Dial: plain},
			"DialTLSContext": {Dial: plain, DialTLSContext: func(_ context.Context, network, address string) (net.Conn, error) {
				return secure(network, address)
			}},
		}
		for name, base := range bases {
			t.Run(kind+" "+name, func(t *testing.T) {
				calls.Store(0)
				p, seen := realPool(t, s, pool.NewTemplate(base, pool.Auto), nil)
				for range 2 {
					if o := send(t.Context(), p, http.MethodGet, nil); o.status != http.StatusOK {
						t.Errorf("got %v", o)
					}
				}
				if calls.Load() != 1 || seen.get(pool.CxTotal) != 1 {
					t.Errorf("got %d calls for %d connections, want one", calls.Load(), seen.get(pool.CxTotal))
				}
				s.CloseClientConnections()
				testtime.Eventually(t, func() bool { return seen.get(pool.CxDestroyRemote) == 1 })
			})
		}
	}
}

// The template's proxy is used.
func TestTemplateProxy(t *testing.T) {
	s := realServer(t, "tls h2")
	var asked atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		from, in, _ := http.NewResponseController(w).Hijack()
		defer from.Close()
		io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			defer to.Close()
			io.Copy(to, in)
		}()
		io.Copy(from, to)
	}))
	defer proxy.Close()
	base := trusting(s)
	at, _ := url.Parse(proxy.URL)
	base.Proxy = http.ProxyURL(at)
	p, _ := realPool(t, s, pool.NewTemplate(base, pool.Auto), nil)
	if o := send(t.Context(), p, http.MethodGet, nil); !strings.HasPrefix(o.body, "HTTP/2.0") {
		t.Errorf("got %v", o)
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("the proxy was asked %d times, want once", got)
	}
}

// Bytes are counted, also those of a file that the kernel sends.
func TestBytes(t *testing.T) {
	name := t.TempDir() + "/soup"
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	s := realServer(t, "h1")
	p, seen := realPool(t, s, pool.NewTemplate(nil, pool.HTTP1), nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://lab/", file)
	req.ContentLength = 1 << 20
	if o := roundTrip(p, req); !strings.Contains(o.body, "read=1048576") {
		t.Errorf("got %v", o)
	}
	if got := seen.get(pool.CxTxBytes); got < 1<<20 || got > 1<<20+1000 {
		t.Errorf("got %d bytes sent, want a little more than 1 MiB", got)
	}
	if got := seen.get(pool.CxRxBytes); got < 50 || got > 1000 {
		t.Errorf("got %d bytes received", got)
	}
	if _, err := file.Read(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file: got %v, want it closed", err)
	}
}

// An address that refuses, with real sockets.
func TestRefusedAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p := pool.New(pool.Config{Address: l.Addr().String()})
	o := send(t.Context(), p, http.MethodGet, nil)
	var failed *pool.ConnectError
	if !errors.As(o.err, &failed) || failed.Reason != pool.RemoteFailure || failed.TLS {
		t.Errorf("got %v", o.err)
	}
	for _, want := range []string{"cluster: connect to ", "remote connection failure", "connection refused"} {
		if !strings.Contains(o.err.Error(), want) {
			t.Errorf("got %q, want it to contain %q", o.err, want)
		}
	}
}

// A request with Expect: 100-continue waits for the server's word before it sends its body.
func TestExpectContinue(t *testing.T) {
	s := realServer(t, "h1")
	base := trusting(s)
	base.ExpectContinueTimeout = time.Minute
	p, _ := realPool(t, s, pool.NewTemplate(base, pool.HTTP1), nil)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://lab/", bufio.NewReader(strings.NewReader("soup")))
	req.Header.Set("Expect", "100-continue")
	if o := roundTrip(p, req); !strings.Contains(o.body, "read=4") {
		t.Errorf("got %v", o)
	}
}
