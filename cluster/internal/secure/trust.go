package secure

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// trust holds the trusted certificates and revocation lists. It does not change.
type trust struct {
	roots   *x509.CertPool
	anchors []*x509.Certificate
	crls    []*revocations
}

// newTrust parses the text of a CA, and the text of a CRL if it is not empty.
func newTrust(ca, crl []byte, timeless bool) (*trust, error) {
	t := &trust{roots: x509.NewCertPool()}
	if err := t.add(ca); err != nil {
		return nil, err
	}
	if len(t.anchors) == 0 {
		return nil, errors.New("contains no certificate")
	}
	if len(crl) > 0 {
		if err := t.add(crl); err != nil {
			return nil, fmt.Errorf("CRL: %w", err)
		}
	}
	for _, a := range t.anchors {
		t.roots.AddCert(atAllTimes(a, timeless))
	}
	return t, nil
}

// add adds the certificates and revocation lists of text. As in Envoy, it ignores other blocks.
func (t *trust) add(text []byte) error {
	all, err := blocks(text)
	if err != nil {
		return err
	}
	for i, b := range all {
		switch b.Type {
		case "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE":
			var cert *x509.Certificate
			cert, err = x509.ParseCertificate(b.Bytes)
			t.anchors = append(t.anchors, cert)
		case "X509 CRL":
			var crl *revocations
			crl, err = newRevocations(b.Bytes)
			t.crls = append(t.crls, crl)
		}
		if err != nil {
			return fmt.Errorf("PEM block %d: %w", i+1, err)
		}
	}
	return nil
}

// atAllTimes returns cert, or with timeless a copy of it that is always valid.
func atAllTimes(cert *x509.Certificate, timeless bool) *x509.Certificate {
	if !timeless {
		return cert
	}
	c := *cert
	c.NotBefore, c.NotAfter = time.Time{}, time.Unix(math.MaxInt32, 0).AddDate(1000, 0, 0)
	return &c
}

// check returns an error if the certificates of a server are not accepted at a time. The first
// certificate is the server's own. sni is the name that was sent to it.
func (p *plan) check(t *trust, certs []*x509.Certificate, sni string, now time.Time) error {
	if t == nil && len(p.hashes)+len(p.spkis) == 0 {
		return nil
	}
	if len(certs) == 0 {
		return errNoCertificate
	}
	if t != nil {
		if err := p.checkChain(t, certs, now); err != nil {
			return err
		}
	}
	if err := p.checkNames(certs[0], sni); err != nil {
		return err
	}
	return p.checkHashes(certs[0])
}

var errNoCertificate = errors.New("secure: the server has no certificate")

// checkChain returns an error if there is no valid chain from certs to the anchors.
func (p *plan) checkChain(t *trust, certs []*x509.Certificate, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(atAllTimes(c, p.AllowExpired))
	}
	options := x509.VerifyOptions{Roots: t.roots, Intermediates: between, CurrentTime: now}
	if slices.ContainsFunc(t.anchors, certs[0].Equal) { // as in Envoy, it is trusted for any use
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	}
	chains, err := atAllTimes(certs[0], p.AllowExpired).Verify(options)
	if err != nil || len(t.crls) == 0 {
		return err
	}
	for _, chain := range chains {
		if err = p.checkRevocation(t, chain, now); err == nil {
			return nil
		}
	}
	return err
}

// checkNames returns an error if no name of cert matches.
func (p *plan) checkNames(cert *x509.Certificate, sni string) error {
	wanted := p.sans
	if p.VerifySNI && isName(sni) {
		wanted = []sanMatcher{{Matcher: Matcher{Type: DNS, Value: sni}}}
	}
	if len(wanted) == 0 {
		return nil
	}
	all := names(cert)
	for _, n := range all {
		if slices.ContainsFunc(wanted, func(m sanMatcher) bool { return m.matches(n) }) {
			return nil
		}
	}
	e := &SANError{}
	for _, m := range wanted {
		e.Wanted = append(e.Wanted, m.Matcher)
	}
	for _, n := range all {
		e.Names = append(e.Names, n.text)
	}
	return e
}

// isName reports whether package tls sends a server name. It does not send addresses.
func isName(sni string) bool {
	_, err := netip.ParseAddr(strings.Trim(sni, "[]"))
	return sni != "" && err != nil
}

// SANError reports that no subject alternative name of a certificate matches.
type SANError struct {
	// Wanted describes the names that match, and Names lists the names of the certificate.
	Wanted []Matcher
	Names  []string
}

// Error implements error.
func (e *SANError) Error() string {
	return fmt.Sprintf("secure: no subject alternative name of the certificate matches: it has %q", e.Names)
}

// checkHashes returns an error if cert has none of the hashes.
func (p *plan) checkHashes(cert *x509.Certificate) error {
	if len(p.hashes)+len(p.spkis) == 0 {
		return nil
	}
	whole, key := sha256.Sum256(cert.Raw), sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	if has(p.hashes, whole[:]) || has(p.spkis, key[:]) {
		return nil
	}
	return &HashError{Hash: hex.EncodeToString(whole[:])}
}

func has(sums [][]byte, s []byte) bool {
	return slices.ContainsFunc(sums, func(x []byte) bool { return bytes.Equal(x, s) })
}

// HashError reports that a certificate has none of the hashes in [Config.Hashes] and
// [Config.SPKIs].
type HashError struct {
	// Hash is the SHA-256 hash of the certificate in hexadecimal.
	Hash string
}

// Error implements error.
func (e *HashError) Error() string {
	return "secure: neither the certificate, with SHA-256 hash " + e.Hash + ", nor its key is one of those wanted"
}
