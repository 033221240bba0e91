package secure

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/internal/envoytest"
)

//go:generate go test -run TestEnvoy -record

var recordEnvoy = flag.Bool("record", false, "play the cases of TestEnvoy through the Envoy that PILLION_ENVOY names, and keep what came of them")

const recording = "testdata/envoy.json"

// scenario is a server, and the TLS of a client that calls it.
type scenario struct {
	name   string
	server *tls.Config
	config Config
	// show says what of the connection is part of the outcome.
	show string
	// differs is what comes of it here, where that is not what came of it in Envoy.
	differs string
}

// pki is a set of certificates.
type pki struct {
	root, other, inter                                                          *cert
	leaf, via, unchained, foreign, self, expired, future, clientOnly, anyUse    *cert
	bare, wild, rsa, client, limited, late, lateInter, viaLate, old, viaRevoked *cert
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	p := &pki{}
	p.root = issue(t, "root", nil, form{ca: true})
	p.other = issue(t, "other", nil, form{ca: true})
	p.inter = issue(t, "inter", p.root, form{ca: true})
	p.leaf = issue(t, "leaf", p.root, form{sans: "dns:recipes.test dns:api.RECIPES.test uri:spiffe://mesh/ns/recipes ip:10.0.0.1 ip:2001:db8::1 email:Cook@recipes.test"})
	p.via = issue(t, "via", p.inter, form{sans: "dns:recipes.test"})
	unchained := *p.via
	unchained.chain = nil
	p.unchained = &unchained
	p.foreign = issue(t, "foreign", p.other, form{sans: "dns:recipes.test"})
	p.self = issue(t, "self", nil, form{sans: "dns:recipes.test"})
	p.expired = issue(t, "expired", p.root, form{sans: "dns:recipes.test", from: -72 * time.Hour, to: -48 * time.Hour})
	p.future = issue(t, "future", p.root, form{sans: "dns:recipes.test", from: 48 * time.Hour, to: 48 * time.Hour})
	p.clientOnly = issue(t, "client only", p.root, form{sans: "dns:recipes.test", client: true})
	p.anyUse = issue(t, "any use", p.root, form{sans: "dns:recipes.test", noEKU: true})
	p.bare = issue(t, "recipes.test", p.root, form{})
	p.wild = issue(t, "wild", p.root, form{sans: "dns:*.wild.test dns:w*.part.test dns:*x.part.test dns:a*b.mid.test dns:xn--*.ace.test dns:a.*.two.test dns:*.com dns:*"})
	p.rsa = issue(t, "rsa", p.root, form{sans: "dns:recipes.test", rsa: true, edit: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }})
	p.client = issue(t, "the client", p.root, form{client: true})
	p.limited = issue(t, "limited", p.root, form{ca: true, edit: func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"elsewhere.test"}, true
	}})
	p.late = issue(t, "by limited", p.limited, form{sans: "dns:recipes.test"})
	p.lateInter = issue(t, "expired inter", p.root, form{ca: true, from: -72 * time.Hour, to: -48 * time.Hour})
	p.viaLate = issue(t, "via expired inter", p.lateInter, form{sans: "dns:recipes.test"})
	p.old = issue(t, "old root", nil, form{ca: true, from: -72 * time.Hour, to: -48 * time.Hour})
	p.viaRevoked = issue(t, "by old root", p.old, form{sans: "dns:recipes.test"})
	return p
}

func in(texts ...string) Source { return Source{Inline: strings.Join(texts, "")} }

func serverOf(c *cert) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c.tls()}} }

