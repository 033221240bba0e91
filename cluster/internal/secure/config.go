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

// Special values of fields.
const (
	// NoSessions is a MaxSessionKeys of zero: no session is resumed.
	NoSessions = -1
	// NeverReload is a ReloadInterval without reloading.
	NeverReload = -1 * time.Nanosecond
)

// DefaultReloadInterval is the default of ReloadInterval.
const DefaultReloadInterval = 5 * time.Second

// Source is the source of PEM data: a file, or the text itself. The zero Source means no data.
type Source struct {
	File   string
	Inline string
}

func (s Source) isZero() bool { return s == Source{} }

// Config configures the TLS of connections to an upstream. Its fields mirror Envoy's
// UpstreamTlsContext, CommonTlsContext and CertificateValidationContext.
type Config struct {
	// CA holds the trusted certificates, which can also be intermediate certificates or the
	// server's own one. It can also hold revocation lists. Mirrors trusted_ca.
	CA Source

	// CRL holds revocation lists. If there are any, here or in CA, each certificate of the chain
	// needs a current list of its issuer that does not contain the certificate. It needs CA.
	// Mirrors crl.
	CRL Source

	// OnlyLeafCRL checks the revocation of the server's certificate only.
	// Mirrors only_verify_leaf_cert_crl.
	OnlyLeafCRL bool

	// SANs lists matchers; one name of the certificate must match one of them. It needs CA.
	// Mirrors match_typed_subject_alt_names.
	SANs []Matcher

	// VerifySNI requires that the certificate has the name that was sent as SNI, if one was sent.
	// It replaces SANs. It needs CA. Mirrors auto_sni_san_validation.
	VerifySNI bool

	// Hashes lists SHA-256 hashes of certificates in hexadecimal, with or without colons. SPKIs
	// lists SHA-256 hashes of public keys in Base64. If there are any, the server's certificate
	// must have one of them. They mirror verify_certificate_hash and verify_certificate_spki.
	Hashes, SPKIs []string

	// AllowExpired accepts certificates that are expired or not yet valid. It needs CA.
	// Mirrors allow_expired_certificate.
	AllowExpired bool

	// AcceptUntrusted accepts every certificate. Failed verifications are still counted.
	// Mirrors trust_chain_verification: ACCEPT_UNTRUSTED.
	AcceptUntrusted bool

	// Certificate and Key are sent to servers that request a client certificate. Certificate is
	// the chain, with the client's certificate first, and Key is its private key. Zero means none.
	// They mirror tls_certificates.
	Certificate, Key Source

	// SNI is the server name that is sent, unless a connection has its own. Empty means none.
	// Mirrors sni.
	SNI string

	// MinVersion and MaxVersion are versions of TLS as in package tls. Zero means TLS 1.2 and TLS
	// 1.3. They mirror tls_minimum_protocol_version and tls_maximum_protocol_version.
	MinVersion, MaxVersion uint16

	// CipherSuites lists the cipher suites of TLS 1.2 and older, by their names in OpenSSL or in
	// package tls. Alternatives such as "[A|B]" are allowed; the order has no effect. Empty means
	// Envoy's default, the ECDHE suites with AES-GCM and ChaCha20. Mirrors cipher_suites.
	CipherSuites []string

	// Curves lists the key exchanges, by their names in BoringSSL. Empty means those of package tls.
	// Mirrors ecdh_curves.
	Curves []string

	// ALPN lists the protocols to offer, the preferred one first. Mirrors alpn_protocols.
	ALPN []string

	// MaxSessionKeys is the maximum number of sessions that are kept for resumption, one for each
	// SNI, or for each address without SNI. Zero means 1, as in Envoy, and NoSessions means none.
	// Mirrors max_session_keys.
	MaxSessionKeys int

	// ReloadInterval is the time between two checks of the files for changes. Zero means
	// DefaultReloadInterval, and NeverReload means no checks.
	ReloadInterval time.Duration

	// Report is called with an error if the new contents of files are invalid. It is called once
	// for the same error in a row, and with nil when the contents are valid again. Calls do not
	// overlap. It must not call Reload or Close. Nil means no report; see [Secure.Err].
	Report func(error)
}

// plan is a valid Config.
type plan struct {
	Config
	sans   []sanMatcher
	hashes [][]byte
	spkis  [][]byte
	suites []uint16
	curves []tls.CurveID
}

// check returns the plan of c, or the errors of all fields.
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
			errs = append(errs, bad(f.field, "File and Inline are set", "set one of the two"))
		}
	}
	if c.Certificate.isZero() != c.Key.isZero() {
		errs = append(errs, errors.New("secure: Config.Certificate and Config.Key: only one is set: set both or none"))
	}
	return errors.Join(errs...)
}

// checkTrust returns the errors of fields that need CA. Envoy refuses the same.
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
			errs = append(errs, bad(f.field, "set without CA", "set CA, too"))
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
			errs = append(errs, bad(f.field, fmt.Sprintf("%#04x", f.version), "write a version of package tls from VersionTLS10 to VersionTLS13"))
		}
	}
	if lowest, highest := c.versions(); lowest > highest {
		errs = append(errs, bad("MinVersion", tls.VersionName(lowest), "write at most MaxVersion, "+tls.VersionName(highest)))
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
		errs = append(errs, bad("MaxSessionKeys", c.MaxSessionKeys, "write a positive number, 0 for 1, or NoSessions"))
	}
	if c.ReloadInterval < 0 && c.ReloadInterval != NeverReload {
		errs = append(errs, bad("ReloadInterval", c.ReloadInterval, "write a duration, 0 for 5s, or NeverReload"))
	}
	for i, p := range c.ALPN {
		if p == "" || len(p) > 255 {
			errs = append(errs, bad(fmt.Sprintf("ALPN[%d]", i), fmt.Sprintf("%q", p), "write 1 to 255 bytes"))
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
			errs = append(errs, bad(fmt.Sprintf("%s[%d]", field, i), text, "write a SHA-256 hash"))
		}
		all = append(all, sum)
	}
	return all, errors.Join(errs...)
}

func hexSum(text string) ([]byte, error) {
	return hex.DecodeString(strings.ReplaceAll(text, ":", ""))
}
