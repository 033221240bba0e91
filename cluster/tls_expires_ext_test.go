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
	"math/big"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/test/bufconn"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
)

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
