package cluster_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
)

// TestTLS pins the verification and the protocol of each configuration.
func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto+" "+r.TLS.ServerName) }))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := cluster.PEM{Inline: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))}
	tests := []struct {
		name     string
		protocol cluster.Protocol
		tls      cluster.TLS
		want     string // "" for a failed connect
	}{
		{"HTTP/1", cluster.HTTP1, cluster.TLS{CA: ca, SNI: "recipes.internal", SANs: []cluster.SANMatcher{{Type: cluster.DNSSAN, Exact: "example.com"}}}, "HTTP/1.1 recipes.internal"},
		{"HTTP/2", cluster.HTTP2, cluster.TLS{CA: ca, SANs: []cluster.SANMatcher{{Type: cluster.IPSAN, Exact: "127.0.0.1"}}}, "HTTP/2.0 "},
		{"the server's choice", cluster.Auto, cluster.TLS{CA: ca}, "HTTP/2.0 "},
		{"nothing verified", cluster.HTTP1, cluster.TLS{}, "HTTP/1.1 "},
		{"another name", cluster.HTTP1, cluster.TLS{CA: ca, SANs: []cluster.SANMatcher{cluster.SPIFFE("spiffe://mesh/ns/recipes")}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := made(t, cluster.Config{Endpoints: cluster.Addresses(strings.TrimPrefix(s.URL, "https://")), Protocol: test.protocol, TLS: &test.tls})
			stat := stats{}
			got, err := get(t, upstream(t, stat, c))
			if test.want == "" {
				var verification *tls.CertificateVerificationError
				var failed *pillion.UpstreamError
				if !errors.As(err, &verification) || !errors.As(err, &failed) || failed.Flags.String() != "UF" || stat["ssl.fail_verify_san"]() != 1 {
					t.Errorf("got %v, want a refused certificate, counted, with UF", err)
				}
				return
			}
			if err != nil || got != test.want || stat["ssl.handshake"]() != 1 {
				t.Errorf("got %q, %v, want %q after one handshake", got, err, test.want)
			}
		})
	}
}

// TestTLS_connectionError counts handshakes that fail in TLS itself: with a server that does not use
// TLS, and with a server that supports no common version.
func TestTLS_connectionError(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS12}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	t.Cleanup(old.Close)
	for _, address := range []string{plain.Listener.Addr().String(), old.Listener.Addr().String()} {
		stat := stats{}
		c := made(t, cluster.Config{Endpoints: cluster.Addresses(address), TLS: &cluster.TLS{MinVersion: tls.VersionTLS13}})
		if got, err := get(t, upstream(t, stat, c)); err == nil {
			t.Errorf("got %q, want a failed handshake", got)
		}
		if got := stat["ssl.connection_error"](); got != 1 || stat["ssl.handshake"]() != 0 {
			t.Errorf("got %d errors and %d handshakes, want 1 and 0", got, stat["ssl.handshake"]())
		}
	}
}

// TestSuspicious reports settings that are probably not intended.
func TestSuspicious(t *testing.T) {
	c := made(t, cluster.Config{Endpoints: cluster.Addresses("127.0.0.1:1"), TLS: &cluster.TLS{}, Outlier: &cluster.Outlier{}})
	if got := strings.Join(c.Suspicious(), "\n"); !strings.Contains(got, "no host can be ejected") || strings.Count(got, "\n") == 0 {
		t.Errorf("got %q, want sentences about the certificates and the ejections", got)
	}
	c = made(t, cluster.Config{Endpoints: cluster.Addresses("127.0.0.1:1"), Outlier: &cluster.Outlier{AlwaysEjectOneHost: true}})
	if got := c.Suspicious(); len(got) != 0 {
		t.Errorf("got %q, want nothing", got)
	}
}
