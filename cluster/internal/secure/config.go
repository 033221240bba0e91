package secure

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The values that stand for what zero cannot say.
const (
	// NoSessions is a MaxSessionKeys without resumption of sessions.
	NoSessions = -1
	// NeverReload is a ReloadInterval without reloading.
	NeverReload = -1 * time.Nanosecond
)

// DefaultReloadInterval is the time between two looks at files.
const DefaultReloadInterval = 5 * time.Second

// Source is where PEM comes from: a file or the text itself. The zero Source is none.
type Source struct {
	File   string
	Inline string
}

func (s Source) isZero() bool { return s == Source{} }

// Config describes the TLS of connections to an upstream. Its fields mirror Envoy's
// UpstreamTlsContext, CommonTlsContext and CertificateValidationContext.
type Config struct {
	// CA has the certificates that the server's must lead to, each of which is trusted, also an
	// intermediate or the server's own one; and revocation lists. Mirrors trusted_ca.
	CA Source

	// CRL has revocation lists. If there are any, here or in CA, there must be a list of the
	// issuer of each certificate from the server's to the CA's, in force and without the
	// certificate on it. It needs CA. Mirrors crl.
	CRL Source

	// OnlyLeafCRL looks only for the revocation of the server's certificate.
	// Mirrors only_verify_leaf_cert_crl.
	OnlyLeafCRL bool

	// SANs are names of which the certificate must have one. It needs CA.
	// Mirrors match_typed_subject_alt_names.
	SANs []Matcher

	// VerifySNI demands the name that was sent as SNI from the certificate, instead of SANs, on
	// connections on which one was sent. It needs CA. Mirrors auto_sni_san_validation.
	VerifySNI bool

	// Hashes are SHA-256 hashes of certificates in hexadecimal, with colons or without, and
	// SPKIs SHA-256 hashes of public keys in Base64. If there are any, the server's certificate
	// must have one of them. Mirrors verify_certificate_hash and verify_certificate_spki.
	Hashes, SPKIs []string

	// AllowExpired does not look at times of validity. It needs CA.
	// Mirrors allow_expired_certificate.
	AllowExpired bool

	// AcceptUntrusted accepts every certificate. What would have failed is still counted.
	// Mirrors trust_chain_verification: ACCEPT_UNTRUSTED.
	AcceptUntrusted bool

	// Certificate and Key are what the client shows to servers that ask for a certificate: a
	// chain, the client's certificate first, and its private key. Zero means none.
	// Mirrors tls_certificates.
	Certificate, Key Source

	// SNI is the name that is sent to servers, unless a connection has its own. Empty means
	// none. Mirrors sni.
	SNI string

	// MinVersion and MaxVersion are versions of TLS as package tls has them. Zero means TLS 1.2
	// and 1.3. Mirrors tls_minimum_protocol_version and tls_maximum_protocol_version.
	MinVersion, MaxVersion uint16

	// CipherSuites are those of TLS 1.2 and older, by the names of OpenSSL or of package tls.
	// Alternatives as in "[A|B]" are taken apart; the order does not matter. Empty means Envoy's
	// default, the ECDHE suites with AES-GCM and ChaCha20. Mirrors cipher_suites.
	CipherSuites []string

	// Curves are the key exchanges, by the names of BoringSSL. Empty means those of package tls.
	// Mirrors ecdh_curves.
	Curves []string

	// ALPN are the protocols to offer, the preferred one first. Mirrors alpn_protocols.
	ALPN []string

	// MaxSessionKeys is how many sessions are kept to be resumed, one for each SNI, or for each
	// address where none is sent. Zero means 1, as in Envoy, NoSessions none.
	// Mirrors max_session_keys.
	MaxSessionKeys int

	// ReloadInterval is the time between two looks at files. Zero means DefaultReloadInterval,
	// NeverReload none at all.
	ReloadInterval time.Duration

	// Report is called with an error for contents of files that cannot be used, once for the
	// same error in a row, and with nil when they can be used again. Calls do not overlap.
	// Report must not call Reload or Close. Nil means no report; see [Secure.Err].
	Report func(error)
}

// plan is a Config that was checked.
type plan struct {
	Config
	sans   []sanMatcher
	hashes [][]byte
	spkis  [][]byte
	suites []uint16
	curves []tls.CurveID
}

