package secure

import (
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkCheck verifies a certificate of an intermediate, as each handshake does.
func BenchmarkCheck(b *testing.B) {
	root := issue(b, "root", nil, form{ca: true})
	inter := issue(b, "inter", root, form{ca: true})
	leaf := issue(b, "leaf", inter, form{sans: "dns:recipes.test uri:spiffe://mesh/ns/recipes"})
	certs := []*x509.Certificate{leaf.Certificate, inter.Certificate}
	ca := in(root.alone())
	for _, c := range []struct {
		name   string
		config Config
	}{
		{"nothing", Config{}},
		{"chain", Config{CA: ca}},
		{"chain and name", Config{CA: ca, SANs: []Matcher{SPIFFE("spiffe://mesh/ns/recipes")}}},
		{"chain and lists", Config{CA: ca, CRL: in(root.crl(b, time.Hour), inter.crl(b, time.Hour))}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := New(c.config)
			if err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				if err := s.plan.check(s.trust.Load(), certs, "", now); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReload looks for changes of a file that does not change.
func BenchmarkReload(b *testing.B) {
	ca := filepath.Join(b.TempDir(), "ca.pem")
	write(b, ca, issue(b, "root", nil, form{ca: true}).alone())
	s, err := New(Config{CA: Source{File: ca}, ReloadInterval: NeverReload})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Reload(); err != nil {
			b.Fatal(err)
		}
	}
}
