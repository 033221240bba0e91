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

// NoSessions is a MaxSessionKeys without resumption of sessions.
const NoSessions = secure.NoSessions

// PEM is where certificates and keys come from: a file, which is read again when its contents
// change, or the text itself. The zero value is none. Mirrors Envoy's DataSource.
type PEM struct {
	File   string `json:"filename,omitempty"`
	Inline string `json:"inline_string,omitempty"`
}

// SANType is the type of a subject alternative name.
type SANType string

// The types of names.
const (
	AnySAN SANType = ""              // a name of any type
	DNSSAN SANType = "DNS"           // a name of a host, perhaps with a wildcard
	URISAN SANType = "URI"           // such as a SPIFFE id
	IPSAN  SANType = "IP_ADDRESS"    //
	Email  SANType = "EMAIL_ADDRESS" //
)

// SANMatcher matches names of certificates. Exactly one of Exact, Prefix, Suffix, Contains and Regex
// is set. Mirrors Envoy's SubjectAltNameMatcher.
type SANMatcher struct {
	// Type is the type of name.
	Type SANType `json:"san_type,omitempty"`

	// Exact matches a name that is the value. The wildcard of a name of type DNS stands for the
	// first label of the value.
	Exact    string `json:"exact,omitempty"`
	Prefix   string `json:"prefix,omitempty"`
	Suffix   string `json:"suffix,omitempty"`
	Contains string `json:"contains,omitempty"`

	// Regex matches a name that as a whole matches the expression, which is one of package regexp.
	Regex string `json:"safe_regex,omitempty"`

	// IgnoreCase compares without regard to the case of ASCII letters. It is an error beside Regex.
	IgnoreCase bool `json:"ignore_case,omitempty"`
}

// SPIFFE returns the matcher of a SPIFFE id, such as "spiffe://mesh/ns/recipes".
func SPIFFE(id string) SANMatcher { return SANMatcher{Type: URISAN, Exact: id} }

// TLS encrypts the connections to the hosts. What is verified is what Envoy verifies, and no more:
// the certificate must lead to CA, if there is one, and one of its names must match one of SANs, if
// there are any. Without CA and Hashes nothing is verified, and the name of the host is never
// compared by itself: see [Cluster.Suspicious]. Mirrors Envoy's UpstreamTlsContext.
type TLS struct {
	// CA has the certificates that the host's must lead to. Mirrors trusted_ca.
	CA PEM `json:"trusted_ca,omitzero"`

	// CRL has revocation lists. It needs CA. OnlyLeafCRL looks for the host's certificate alone.
	// Mirrors crl and only_verify_leaf_cert_crl.
	CRL         PEM  `json:"crl,omitzero"`
	OnlyLeafCRL bool `json:"only_verify_leaf_cert_crl,omitempty"`

	// SANs are names of which the certificate must have one. It needs CA. Mirrors
	// match_typed_subject_alt_names.
	SANs []SANMatcher `json:"match_typed_subject_alt_names,omitempty"`

	// VerifySNI demands the name that was sent as SNI from the certificate, instead of SANs. It
	// needs CA. Mirrors auto_sni_san_validation.
	VerifySNI bool `json:"auto_sni_san_validation,omitempty"`

	// Hashes are SHA-256 hashes of certificates in hexadecimal, SPKIs those of public keys in
	// Base64. If there are any, the certificate must have one of them. Mirrors
	// verify_certificate_hash and verify_certificate_spki.
	Hashes []string `json:"verify_certificate_hash,omitempty"`
	SPKIs  []string `json:"verify_certificate_spki,omitempty"`

	// AllowExpired does not look at times of validity. It needs CA. Mirrors
	// allow_expired_certificate.
	AllowExpired bool `json:"allow_expired_certificate,omitempty"`

	// AcceptUntrusted accepts every certificate. Mirrors trust_chain_verification:
	// ACCEPT_UNTRUSTED.
	AcceptUntrusted bool `json:"accept_untrusted,omitempty"`

	// Certificate and Key are what the client shows to hosts that ask for it. Mirrors
	// tls_certificates.
	Certificate PEM `json:"certificate_chain,omitzero"`
	Key         PEM `json:"private_key,omitzero"`

	// SNI is the name that is sent to hosts. Empty means none. Mirrors sni.
	SNI string `json:"sni,omitempty"`

	// MinVersion and MaxVersion are versions of TLS as package tls has them. Zero means TLS 1.2 and
	// 1.3. Mirrors tls_minimum_protocol_version and tls_maximum_protocol_version.
	MinVersion uint16 `json:"tls_minimum_protocol_version,omitempty"`
	MaxVersion uint16 `json:"tls_maximum_protocol_version,omitempty"`

	// CipherSuites are those of TLS 1.2 and older, by the names of OpenSSL or of package tls; Curves
	// the key exchanges, by those of BoringSSL. Empty means the defaults. Mirrors cipher_suites and
	// ecdh_curves.
	CipherSuites []string `json:"cipher_suites,omitempty"`
	Curves       []string `json:"ecdh_curves,omitempty"`

	// ALPN are protocols to offer besides those that [Config] Protocol asks for. Mirrors
	// alpn_protocols.
	ALPN []string `json:"alpn_protocols,omitempty"`

	// MaxSessionKeys is how many sessions are kept to be resumed. Zero means 1, NoSessions none.
	// Mirrors max_session_keys.
	MaxSessionKeys int `json:"max_session_keys,omitempty"`

	// ReloadInterval is the time between two looks at files. Zero means 5s, negative none.
	ReloadInterval time.Duration `json:"reload_interval,omitempty"`

	// Report is called with an error for contents of files that cannot be used, once for the same
	// error in a row, and with nil when they can be used again. Calls do not overlap. It must not
	// call Close. Nil means no report; see [Cluster.Suspicious].
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

// core returns the matcher of the handshakes for number i of SANs.
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

// startTLS reads the files, and begins to look for changes of them. That ends when the cluster is
// closed, or when nothing uses it any more.
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

// makeTemplate returns what makes the connections.
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

// observed returns a configuration that counts handshakes.
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

// scheme is that of the connections.
func (c *Cluster) scheme() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// offerTLS offers what the handshakes count.
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

// Suspicious returns sentences about what the configuration allows, and Envoy does too, but may not
// be meant: an outlier detection that can eject no host, localities that do not matter, connections
// whose certificates are not verified.
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
			all = append(all, "cluster: Config.Outlier: no host can be ejected: one of the hosts is more than MaxEjectionPercent of them; "+
				"set AlwaysEjectOneHost or a greater MaxEjectionPercent")
		}
	}
	if hosts > 0 {
		all = append(all, c.suspiciousLocalities()...)
	}
	return all
}
