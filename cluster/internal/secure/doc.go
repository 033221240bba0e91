// Package secure makes the TLS configuration of connections to upstreams. It mirrors Envoy's
// UpstreamTlsContext:
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
// The package verifies what Envoy verifies, and nothing else. With [Config.CA], the server's
// certificate must be issued by one of its certificates, be valid at the time, and be a server
// certificate. With [Config.SANs], one of its names must match. With [Config.Hashes] or
// [Config.SPKIs], it must have one of the hashes. Without CA and hashes nothing is verified. The
// host of the connection is compared with the certificate only with [Config.VerifySNI].
// [Secure.Suspicious] lists missing verifications.
//
// A resumed session is verified like a new one. The error of a verification is a
// [tls.CertificateVerificationError] whose Err is a [SANError], a [HashError], a
// [RevocationError] or an error of package x509. Because package tls does not verify,
// VerifiedChains of a connection's state is empty.
//
// # Files that change
//
// The contents of files are compared every few seconds, so that any way to replace them works. New
// connections use the new contents; older sessions are not resumed. The certificates of the
// authority and the certificate of the client are replaced independently, the latter together with
// its key. Invalid contents are reported, and the last valid contents stay in use.
//
// # Differences from Envoy
//
//   - The default of MaxVersion is TLS 1.3. Envoy's default for upstreams is 1.2, with which a
//     MinVersion of 1.3 refuses every connection. A MinVersion above MaxVersion is an error; Envoy
//     refuses every connection.
//   - A server certificate that is in CA is trusted, even if the certificates that are sent with
//     it are invalid.
//   - The ALPN protocols of the connection's protocol are not added to Config.ALPN.
//   - Package x509 refuses some certificates that Envoy accepts, such as those signed with SHA-1.
//   - Files are watched. Envoy watches only the files of secrets.
package secure
