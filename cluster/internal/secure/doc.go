// Package secure makes the TLS configuration of connections to upstreams, as Envoy's
// UpstreamTlsContext describes it:
//
//	s, err := secure.New(secure.Config{
//		CA:   secure.Source{File: "/etc/mesh/ca.pem"},
//		SNI:  "recipes.internal",
//		SANs: []secure.Matcher{secure.SPIFFE("spiffe://mesh/ns/recipes")},
//	})
//	if err != nil { … }
//	defer s.Close()
//	transport.TLSClientConfig = s.TLSConfig()
//
// # What is verified
//
// What Envoy verifies, and no more. With [Config.CA], the server's certificate must lead to one
// of its certificates, be for servers and valid at the time. With [Config.SANs], one of the
// names in it must match one of them. With [Config.Hashes] or [Config.SPKIs], it must be one of
// those. Without CA and hashes nothing is verified. The host that a connection is for is not
// compared with the certificate, unless [Config.VerifySNI] asks for it. [Secure.Suspicious]
// lists what of that deserves a second look.
//
// A resumed session is verified like a new one. A refusal is a [tls.CertificateVerificationError]
// whose Err is a [SANError], a [HashError], a [RevocationError] or an error of package x509.
// Because package tls does not verify, VerifiedChains of a connection's state is empty.
//
// # Files that change
//
// The contents of files are compared every few seconds, so that it does not matter how they are
// replaced, and new contents are used for new connections; sessions from before are not resumed.
// The certificates of the authority and the certificate of the client are replaced independently,
// the latter together with its key. Contents that cannot be used are reported, and the last good
// ones stay in use.
//
// # What differs from Envoy
//
//   - TLS 1.3 is used unless MaxVersion says otherwise. Envoy's default for upstreams is 1.2, with
//     which a MinVersion of 1.3 refuses every connection. A MinVersion above MaxVersion is an
//     error; Envoy refuses every connection.
//   - A server's own certificate in CA is trusted whatever is wrong with those it is shown with.
//   - What the connection's protocol asks for of ALPN is not added to Config.ALPN.
//   - Package x509 refuses some certificates that Envoy accepts, such as those signed with SHA-1.
//   - Files are watched. Envoy watches those of secrets only.
package secure