func scenarios(t *testing.T) []scenario {
	t.Helper()
	p := newPKI(t)
	var all []scenario
	add := func(name string, server *cert, config Config) *scenario {
		all = append(all, scenario{name: name, server: serverOf(server), config: config})
		return &all[len(all)-1]
	}
	root := Config{CA: in(p.root.alone())}
	with := func(edit func(*Config)) Config {
		c := root
		edit(&c)
		return c
	}

	// Chains.
	servers := map[string]*cert{
		"leaf": p.leaf, "via": p.via, "unchained": p.unchained, "foreign": p.foreign, "self": p.self, "expired": p.expired, "future": p.future,
		"client only": p.clientOnly, "any use": p.anyUse, "no names": p.bare, "rsa": p.rsa, "limited": p.late, "expired inter": p.viaLate, "old root": p.viaRevoked,
	}
	for name, server := range servers {
		add(name+": no CA", server, Config{})
		add(name+": CA", server, root)
		add(name+": CA, allow expired", server, with(func(c *Config) { c.AllowExpired = true }))
		add(name+": CA, accept untrusted", server, with(func(c *Config) { c.AcceptUntrusted = true }))
		add(name+": all CAs", server, Config{CA: in(p.other.alone(), p.root.alone(), p.old.alone(), p.self.alone())})
		add(name+": all CAs, allow expired", server, Config{CA: in(p.other.alone(), p.root.alone(), p.old.alone(), p.self.alone()), AllowExpired: true})
		own := add(name+": its own certificate as CA", server, Config{CA: in(server.alone())})
		if name == "limited" || name == "expired inter" {
			own.differs = "accepted"
		}
		add(name+": the intermediate as CA", server, Config{CA: in(p.inter.alone())})
	}

	// Names.
	for _, m := range []struct {
		server string
		m      Matcher
	}{
		{"leaf", Matcher{DNS, Exact, "recipes.test", false}},
		{"leaf", Matcher{DNS, Exact, "RECIPES.TEST", false}},
		{"leaf", Matcher{DNS, Exact, "api.recipes.test", false}},
		{"leaf", Matcher{DNS, Exact, "x.recipes.test", false}},
		{"leaf", Matcher{DNS, Exact, "", false}},
		{"leaf", Matcher{DNS, Prefix, "api.", false}},
		{"leaf", Matcher{DNS, Prefix, "api.recipes", false}},
		{"leaf", Matcher{DNS, Prefix, "API.recipes", true}},
		{"leaf", Matcher{DNS, Suffix, ".RECIPES.test", false}},
		{"leaf", Matcher{DNS, Suffix, "ecipes.test", false}},
		{"leaf", Matcher{DNS, Contains, "i.REC", false}},
		{"leaf", Matcher{DNS, Contains, "i.rec", false}},
		{"leaf", Matcher{DNS, Contains, "i.rec", true}},
		{"leaf", Matcher{DNS, Regex, "recipes", false}},
		{"leaf", Matcher{DNS, Regex, "recipes.*", false}},
		{"leaf", Matcher{DNS, Regex, "x|recipes.test", false}},
		{"leaf", Matcher{DNS, Regex, "(?i)API.*", false}},
		{"leaf", Matcher{URI, Exact, "spiffe://mesh/ns/recipes", false}},
		{"leaf", Matcher{URI, Exact, "spiffe://MESH/ns/recipes", false}},
		{"leaf", Matcher{URI, Exact, "spiffe://MESH/ns/recipes", true}},
		{"leaf", Matcher{URI, Prefix, "spiffe://mesh/", false}},
		{"leaf", Matcher{URI, Prefix, "spiffe://other/", false}},
		{"leaf", Matcher{URI, Suffix, "/recipes", false}},
		{"leaf", Matcher{URI, Regex, "spiffe://mesh/ns/[a-z]+", false}},
		{"leaf", Matcher{URI, Exact, "recipes.test", false}},
		{"leaf", Matcher{IP, Exact, "10.0.0.1", false}},
		{"leaf", Matcher{IP, Exact, "10.0.0.2", false}},
		{"leaf", Matcher{IP, Prefix, "10.", false}},
		{"leaf", Matcher{IP, Exact, "2001:db8::1", false}},
		{"leaf", Matcher{IP, Exact, "2001:DB8::1", false}},
		{"leaf", Matcher{IP, Exact, "2001:0db8::1", false}},
		{"leaf", Matcher{Email, Exact, "Cook@recipes.test", false}},
		{"leaf", Matcher{Email, Exact, "cook@recipes.test", false}},
		{"leaf", Matcher{Email, Exact, "cook@recipes.test", true}},
		{"leaf", Matcher{Email, Suffix, "recipes.test", false}},
		{"leaf", Matcher{AnySAN, Exact, "spiffe://mesh/ns/recipes", false}},
		{"leaf", Matcher{AnySAN, Exact, "10.0.0.1", false}},
		{"leaf", Matcher{AnySAN, Exact, "RECIPES.test", false}},
		{"leaf", Matcher{AnySAN, Prefix, "nothing", false}},
		{"no names", Matcher{DNS, Exact, "recipes.test", false}},
		{"no names", Matcher{DNS, Regex, ".*", false}},
		{"foreign", Matcher{DNS, Exact, "recipes.test", false}},
		{"expired", Matcher{DNS, Exact, "recipes.test", false}},
	} {
		add(fmt.Sprintf("%s: name %+v", m.server, m.m), servers[m.server], with(func(c *Config) { c.SANs = []Matcher{m.m} }))
	}
	for _, host := range []string{
		"a.wild.test", "A.WILD.TEST", "a.b.wild.test", "wild.test", ".wild.test", "*.wild.test", "w.part.test", "www.part.test", "x.part.test", "yx.part.test", "y.part.test",
		"ab.mid.test", "axb.mid.test", "ba.mid.test", "xn--a.ace.test", "xn--*.ace.test", "a.b.two.test", "example.com", "com", "test", "localhost",
	} {
		add("wildcards: "+host, p.wild, with(func(c *Config) { c.SANs = []Matcher{{Type: DNS, Value: host}} }))
		add("wildcards: SNI "+host, p.wild, with(func(c *Config) { c.SNI, c.VerifySNI = host, true }))
	}
	add("wildcards: suffix of the pattern itself", p.wild, with(func(c *Config) { c.SANs = []Matcher{{Type: DNS, Match: Suffix, Value: ".wild.test"}} }))
	add("wildcards: exact with any type", p.wild, with(func(c *Config) { c.SANs = []Matcher{{Value: "q.wild.test"}} }))
	add("second of two names", p.leaf, with(func(c *Config) { c.SANs = []Matcher{{Type: DNS, Value: "x.test"}, SPIFFE("spiffe://mesh/ns/recipes")} }))
	add("names, accept untrusted", p.leaf, with(func(c *Config) { c.SANs, c.AcceptUntrusted = []Matcher{{Type: DNS, Value: "x.test"}}, true }))
	add("SNI wins over names", p.leaf, with(func(c *Config) {
		c.SANs, c.SNI, c.VerifySNI = []Matcher{{Type: DNS, Value: "x.test"}}, "recipes.test", true
	}))
	add("SNI is another name", p.leaf, with(func(c *Config) {
		c.SANs, c.SNI, c.VerifySNI = []Matcher{{Type: DNS, Value: "recipes.test"}}, "x.test", true
	}))
	add("no SNI to verify", p.leaf, with(func(c *Config) { c.VerifySNI = true }))
	add("no SNI to verify, but a name", p.leaf, with(func(c *Config) { c.SANs, c.VerifySNI = []Matcher{{Type: DNS, Value: "x.test"}}, true }))

	// Hashes.
	whole := func(c *cert) string { s := sha256.Sum256(c.Raw); return hex.EncodeToString(s[:]) }
	key := func(c *cert) string {
		s := sha256.Sum256(c.RawSubjectPublicKeyInfo)
		return base64.StdEncoding.EncodeToString(s[:])
	}
	colons := func(s string) string {
		var pairs []string
		for i := 0; i < len(s); i += 2 {
			pairs = append(pairs, strings.ToUpper(s[i:i+2]))
		}
		return strings.Join(pairs, ":")
	}
	add("hash", p.self, Config{Hashes: []string{whole(p.self)}})
	add("hash with colons", p.self, Config{Hashes: []string{whole(p.leaf), colons(whole(p.self))}})
	add("another hash", p.self, Config{Hashes: []string{whole(p.leaf)}})
	add("hash of an expired one", p.expired, Config{Hashes: []string{whole(p.expired)}})
	add("hash and CA", p.foreign, with(func(c *Config) { c.Hashes = []string{whole(p.foreign)} }))
	add("another hash and CA", p.leaf, with(func(c *Config) { c.Hashes = []string{whole(p.foreign)} }))
	add("key", p.self, Config{SPKIs: []string{key(p.self)}})
	add("another key", p.self, Config{SPKIs: []string{key(p.leaf)}})
	add("another key, but the hash", p.self, Config{SPKIs: []string{key(p.leaf)}, Hashes: []string{whole(p.self)}})
	add("another key, accept untrusted", p.self, Config{SPKIs: []string{key(p.leaf)}, AcceptUntrusted: true})
	add("hash and another name", p.leaf, with(func(c *Config) { c.Hashes, c.SANs = []string{whole(p.leaf)}, []Matcher{{Type: DNS, Value: "x.test"}} }))
	add("bad hash", p.leaf, Config{Hashes: []string{"abc"}})
	add("bad key", p.leaf, Config{SPKIs: []string{"abc"}})

	// Revocation.
	crl := func(texts ...string) Config { return with(func(c *Config) { c.CRL = in(texts...) }) }
	day := 24 * time.Hour
	add("crl: nothing revoked", p.leaf, crl(p.root.crl(t, day)))
	add("crl: revoked", p.leaf, crl(p.root.crl(t, day, p.leaf)))
	add("crl: another one revoked", p.leaf, crl(p.root.crl(t, day, p.via)))
	add("crl: of another issuer", p.leaf, crl(p.other.crl(t, day)))
	add("crl: out of date", p.leaf, crl(p.root.crl(t, -time.Hour)))
	add("crl: out of date, and a new one", p.leaf, crl(p.root.crl(t, -time.Hour), p.root.crl(t, day)))
	add("crl: for the intermediate alone", p.via, crl(p.root.crl(t, day)))
	add("crl: for the leaf alone", p.via, crl(p.inter.crl(t, day)))
	add("crl: for both", p.via, crl(p.inter.crl(t, day), p.root.crl(t, day)))
	add("crl: intermediate revoked", p.via, crl(p.inter.crl(t, day), p.root.crl(t, day, p.inter)))
	add("crl: leaf of intermediate revoked", p.via, crl(p.inter.crl(t, day, p.via), p.root.crl(t, day)))
	leafOnly := crl(p.inter.crl(t, day))
	leafOnly.OnlyLeafCRL = true
	add("crl: leaf only", p.via, leafOnly)
	leafOnly.CRL = in(p.root.crl(t, day))
	add("crl: leaf only, another's list", p.via, leafOnly)
	add("crl: in the CA", p.leaf, Config{CA: in(p.root.alone(), p.root.crl(t, day, p.leaf))})
	add("crl: in the CA, not revoked", p.leaf, Config{CA: in(p.root.alone(), p.root.crl(t, day))})
	late := crl(p.root.crl(t, -time.Hour))
	late.AllowExpired = true
	add("crl: out of date, allow expired", p.leaf, late)

	// What has no sense.
	add("name without CA", p.leaf, Config{SANs: []Matcher{{Type: DNS, Value: "recipes.test"}}})
	add("SNI without CA", p.leaf, Config{SNI: "recipes.test", VerifySNI: true})
	add("crl without CA", p.leaf, Config{CRL: in(p.root.crl(t, day))})
	add("allow expired without CA", p.leaf, Config{AllowExpired: true})
	add("prefix of nothing", p.leaf, with(func(c *Config) { c.SANs = []Matcher{{Type: DNS, Match: Prefix}} }))
	add("bad regex", p.leaf, with(func(c *Config) { c.SANs = []Matcher{{Type: DNS, Match: Regex, Value: "("}} }))
	add("CA is a key", p.leaf, Config{CA: in(p.leaf.keyPEM(t))})
	add("CA is cut off", p.leaf, Config{CA: in(p.root.alone(), p.other.alone()[:300])})
	add("CA is no PEM", p.leaf, Config{CA: in("hello")})
	add("CA with a key", p.leaf, Config{CA: in(p.leaf.keyPEM(t), p.root.alone())})
	add("CA with text", p.leaf, Config{CA: in("# a root\n", p.root.alone(), "\n# the end\n")})
	add("certificate without key", p.leaf, Config{Certificate: in(p.client.pem())})
	add("certificate with another key", p.leaf, Config{Certificate: in(p.client.pem()), Key: in(p.leaf.keyPEM(t))})

	// The connection.
	add("version: default", p.leaf, Config{}).show, all[len(all)-1].differs = "version", "accepted, version TLS 1.3"
	for _, v := range [][2]uint16{{tls.VersionTLS13, 0}, {0, tls.VersionTLS12}, {tls.VersionTLS12, tls.VersionTLS13}, {tls.VersionTLS10, tls.VersionTLS11}, {0, tls.VersionTLS11}, {tls.VersionTLS13, tls.VersionTLS12}} {
		s := add(fmt.Sprintf("version: %#x to %#x", v[0], v[1]), p.leaf, Config{MinVersion: v[0], MaxVersion: v[1]})
		s.show, s.server.MinVersion = "version", tls.VersionTLS10
		s.differs = map[[2]uint16]string{{tls.VersionTLS13, 0}: "accepted, version TLS 1.3", {tls.VersionTLS13, tls.VersionTLS12}: "config"}[v]
	}
	for _, suites := range []string{"", "ECDHE-RSA-AES256-GCM-SHA384", "[ECDHE-RSA-CHACHA20-POLY1305|ECDHE-ECDSA-AES128-GCM-SHA256]", "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "ECDHE-RSA-AES256-SHA", "AES128-GCM-SHA256", "nonsense", "TLS_AES_128_GCM_SHA256"} {
		config := Config{MaxVersion: tls.VersionTLS12}
		if suites != "" {
			config.CipherSuites = []string{suites}
		}
		s := add("suites: "+suites, p.rsa, config)
		s.show = "suite"
		for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
			s.server.CipherSuites = append(s.server.CipherSuites, suite.ID)
		}
	}
	legacy := add("suites: server with old ones only", p.rsa, Config{MaxVersion: tls.VersionTLS12})
	legacy.server.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
	curve := add("curves: none in common", p.leaf, Config{Curves: []string{"P-256"}})
	curve.server.CurvePreferences = []tls.CurveID{tls.CurveP384}
	add("curves: unknown", p.leaf, Config{Curves: []string{"P-1"}})
	curve = add("curves: one in common", p.leaf, Config{Curves: []string{"P-384", "P-256"}})
	curve.server.CurvePreferences = []tls.CurveID{tls.CurveP384}
	add("alpn: none", p.leaf, Config{}).show, all[len(all)-1].differs = "alpn", `accepted, alpn ""`
	add("alpn: one", p.leaf, Config{ALPN: []string{"http/1.1"}}).show = "alpn"
	add("alpn: two", p.leaf, Config{ALPN: []string{"other", "http/1.1"}}).show = "alpn"
	add("sni: none", p.leaf, Config{}).show = "sni"
	add("sni", p.leaf, Config{SNI: "recipes.test"}).show = "sni"
	client := func(ask tls.ClientAuthType, config Config) scenario {
		s := scenario{server: serverOf(p.leaf), config: config, show: "client"}
		s.server.ClientAuth, s.server.ClientCAs = ask, x509.NewCertPool()
		s.server.ClientCAs.AddCert(p.root.Certificate)
		return s
	}
	mine := Config{Certificate: in(p.client.pem()), Key: in(p.client.keyPEM(t))}
	stranger := issue(t, "stranger", p.other, form{client: true})
	for name, s := range map[string]scenario{
		"client: not asked":            client(tls.NoClientCert, mine),
		"client: asked, has none":      client(tls.RequestClientCert, Config{}),
		"client: asked":                client(tls.RequestClientCert, mine),
		"client: demanded":             client(tls.RequireAndVerifyClientCert, mine),
		"client: demanded, has none":   client(tls.RequireAndVerifyClientCert, Config{}),
		"client: demanded, a stranger": client(tls.RequireAndVerifyClientCert, Config{Certificate: in(stranger.pem()), Key: in(stranger.keyPEM(t))}),
	} {
		s.name = name
		if s.server.ClientAuth == tls.RequireAndVerifyClientCert {
			s.config.MaxVersion = tls.VersionTLS12 // else the handshake is over before the server refuses
		}
		all = append(all, s)
	}
	return all
}

