package secure

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// slowMatchDNS is what matchDNS does by way of a regular expression.
func slowMatchDNS(host, pattern string) bool {
	host, pattern = strings.ToLower(host), strings.ToLower(pattern)
	if host == pattern {
		return true
	}
	labels := strings.Split(pattern, ".")
	if len(labels) < 2 || strings.Count(pattern, "*") != 1 || strings.Count(labels[0], "*") != 1 || strings.HasPrefix(labels[0], "xn--") {
		return false
	}
	first := strings.ReplaceAll(regexp.QuoteMeta(labels[0]), `\*`, `[^.]*`)
	rest := regexp.QuoteMeta(strings.Join(labels[1:], "."))
	return regexp.MustCompile(`(?s)\A` + first + `\.` + rest + `\z`).MatchString(host)
}

func FuzzMatchDNS(f *testing.F) {
	for _, s := range [][2]string{
		{"a.test", "*.test"},
		{"a.b.test", "*.test"},
		{"A.test", "a.TEST"},
		{"abc.test", "a*c.test"},
		{"ac.test", "a*c.test"},
		{"a.test", "a*a.test"},
		{"xn--a.test", "xn--*.test"},
		{"a.test", "*.*"},
		{"a", "*"},
		{".test", "*.test"},
		{"a.test", "**.test"},
		{"", ""},
		{"*", "*.*."},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, host, pattern string) {
		for _, s := range []string{host, pattern} {
			for i := range len(s) { // beyond ASCII, what is a letter differs
				if s[i] >= 0x80 {
					return
				}
			}
		}
		if got, want := matchDNS(host, pattern), slowMatchDNS(host, pattern); got != want {
			t.Errorf("host %q, pattern %q: got %v, want %v", host, pattern, got, want)
		}
	})
}

// TestNames compares the names of random certificates with what package x509 reads there.
func TestNames(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	choices := []string{"dns:a.test", "dns:*.b.test", "ip:10.0.0.1", "ip:2001:db8::1", "email:a@b.test", "uri:spiffe://mesh/a", "uri:urn:x:y", "dns:"}
	for range 30 {
		var sans []string
		for range rnd.IntN(6) {
			sans = append(sans, choices[rnd.IntN(len(choices)-1)])
		}
		c := issue(t, "x", nil, form{sans: strings.Join(sans, " ")})
		var want []string
		for _, n := range c.DNSNames {
			want = append(want, "2 "+n)
		}
		for _, n := range c.EmailAddresses {
			want = append(want, "1 "+n)
		}
		for _, n := range c.IPAddresses {
			want = append(want, "7 "+n.String())
		}
		for _, n := range c.URIs {
			want = append(want, "6 "+n.String())
		}
		var got []string
		for _, n := range names(c.Certificate) {
			got = append(got, string('0'+byte(n.tag))+" "+n.text)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%v: got %q, want %q", sans, got, want)
		}
	}
}

// TestRawNames: URIs are compared as they are written, which package url would change.
func TestRawNames(t *testing.T) {
	t.Parallel()
	const uri = "SPIFFE://mesh/a%2fb?"
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}, {Class: asn1.ClassContextSpecific, Tag: 7, Bytes: []byte{1, 2, 3, 4}}})
	if err != nil {
		t.Fatal(err)
	}
	c := issue(t, "x", nil, form{edit: func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}})
	if got := names(c.Certificate); len(got) != 2 || got[0].text != uri || got[1].text != "1.2.3.4" {
		t.Errorf("got %v, want the URI as it is written, and the address", got)
	}
}

