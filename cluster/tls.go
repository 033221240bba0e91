package cluster

import (
	"crypto/tls"
	"net/http"
	"runtime"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/cluster/internal/secure"
	"github.com/pillion-go/pillion/policy"
)

// NoSessions is a MaxSessionKeys of zero: no TLS session is resumed.
const NoSessions = secure.NoSessions

// PEM is the source of certificates or keys in PEM format: a file, which is read again when its
// contents change, or the text itself. At most one of File and Inline may be set. The zero value means
// no certificate or key. Mirrors Envoy's DataSource.
type PEM struct {
	// File is the name of a file. Mirrors filename.
	File string `json:"filename,omitempty"`

	// Inline is the text. Mirrors inline_string.
	Inline string `json:"inline_string,omitempty"`
}

// SANType is the type of a subject alternative name. The zero value means AnySAN. Mirrors san_type.
type SANType string

// The types of names.
const (
	AnySAN SANType = ""              // a name of any type
	DNSSAN SANType = "DNS"           // a host name, which may have a wildcard
	URISAN SANType = "URI"           // a URI, such as a SPIFFE ID
	IPSAN  SANType = "IP_ADDRESS"    // an IP address
	Email  SANType = "EMAIL_ADDRESS" // an email address
)

// SANMatcher matches subject alternative names of certificates. Exactly one of Exact, Prefix, Suffix,
// Contains and Regex must be set. Mirrors Envoy's SubjectAltNameMatcher.
type SANMatcher struct {
	// Type is the type of the names that are compared. Empty means AnySAN.
	Type SANType `json:"san_type,omitempty"`

	// Exact matches a name that is equal to it. A name of type DNS with a wildcard matches any first
	// label. Mirrors matcher.exact.
	Exact string `json:"exact,omitempty"`

	// Prefix, Suffix and Contains match a name that begins with, ends with or contains the text.
	// They mirror matcher.prefix, matcher.suffix and matcher.contains.
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`

	// Regex matches a name if the expression of package regexp matches the whole name. Mirrors
	// matcher.safe_regex.
	Regex string `json:"safe_regex,omitempty"`

	// IgnoreCase ignores the case of ASCII letters. IgnoreCase together with Regex is an error.
	// Mirrors matcher.ignore_case.
	IgnoreCase bool `json:"ignore_case,omitempty"`
}

// SPIFFE returns the matcher of a SPIFFE ID, such as "spiffe://mesh/ns/recipes".
func SPIFFE(id string) SANMatcher { return SANMatcher{Type: URISAN, Exact: id} }

// TLS configures the encryption of the connections to the hosts. It verifies what Envoy verifies, and
// nothing else. With CA, the certificate of the host must be issued by one of its certificates and be
// valid. With SANs, one of its names must match. With Hashes or SPKIs, it must have one of the hashes.
// The zero value verifies nothing. The name of the host is compared only with VerifySNI.
// [Cluster.Suspicious] reports missing verifications. Mirrors Envoy's UpstreamTlsContext.
//
// A host whose certificate is refused counts as a failed connect.
type TLS struct {
	// CA holds the trusted certificates. Mirrors trusted_ca.
	CA PEM `json:"trusted_ca,omitzero"`

	// CRL holds certificate revocation lists. It needs CA. With OnlyLeafCRL only the host's
	// certificate is looked up in the lists, otherwise the whole chain. Mirrors crl and
	// only_verify_leaf_cert_crl.
	CRL         PEM  `json:"crl,omitzero"`
	OnlyLeafCRL bool `json:"only_verify_leaf_cert_crl,omitempty"`

	// SANs lists matchers of names. At least one name of the certificate must match one of them. It
	// needs CA. Empty means any names. Mirrors match_typed_subject_alt_names.
	SANs []SANMatcher `json:"match_typed_subject_alt_names,omitempty"`

	// VerifySNI requires that the certificate has the name that was sent as SNI. It replaces SANs. It
	// needs CA. Mirrors auto_sni_san_validation.
	VerifySNI bool `json:"auto_sni_san_validation,omitempty"`

	// Hashes lists SHA-256 hashes of certificates in hexadecimal. SPKIs lists SHA-256 hashes of public
	// keys in Base64. If there are any, the certificate must have one of them. They mirror
	// verify_certificate_hash and verify_certificate_spki.
	Hashes []string `json:"verify_certificate_hash,omitempty"`
	SPKIs  []string `json:"verify_certificate_spki,omitempty"`

	// AllowExpired accepts certificates that are expired or not yet valid. It needs CA. Mirrors
	// allow_expired_certificate.
	AllowExpired bool `json:"allow_expired_certificate,omitempty"`

	// AcceptUntrusted accepts every certificate. Failed verifications are still counted. Mirrors
	// trust_chain_verification: ACCEPT_UNTRUSTED.
	AcceptUntrusted bool `json:"accept_untrusted,omitempty"`

	// Certificate and Key are the client certificate, with its chain, and its private key. They are
	// sent to hosts that request them. Set both or none. Mirrors tls_certificates.
	Certificate PEM `json:"certificate_chain,omitzero"`
	Key         PEM `json:"private_key,omitzero"`

	// SNI is the server name that is sent to the hosts. Empty means none. Mirrors sni.
	SNI string `json:"sni,omitempty"`

	// MinVersion and MaxVersion are versions of TLS as in package [crypto/tls]. Zero means TLS 1.2 and
	// TLS 1.3; Envoy's default of both is TLS 1.2. They mirror tls_minimum_protocol_version and
	// tls_maximum_protocol_version.
	MinVersion uint16 `json:"tls_minimum_protocol_version,omitempty"`
	MaxVersion uint16 `json:"tls_maximum_protocol_version,omitempty"`

	// CipherSuites lists the cipher suites of TLS 1.2 and older, by their names in OpenSSL or in
	// package [crypto/tls]. Curves lists the key exchanges, by their names in BoringSSL. Empty means
	// the defaults. They mirror cipher_suites and ecdh_curves.
	CipherSuites []string `json:"cipher_suites,omitempty"`
	Curves       []string `json:"ecdh_curves,omitempty"`

	// ALPN lists protocols to offer in addition to those of Config.Protocol. Mirrors alpn_protocols.
	ALPN []string `json:"alpn_protocols,omitempty"`

	// MaxSessionKeys is the maximum number of sessions that are kept for resumption. Zero means 1, and
	// NoSessions means none. Mirrors max_session_keys.
	MaxSessionKeys int `json:"max_session_keys,omitempty"`

	// ReloadInterval is the time between two checks of the files for changes. Zero means 5s, and a
	// negative value means no checks.
	ReloadInterval time.Duration `json:"reload_interval,omitempty"`

	// Report is called with an error if the new contents of a file are invalid; the previous contents
	// stay in use. It is called once for the same error in a row, and with nil when the contents are
	// valid again. Calls do not overlap. It must not call Close. Nil means no report; see
	// [Cluster.Suspicious].
	Report func(error) `json:"-"`
}

//nolint:gochecknoglobals // a table that nothing writes
var sanTypes = map[SANType]secure.SANType{AnySAN: secure.AnySAN, DNSSAN: secure.DNS, URISAN: secure.URI, IPSAN: secure.IP, Email: secure.Email}

// core returns the configuration of the handshakes.
func (t *TLS) core() (secure.Config, error) {
	c := secure.Config{
		CA: secure.Source(t.CA), CRL: secure.Source(t.CRL), OnlyLeafCRL: t.OnlyLeafCRL, VerifySNI: t.VerifySNI,
		Hashes: t.Hashes, SPKIs: t.SPKIs, AllowExpired: t.AllowExpired, AcceptUntrusted: t.AcceptUntrusted,
		Certificate: secure.Source(t.Certificate), Key: secure.Source(t.Key), SNI: t.SNI,
		MinVersion: t.MinVersion, MaxVersion: t.MaxVersion, CipherSuites: t.CipherSuites, Curves: t.Curves, ALPN: t.ALPN,
		MaxSessionKeys: t.MaxSessionKeys, ReloadInterval: t.ReloadInterval, Report: t.Report,
	}
	if t.ReloadInterval < 0 {
		c.ReloadInterval = secure.NeverReload
	}
	for i, m := range t.SANs {
		made, err := m.core(i)
		if err != nil {
			return c, err
		}
		c.SANs = append(c.SANs, made)
	}
	return c, nil
}

// core returns the matcher for element i of SANs.
func (m SANMatcher) core(i int) (secure.Matcher, error) {
	kind, ok := sanTypes[m.Type]
	if !ok {
		return secure.Matcher{}, invalid("TLS.SANs", "%d: the type %q is unknown; write one of %s", i, m.Type, known(sanTypes))
	}
	made, set := secure.Matcher{Type: kind, IgnoreCase: m.IgnoreCase}, 0
	for _, way := range []struct {
		match secure.Match
		value string
	}{
		{secure.Exact, m.Exact}, {secure.Prefix, m.Prefix}, {secure.Suffix, m.Suffix}, {secure.Contains, m.Contains}, {secure.Regex, m.Regex},
	} {
		if way.value != "" {
			made.Match, made.Value = way.match, way.value
			set++
		}
	}
	if set != 1 {
		return made, invalid("TLS.SANs", "%d: %d of Exact, Prefix, Suffix, Contains and Regex are set; set one", i, set)
	}
	return made, nil
}

// startTLS reads the files and starts to check them for changes. The checks end when the cluster is
// closed or no longer referenced.
func (c *Cluster) startTLS() error {
	if c.cfg.TLS == nil {
		return nil
	}
	cfg, err := c.cfg.TLS.core()
	if err != nil {
		return err
	}
	made, err := secure.New(cfg)
	if err != nil {
		return renamed(err, "secure: Config.", "TLS.")
	}
	c.tls = made
	runtime.AddCleanup(c, func(s *secure.Secure) { go s.Close() }, made)
	return nil
}

// makeTemplate returns the template of the connections.
func (c *Cluster) makeTemplate() *pool.Template {
	base := c.cfg.Transport
	if base == nil {
		base = &http.Transport{}
		if t, ok := http.DefaultTransport.(*http.Transport); ok {
			base = t.Clone()
		}
		base.Proxy = nil
	}
	if c.tls != nil {
		base = base.Clone()
		base.TLSClientConfig = observed(c.tls)
	}
	return pool.NewTemplate(base, protocols[c.cfg.Protocol])
}

// observed returns the TLS configuration of s, which also counts handshakes.
func observed(s *secure.Secure) *tls.Config {
	cfg := s.TLSConfig().Clone()
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if verify != nil {
			if err := verify(state); err != nil {
				return err
			}
		}
		s.Observe(state, nil)
		return nil
	}
	return cfg
}

// scheme returns the URL scheme of the connections.
func (c *Cluster) scheme() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// offerTLS offers the statistics of the handshakes.
func (c *Cluster) offerTLS(b *policy.Builder) {
	s := c.tls
	if s == nil {
		return
	}
	for name, read := range map[string]func(secure.Stats) uint64{
		"handshake":             func(s secure.Stats) uint64 { return s.Handshake },
		"connection_error":      func(s secure.Stats) uint64 { return s.ConnectionError },
		"session_reused":        func(s secure.Stats) uint64 { return s.SessionReused },
		"fail_verify_error":     func(s secure.Stats) uint64 { return s.FailVerifyError },
		"fail_verify_san":       func(s secure.Stats) uint64 { return s.FailVerifySAN },
		"fail_verify_cert_hash": func(s secure.Stats) uint64 { return s.FailVerifyCertHash },
		"fail_verify_no_cert":   func(s secure.Stats) uint64 { return s.FailVerifyNoCert },
	} {
		b.Stat(policy.Stat{Kind: policy.Counter, Name: "ssl." + name, Of: c.stats, Read: func() uint64 { return read(s.Stats()) }})
	}
	for _, name := range neverTLS {
		b.Stat(policy.Stat{Kind: policy.Counter, Name: "ssl." + name, Of: c.stats, Read: func() uint64 { return 0 }})
	}
}

// neverTLS lists statistics of Envoy that are 0 for a client.
//
//nolint:gochecknoglobals // a table that nothing writes
var neverTLS = [...]string{"no_certificate", "ocsp_staple_failed", "ocsp_staple_omitted", "ocsp_staple_requests", "ocsp_staple_responses"}

// Suspicious returns a description of each setting that is valid, here and in Envoy, but probably not
// intended: an outlier detection that can eject no host, localities that have no effect, and
// certificates that are not verified. It also returns the error of files whose new contents are
// invalid. It returns nil if there is nothing to report.
func (c *Cluster) Suspicious() []string {
	var all []string
	if c.tls != nil {
		all = c.tls.Suspicious()
		if err := c.tls.Err(); err != nil {
			all = append(all, err.Error())
		}
	}
	c.mu.Lock()
	hosts := len(c.hosts)
	c.mu.Unlock()
	if o := c.cfg.Outlier; o != nil && hosts > 0 {
		if core, err := o.core(); err == nil && !core.Ejects(hosts) {
			all = append(all, "cluster: Config.Outlier: no host can be ejected: one host is more than MaxEjectionPercent of all hosts; "+
				"set AlwaysEjectOneHost or a greater MaxEjectionPercent")
		}
	}
	if hosts > 0 {
		all = append(all, c.suspiciousLocalities()...)
	}
	return all
}