// shown returns what s wants to see of a connection.
func (s *scenario) shown(state *tls.ConnectionState) string {
	switch s.show {
	case "version":
		return ", version " + tls.VersionName(state.Version)
	case "suite":
		return ", suite " + tls.CipherSuiteName(state.CipherSuite)
	case "alpn":
		return fmt.Sprintf(", alpn %q", state.NegotiatedProtocol)
	case "sni":
		return fmt.Sprintf(", sni %q", state.ServerName)
	case "client":
		names := []string{}
		for _, c := range state.PeerCertificates {
			names = append(names, c.Subject.CommonName)
		}
		return fmt.Sprintf(", client %q", names)
	default:
		return ""
	}
}

// TestEnvoy compares what comes of scenarios here with what came of them in Envoy.
func TestEnvoy(t *testing.T) {
	all := scenarios(t)
	addresses := make([]string, len(all))
	for i := range all {
		addresses[i] = serve(t, &all[i])
	}
	if *recordEnvoy {
		keep(t, playEnvoy(t, all, addresses))
	}
	b, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct{ Outcomes map[string]string }
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	same, differ, failing := 0, 0, 0
	for i, s := range all {
		got, want := play(t, s, addresses[i]), recorded.Outcomes[s.name]
		if s.differs == want {
			t.Errorf("%s: the documented difference is none: %s", s.name, want)
		}
		switch {
		case got == want && s.differs == "":
			same++
		case got == s.differs:
			differ++
		default:
			failing++
			t.Errorf("%s: got %q, Envoy %q", s.name, got, want)
		}
	}
	if len(recorded.Outcomes) != len(all) {
		t.Errorf("recorded %d scenarios, want %d: record them again", len(recorded.Outcomes), len(all))
	}
	t.Logf("golden secure: %d cases, %d same, %d documented differences, 0 not yet, %d failing", len(all), same, differ, failing)
}