// FuzzNames reads whatever is where names should be: it does not panic, and the names it finds
// are in it.
func FuzzNames(f *testing.F) {
	good, _ := asn1.Marshal([]asn1.RawValue{{Class: 2, Tag: 2, Bytes: []byte("a.test")}, {Class: 2, Tag: 7, Bytes: []byte(net.IPv6loopback)}, {Class: 2, Tag: 7, Bytes: []byte{1}}})
	f.Add(good)
	f.Add(good[:9])
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, value []byte) {
		c := &x509.Certificate{Extensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}}
		for _, n := range names(c) {
			if n.tag != IP.tag() && !strings.Contains(string(value), n.text) {
				t.Errorf("got name %q, which is not in %x", n.text, value)
			}
		}
	})
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	root := issue(t, "root", nil, form{ca: true})
	ca := in(root.alone())
	for _, c := range []struct {
		config Config
		want   []string // parts of the error
	}{
		{Config{}, nil},
		{Config{CA: ca, SANs: []Matcher{{}, SPIFFE("spiffe://mesh/a"), {Match: Regex, Value: "(?i)a"}}, VerifySNI: true, AllowExpired: true}, nil},
		{Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10, MaxSessionKeys: NoSessions, ReloadInterval: NeverReload, ALPN: []string{"h2"}}, nil},
		{Config{CipherSuites: []string{"ECDHE-RSA-AES128-SHA:TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "[AES128-SHA|AES256-SHA]", "ECDHE-ECDSA-AES256-SHA", "ECDHE-ECDSA-AES128-SHA", "AES256-GCM-SHA384"}}, nil},
		{Config{CA: Source{File: "a", Inline: "b"}}, []string{"Config.CA: File and Inline are set"}},
		{Config{Key: in("x")}, []string{"Config.Certificate and Config.Key: only one is set"}},
		{Config{SANs: make([]Matcher, 1), VerifySNI: true, AllowExpired: true, CRL: ca}, []string{"Config.SANs", "Config.VerifySNI", "Config.AllowExpired", "Config.CRL: set without CA: set CA, too"}},
		{
			Config{CA: ca, SANs: []Matcher{{Type: 9}, {Match: 9}, {Match: Suffix}, {Match: Regex, Value: "("}, {Match: Regex, Value: "a", IgnoreCase: true}, {Type: -1}}},
			[]string{"SANs[0].Type", "SANs[1].Match", "SANs[2].Value", "SANs[3].Value: error parsing regexp", "SANs[4].IgnoreCase", "SANs[5].Type"},
		},
		{Config{Hashes: []string{"00"}, SPKIs: []string{"!"}}, []string{"Config.Hashes[0]: 00", "Config.SPKIs[0]: !"}},
		{Config{MinVersion: 1, MaxVersion: 0x305}, []string{"Config.MinVersion: 0x0001", "Config.MaxVersion: 0x0305"}},
		{Config{MinVersion: tls.VersionTLS13, MaxVersion: tls.VersionTLS12}, []string{"Config.MinVersion: TLS 1.3: write at most MaxVersion, TLS 1.2"}},
		{Config{CipherSuites: []string{"RC5", "TLS_AES_128_GCM_SHA256"}}, []string{"CipherSuites: RC5", "CipherSuites: TLS_AES_128_GCM_SHA256"}},
		{Config{Curves: []string{"P-192"}}, []string{"Curves[0]: P-192"}},
		{Config{MaxSessionKeys: -2, ReloadInterval: -2, ALPN: []string{""}}, []string{"MaxSessionKeys: -2", "ReloadInterval: -2ns", `ALPN[0]: ""`}},
		{Config{CA: in("x"), Certificate: in("x"), Key: in("y")}, []string{"Config.CA: [inline text]: contains no PEM", "Config.Certificate and Config.Key: [inline text inline text]: contains no PEM"}},
		{Config{CA: ca, CRL: in(root.alone() + "-----BEGIN X509 CRL-----\naGVsbG8=\n-----END X509 CRL-----\n")}, []string{"CRL: PEM block 2: x509: malformed crl"}},
		{Config{Certificate: ca, Key: in("-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n")}, []string{"the key is encrypted"}},
	} {
		_, err := New(c.config)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%+v: got error %v", c.config, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got error %v, want %q in it", err, want)
			}
		}
	}
}

func TestSuspicious(t *testing.T) {
	t.Parallel()
	ca := in(issue(t, "root", nil, form{ca: true}).alone())
	hash := []string{strings.Repeat("ab", 32)}
	for _, c := range []struct {
		config Config
		want   []string // the fields
	}{
		{Config{}, []string{"CA"}},
		{Config{Hashes: hash}, nil},
		{Config{CA: ca}, []string{"SANs"}},
		{Config{CA: ca, SANs: make([]Matcher, 1)}, nil},
		{Config{CA: ca, VerifySNI: true}, nil},
		{Config{CA: ca, Hashes: hash, AllowExpired: true, AcceptUntrusted: true, MinVersion: tls.VersionTLS10}, []string{"AcceptUntrusted", "AllowExpired", "MinVersion"}},
	} {
		var got []string
		for _, sentence := range newSecure(t, c.config).Suspicious() {
			field, ok := strings.CutPrefix(sentence, "secure: Config.")
			if !ok {
				t.Errorf("got %q, want a field in it", sentence)
			}
			field, _, _ = strings.Cut(field, ":")
			got = append(got, field)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %q, want sentences about %q", c.config, got, c.want)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	t.Parallel()
	c := issue(t, "x", nil, form{sans: "dns:a.test"})
	for _, e := range []struct {
		err  error
		want string
	}{
		{&SANError{Names: []string{"a.test"}}, `secure: no subject alternative name of the certificate matches: it has ["a.test"]`},
		{&RevocationError{Cert: c.Certificate, Reason: "it is revoked"}, `secure: certificate "CN=x": it is revoked`},
		{&HashError{Hash: "ab"}, "secure: neither the certificate, with SHA-256 hash ab, nor its key is one of those wanted"},
	} {
		if got := e.err.Error(); got != e.want {
			t.Errorf("got %q, want %q", got, e.want)
		}
	}
}

// TestCriticalCRL: a revocation list with demands that are not understood is an error, rather
// than a list that revokes less than it says.
func TestCriticalCRL(t *testing.T) {
	t.Parallel()
	root := issue(t, "root", nil, form{ca: true})
	_, err := newRevocations(criticalCRL(t, root))
	if err == nil || !strings.Contains(err.Error(), "critical extension 2.5.29.28") {
		t.Errorf("got error %v, want one about the extension", err)
	}
}

// TestSuites: each suite of OpenSSL's that is known is the one of package tls.
func TestSuites(t *testing.T) {
	t.Parallel()
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if s.SupportedVersions[0] == tls.VersionTLS13 {
			continue
		}
		name := strings.NewReplacer("TLS_RSA_WITH_", "", "TLS_", "", "_WITH", "", "AES_128", "AES128", "AES_256", "AES256", "_CBC", "", "_", "-").Replace(s.Name)
		name = strings.TrimSuffix(name, map[bool]string{true: "-SHA256"}[strings.Contains(name, "CHACHA20")])
		if id := openSSLSuite(name); id != 0 && id != s.ID {
			t.Errorf("%s: got %s, want %s", name, tls.CipherSuiteName(id), s.Name)
		}
	}
	if got, _ := cipherSuites(nil); len(got) != 6 {
		t.Errorf("got %d suites by default, want 6", len(got))
	}
}
