package secure

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync/atomic"
	"time"
)

// revocations is a revocation list.
type revocations struct {
	*x509.RevocationList
	numbers map[string]struct{} // serial numbers of the revoked certificates
	// signer is the certificate with which the signature was verified last. It is stored because
	// the verification of a long list is slow.
	signer atomic.Pointer[x509.Certificate]
}

// newRevocations parses a revocation list. It returns an error for an unknown critical extension,
// which can restrict the list to some certificates.
func newRevocations(der []byte) (*revocations, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	for _, ext := range list.Extensions {
		if ext.Critical {
			return nil, fmt.Errorf("revocation list with the critical extension %v, which is not supported", ext.Id)
		}
	}
	r := &revocations{RevocationList: list, numbers: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
	for _, e := range list.RevokedCertificateEntries {
		r.numbers[numberOf(e.SerialNumber)] = struct{}{}
	}
	r.RevokedCertificateEntries = nil
	return r, nil
}

func numberOf(serial *big.Int) string { return serial.Text(62) }

func (r *revocations) has(cert *x509.Certificate) bool {
	_, ok := r.numbers[numberOf(cert.SerialNumber)]
	return ok
}

// signedBy reports whether issuer signed the list.
func (r *revocations) signedBy(issuer *x509.Certificate) bool {
	if last := r.signer.Load(); last != nil && last.Equal(issuer) {
		return true
	}
	if r.CheckSignatureFrom(issuer) != nil {
		return false
	}
	r.signer.Store(issuer)
	return true
}

// inForce reports whether the list is in force at a time.
func (r *revocations) inForce(now time.Time) bool {
	return !now.Before(r.ThisUpdate) && (r.NextUpdate.IsZero() || !now.After(r.NextUpdate))
}

// checkRevocation returns an error if a certificate of the chain is revoked or not covered by a list.
func (p *plan) checkRevocation(t *trust, chain []*x509.Certificate, now time.Time) error {
	for i, cert := range chain {
		issuer := chain[min(i+1, len(chain)-1)]
		if reason := p.revoked(t, cert, issuer, now); reason != "" {
			return &RevocationError{Cert: cert, Reason: reason}
		}
		if p.OnlyLeafCRL {
			break
		}
	}
	return nil
}

// revoked returns the reason why cert is revoked or its status is unknown, or an empty string.
func (p *plan) revoked(t *trust, cert, issuer *x509.Certificate, now time.Time) string {
	reason := "there is no revocation list of its issuer"
	for _, crl := range t.crls {
		if !bytes.Equal(crl.RawIssuer, cert.RawIssuer) || !crl.signedBy(issuer) {
			continue
		}
		switch {
		case !p.AllowExpired && !crl.inForce(now):
			if reason != "" {
				reason = "the revocation list of its issuer is out of date"
			}
		case crl.has(cert):
			return "it is revoked"
		default:
			reason = ""
		}
	}
	return reason
}

// RevocationError reports that a certificate is revoked or that its status is unknown.
type RevocationError struct {
	Cert   *x509.Certificate
	Reason string
}

// Error implements error.
func (e *RevocationError) Error() string {
	return fmt.Sprintf("secure: certificate %q: %s", e.Cert.Subject, e.Reason)
}
