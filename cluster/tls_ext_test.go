package cluster_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
)

// TestTLS verifies what it is told to, and speaks the protocol that it is told to.
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

// TestTLS_expires uses a connection whose certificate has expired to its end, and refuses the
// certificate for the next one.
func TestTLS_expires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		identity, ca := expiring(t, time.Hour)
		var serving sync.WaitGroup
		listener := bufconn.Listen(1 << 16)
		c := made(t, cluster.Config{
			Endpoints: cluster.Addresses("127.0.0.1:443"), TLS: &cluster.TLS{CA: cluster.PEM{Inline: ca}}, IdleTimeout: cluster.Never,
			Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				client, err := listener.DialContext(ctx)
				return client, err
			}},
		})
		serving.Go(func() {
			for conn, err := listener.Accept(); err == nil; conn, err = listener.Accept() {
				serving.Go(func() { serveTLS(conn, identity) })
			}
		})
		stat := stats{}
		u := upstream(t, stat, c)
		for range 2 {
			if body, err := get(t, u); err != nil || body != "ok" {
				t.Fatalf("got %q, %v, want ok", body, err)
			}
			time.Sleep(2 * time.Hour)
		}
		c.CloseIdleConnections()
		_, err := get(t, u)
		var invalid x509.CertificateInvalidError
		var failed *pillion.UpstreamError
		if !errors.As(err, &invalid) || invalid.Reason != x509.Expired || !errors.As(err, &failed) || failed.Flags.String() != "UF" {
			t.Errorf("got %v, want an expired certificate, with UF", err)
		}
		if handshakes, refused := stat["ssl.handshake"](), stat["ssl.fail_verify_error"](); handshakes != 1 || refused != 1 {
			t.Errorf("got %d handshakes and %d refused certificates, want 1 each", handshakes, refused)
		}
		c.Close()
		listener.Close()
		serving.Wait()
	})
}

// serveTLS responds to the requests of a connection.
func serveTLS(c net.Conn, identity tls.Certificate) {
	defer c.Close()
	secure := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{identity}})
	requests := bufio.NewReader(secure)
	for {
		if _, err := http.ReadRequest(requests); err != nil {
			return
		}
		if _, err := secure.Write(stubResponse); err != nil {
			return
		}
	}
}

// expiring returns a certificate for 127.0.0.1, and itself as a CA.
func expiring(t *testing.T, after time.Duration) (identity tls.Certificate, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(after),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestSuspicious names what may not be meant.
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