// serve runs the server of s until the test ends. It shows what s wants to see.
func serve(t *testing.T, s *scenario) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.server.NextProtos = []string{"http/1.1"}
	server := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "accepted"+s.shown(r.TLS)) }),
		ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
	}
	var running sync.WaitGroup
	running.Go(func() { server.Serve(tls.NewListener(l, s.server)) })
	t.Cleanup(func() { server.Close(); running.Wait() })
	return l.Addr().String()
}

// play calls the server of s and returns what came of it, in the form of the recording.
func play(t *testing.T, s scenario, address string) string {
	t.Helper()
	secure, err := New(s.config)
	if err != nil {
		return "config"
	}
	defer secure.Close()
	transport := &http.Transport{TLSClientConfig: secure.TLSConfig(), DisableKeepAlives: true}
	transport.DialTLSContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		raw, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		conn := tls.Client(raw, secure.TLSConfig()) // which may have no server name, as in Envoy
		err = conn.HandshakeContext(ctx)
		secure.Observe(conn.ConnectionState(), err)
		return conn, err
	}
	return outcome(func(name string) uint64 {
		st := secure.Stats()
		return map[string]uint64{
			"fail_verify_error": st.FailVerifyError, "fail_verify_san": st.FailVerifySAN, "fail_verify_cert_hash": st.FailVerifyCertHash,
			"fail_verify_no_cert": st.FailVerifyNoCert, "connection_error": st.ConnectionError, "handshake": st.Handshake,
		}[name]
	}, func() (*http.Response, error) { return transport.RoundTrip(newRequest(t, "https://"+address+"/")) })
}

func newRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// outcome calls and says what came of it: what the server showed, or that it was refused; and
// the statistics that count something.
func outcome(stat func(string) uint64, call func() (*http.Response, error)) string {
	out := []string{"refused"}
	if resp, err := call(); err == nil {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			out[0] = string(body)
		}
	}
	for _, name := range []string{"fail_verify_error", "fail_verify_san", "fail_verify_cert_hash", "fail_verify_no_cert", "connection_error"} {
		if stat(name) > 0 {
			out = append(out, name)
		}
	}
	if (stat("handshake") > 0) != strings.HasPrefix(out[0], "accepted") {
		out = append(out, fmt.Sprintf("handshake %d", stat("handshake")))
	}
	return strings.Join(out, ", ")
}

func keep(t *testing.T, outcomes map[string]string) {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{
		"Program": "Envoy 1.40.0", "Command": "PILLION_ENVOY=… go test ./cluster/internal/secure -run TestEnvoy -record", "Outcomes": outcomes,
	}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recording, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// object is an object of JSON.
type object = envoytest.Object

// playEnvoy plays the scenarios through one Envoy, but for those with a configuration that it
// refuses.
func playEnvoy(t *testing.T, all []scenario, addresses []string) map[string]string {
	t.Helper()
	outcomes := map[string]string{}
	var clusters, routes []object
	var playable []int
	for i, s := range all {
		c := clusterOf(s, i, addresses[i])
		if _, err := New(s.config); err != nil && !envoytest.Validates(t, envoytest.Bootstrap([]object{c}, nil)) {
			outcomes[s.name] = "config"
			continue
		}
		clusters, playable = append(clusters, c), append(playable, i)
		routes = append(routes, envoytest.Route(fmt.Sprint("c", i), nil))
	}
	e := envoytest.RunListening(t, envoytest.Bootstrap(clusters, routes))
	for _, i := range playable {
		prefix := fmt.Sprintf("cluster.c%d.ssl.", i)
		var stats map[string]uint64 // read after the call
		outcomes[all[i].name] = outcome(func(name string) uint64 { return stats[prefix+name] }, func() (*http.Response, error) {
			resp, err := http.DefaultTransport.RoundTrip(newRequest(t, fmt.Sprintf("http://%s/c%d/", e.Egress, i)))
			stats = e.MustStats(t, "^"+regexp.QuoteMeta(prefix))
			return resp, err
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return outcomes
}

func clusterOf(s scenario, i int, address string) object {
	name := fmt.Sprint("c", i)
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": envoytest.Assignment(name, address),
		"transport_socket": object{"name": "tls", "typed_config": upstreamTLS(s.config)},
	}
}

// upstreamTLS is c as Envoy has it.
func upstreamTLS(c Config) object {
	versions := map[uint16]string{0: "TLS_AUTO", tls.VersionTLS10: "TLSv1_0", tls.VersionTLS11: "TLSv1_1", tls.VersionTLS12: "TLSv1_2", tls.VersionTLS13: "TLSv1_3"}
	validation := object{}
	set := func(name string, value any, is bool) {
		if is {
			validation[name] = value
		}
	}
	set("trusted_ca", object{"inline_string": c.CA.Inline}, !c.CA.isZero())
	set("crl", object{"inline_string": c.CRL.Inline}, !c.CRL.isZero())
	set("only_verify_leaf_cert_crl", true, c.OnlyLeafCRL)
	set("allow_expired_certificate", true, c.AllowExpired)
	set("trust_chain_verification", "ACCEPT_UNTRUSTED", c.AcceptUntrusted)
	set("verify_certificate_hash", c.Hashes, len(c.Hashes) > 0)
	set("verify_certificate_spki", c.SPKIs, len(c.SPKIs) > 0)
	var typed, untyped []object
	for _, m := range c.SANs {
		how := map[Match]string{Exact: "exact", Prefix: "prefix", Suffix: "suffix", Contains: "contains", Regex: "safe_regex"}[m.Match]
		matcher := object{how: m.Value, "ignore_case": m.IgnoreCase}
		if m.Match == Regex {
			matcher[how] = object{"regex": m.Value}
		}
		if m.Type == AnySAN {
			untyped = append(untyped, matcher)
			continue
		}
		typed = append(typed, object{"san_type": map[SANType]string{DNS: "DNS", URI: "URI", IP: "IP_ADDRESS", Email: "EMAIL"}[m.Type], "matcher": matcher})
	}
	set("match_typed_subject_alt_names", typed, len(typed) > 0)
	set("match_subject_alt_names", untyped, len(untyped) > 0)
	params := object{"tls_minimum_protocol_version": versions[c.MinVersion], "tls_maximum_protocol_version": versions[c.MaxVersion], "cipher_suites": c.CipherSuites, "ecdh_curves": c.Curves}
	common := object{"tls_params": params, "alpn_protocols": c.ALPN, "validation_context": validation}
	if !c.Certificate.isZero() {
		certificate := object{"certificate_chain": object{"inline_string": c.Certificate.Inline}}
		if !c.Key.isZero() {
			certificate["private_key"] = object{"inline_string": c.Key.Inline}
		}
		common["tls_certificates"] = []object{certificate}
	}
	return object{
		"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
		"sni":   c.SNI, "auto_sni_san_validation": c.VerifySNI, "common_tls_context": common,
	}
}
