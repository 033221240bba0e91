package secure

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
)

// defaultSuites lists Envoy's default suites for upstreams.
const defaultSuites = "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]:[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]:" +
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384"

// openSSLSuite returns the cipher suite with a name of OpenSSL, or 0.
func openSSLSuite(name string) uint16 {
	switch name {
	case "ECDHE-ECDSA-AES128-GCM-SHA256":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	case "ECDHE-ECDSA-AES256-GCM-SHA384":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	case "ECDHE-ECDSA-CHACHA20-POLY1305":
		return tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
	case "ECDHE-ECDSA-AES128-SHA":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA
	case "ECDHE-ECDSA-AES256-SHA":
		return tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA
	case "ECDHE-RSA-AES128-GCM-SHA256":
		return tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
	case "ECDHE-RSA-AES256-GCM-SHA384":
		return tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
	case "ECDHE-RSA-CHACHA20-POLY1305":
		return tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
	case "ECDHE-RSA-AES128-SHA":
		return tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA
	case "ECDHE-RSA-AES256-SHA":
		return tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA
	case "AES128-GCM-SHA256":
		return tls.TLS_RSA_WITH_AES_128_GCM_SHA256
	case "AES256-GCM-SHA384":
		return tls.TLS_RSA_WITH_AES_256_GCM_SHA384
	case "AES128-SHA":
		return tls.TLS_RSA_WITH_AES_128_CBC_SHA
	case "AES256-SHA":
		return tls.TLS_RSA_WITH_AES_256_CBC_SHA
	default:
		return 0
	}
}

// goSuite returns the cipher suite for TLS 1.2 or older with a name of package tls, or 0.
func goSuite(name string) uint16 {
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if s.Name == name && s.SupportedVersions[0] != tls.VersionTLS13 {
			return s.ID
		}
	}
	return 0
}

// cipherSuites returns the suites with the given names, or the default suites if there are no names.
func cipherSuites(names []string) ([]uint16, error) {
	if len(names) == 0 {
		names = []string{defaultSuites}
	}
	var suites []uint16
	var errs []error
	for _, name := range strings.FieldsFunc(strings.Join(names, ":"), func(r rune) bool { return strings.ContainsRune("[|]:", r) }) {
		id := max(openSSLSuite(name), goSuite(name))
		if id == 0 {
			errs = append(errs, bad("CipherSuites", name, "write a name such as ECDHE-RSA-AES128-GCM-SHA256; suites of TLS 1.3 cannot be selected"))
		}
		suites = append(suites, id)
	}
	return suites, errors.Join(errs...)
}

// curves returns the key exchanges with the given names.
func curves(names []string) ([]tls.CurveID, error) {
	known := map[string]tls.CurveID{
		"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521, "X25519MLKEM768": tls.X25519MLKEM768,
	}
	var ids []tls.CurveID
	var errs []error
	for i, name := range names {
		if known[name] == 0 {
			errs = append(errs, bad(fmt.Sprintf("Curves[%d]", i), name, "write X25519, P-256, P-384, P-521 or X25519MLKEM768"))
		}
		ids = append(ids, known[name])
	}
	return ids, errors.Join(errs...)
}