// check returns c's plan, or all that is wrong with c.
func (c Config) check() (*plan, error) {
	c.ALPN = slices.Clone(c.ALPN)
	p := &plan{Config: c}
	var errs [6]error
	p.sans, errs[0] = matchers(c.SANs)
	p.hashes, errs[1] = sums("Hashes", c.Hashes, hexSum)
	p.spkis, errs[2] = sums("SPKIs", c.SPKIs, base64.StdEncoding.DecodeString)
	p.suites, errs[3] = cipherSuites(c.CipherSuites)
	p.curves, errs[4] = curves(c.Curves)
	errs[5] = c.checkRest()
	return p, errors.Join(errs[:]...)
}

func (c *Config) checkRest() error {
	return errors.Join(c.checkSources(), c.checkTrust(), c.checkVersions(), c.checkNumbers())
}

func (c *Config) checkSources() error {
	var errs []error
	for _, f := range []struct {
		field  string
		source Source
	}{{"CA", c.CA}, {"CRL", c.CRL}, {"Certificate", c.Certificate}, {"Key", c.Key}} {
		if f.source.File != "" && f.source.Inline != "" {
			errs = append(errs, bad(f.field, "File and Inline are set", "set one of them"))
		}
	}
	if c.Certificate.isZero() != c.Key.isZero() {
		errs = append(errs, errors.New("secure: Config.Certificate and Config.Key: one is set: set both or none"))
	}
	return errors.Join(errs...)
}

// checkTrust refuses what has no sense without a CA. Envoy refuses the same.
func (c *Config) checkTrust() error {
	if !c.CA.isZero() {
		return nil
	}
	var errs []error
	for _, f := range []struct {
		field string
		set   bool
	}{{"CRL", !c.CRL.isZero()}, {"SANs", len(c.SANs) > 0}, {"VerifySNI", c.VerifySNI}, {"AllowExpired", c.AllowExpired}} {
		if f.set {
			errs = append(errs, bad(f.field, "set", "it needs CA, without which the certificate proves nothing"))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) checkVersions() error {
	var errs []error
	for _, f := range []struct {
		field   string
		version uint16
	}{{"MinVersion", c.MinVersion}, {"MaxVersion", c.MaxVersion}} {
		if f.version != 0 && (f.version < tls.VersionTLS10 || f.version > tls.VersionTLS13) {
			errs = append(errs, bad(f.field, fmt.Sprintf("%#04x", f.version), "use a version of package tls from VersionTLS10 to VersionTLS13"))
		}
	}
	if lowest, highest := c.versions(); lowest > highest {
		errs = append(errs, bad("MinVersion", tls.VersionName(lowest), "use none above MaxVersion, "+tls.VersionName(highest)))
	}
	return errors.Join(errs...)
}

// versions returns the lowest and the highest version.
func (c *Config) versions() (lowest, highest uint16) {
	lowest, highest = c.MinVersion, c.MaxVersion
	if highest == 0 {
		highest = tls.VersionTLS13
	}
	if lowest == 0 {
		lowest = min(tls.VersionTLS12, highest)
	}
	return lowest, highest
}

func (c *Config) checkNumbers() error {
	var errs []error
	if c.MaxSessionKeys < NoSessions {
		errs = append(errs, bad("MaxSessionKeys", c.MaxSessionKeys, "use 0 for 1, a number, or NoSessions"))
	}
	if c.ReloadInterval < 0 && c.ReloadInterval != NeverReload {
		errs = append(errs, bad("ReloadInterval", c.ReloadInterval, "use 0 for 5s, a time, or NeverReload"))
	}
	for i, p := range c.ALPN {
		if p == "" || len(p) > 255 {
			errs = append(errs, bad(fmt.Sprintf("ALPN[%d]", i), fmt.Sprintf("%q", p), "use 1 to 255 bytes"))
		}
	}
	return errors.Join(errs...)
}

func bad(field string, value any, instead string) error {
	return fmt.Errorf("secure: Config.%s: %v: %s", field, value, instead)
}

// sums decodes SHA-256 hashes.
func sums(field string, texts []string, decode func(string) ([]byte, error)) ([][]byte, error) {
	var all [][]byte
	var errs []error
	for i, text := range texts {
		sum, err := decode(text)
		if err != nil || len(sum) != 32 {
			errs = append(errs, bad(fmt.Sprintf("%s[%d]", field, i), text, "it is no SHA-256 hash"))
		}
		all = append(all, sum)
	}
	return all, errors.Join(errs...)
}

func hexSum(text string) ([]byte, error) {
	return hex.DecodeString(strings.ReplaceAll(text, ":", ""))
}
