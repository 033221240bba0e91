package secure

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// cert is a certificate with its key, as tests make them.
type cert struct {
	*x509.Certificate
	key   crypto.Signer
	chain []*cert // the issuers below the root, the nearest first
}

// serials are the numbers of certificates.
var serials atomic.Int64

// form is what a test wants of a certificate.
type form struct {
	sans     string // such as "dns:a.test uri:spiffe://mesh/a ip:10.0.0.1 email:a@b.test"
	ca       bool
	rsa      bool
	client   bool // for clients only
	noEKU    bool // for any use
	from, to time.Duration
	edit     func(*x509.Certificate)
}

// issue makes a certificate. With a nil issuer it signs itself.
func issue(tb testing.TB, name string, issuer *cert, f form) *cert {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serials.Add(1)), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(f.from - time.Hour), NotAfter: time.Now().Add(f.to + 24*time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if f.client {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	if f.ca {
		template.IsCA, template.KeyUsage, template.ExtKeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	}
	if f.noEKU {
		template.ExtKeyUsage = nil
	}
	addSANs(tb, template, f.sans)
	if f.edit != nil {
		f.edit(template)
	}
	c := &cert{key: newKey(tb, f.rsa)}
	parent, signer := template, c.key
	if issuer != nil {
		parent, signer = issuer.Certificate, issuer.key
		c.chain = issuer.chain
		if issuer.chain != nil || issuer.Issuer.CommonName != issuer.Subject.CommonName {
			c.chain = append([]*cert{issuer}, issuer.chain...)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, c.key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	if c.Certificate, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	return c
}

func newKey(tb testing.TB, isRSA bool) crypto.Signer {
	tb.Helper()
	var key crypto.Signer
	var err error
	if isRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func addSANs(tb testing.TB, c *x509.Certificate, sans string) {
	tb.Helper()
	for san := range strings.FieldsSeq(sans) {
		kind, value, _ := strings.Cut(san, ":")
		switch kind {
		case "dns":
			c.DNSNames = append(c.DNSNames, value)
		case "ip":
			c.IPAddresses = append(c.IPAddresses, net.ParseIP(value))
		case "email":
			c.EmailAddresses = append(c.EmailAddresses, value)
		case "uri":
			u, err := url.Parse(value)
			if err != nil {
				tb.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		default:
			tb.Fatalf("no such type of name: %q", san)
		}
	}
}

// pem returns the certificate and the chain to the root, without it.
func (c *cert) pem() string {
	var b strings.Builder
	for _, x := range append([]*cert{c}, c.chain...) {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: x.Raw})
	}
	return b.String()
}

// alone returns the certificate only.
func (c *cert) alone() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func (c *cert) keyPEM(tb testing.TB) string {
	tb.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// tls returns what a server or a client shows.
func (c *cert) tls() tls.Certificate {
	out := tls.Certificate{PrivateKey: c.key, Certificate: [][]byte{c.Raw}}
	for _, x := range c.chain {
		out.Certificate = append(out.Certificate, x.Raw)
	}
	return out
}

// crl makes a revocation list of c's with the certificates revoked.
func (c *cert) crl(tb testing.TB, next time.Duration, revoked ...*cert) string {
	tb.Helper()
	template := &x509.RevocationList{Number: big.NewInt(serials.Add(1)), ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(next)}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: time.Now().Add(-time.Hour)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.Certificate, c.key)
	if err != nil {
		tb.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// criticalCRL makes a revocation list with an issuing distribution point.
func criticalCRL(tb testing.TB, c *cert) []byte {
	tb.Helper()
	template := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}},
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.Certificate, c.key)
	if err != nil {
		tb.Fatal(err)
	}
	return der
}
