package secure

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion/internal/report"
)

// Secure is the TLS of connections to an upstream. It is safe for concurrent use.
type Secure struct {
	plan     *plan
	trust    atomic.Pointer[trust]           // nil without a CA
	identity atomic.Pointer[tls.Certificate] // nil without a client certificate
	sessions *sessions                       // nil without resumption
	counts   counts

	reloading sync.Mutex // held during Reload, and taken before mu
	parts     []*part    // guarded by reloading
	forget    bool       // whether to empty sessions once more; guarded by reloading

	mu  sync.Mutex
	err error // the last reported error; guarded by mu

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Stats counts the results of handshakes. The fields are named after Envoy's statistics of a
// cluster's TLS.
type Stats struct {
	// Handshake counts handshakes that succeeded. SessionReused counts handshakes that resumed a
	// session. [Secure.Observe] counts both.
	Handshake, SessionReused uint64
	// ConnectionError counts handshakes that failed in TLS itself. [Secure.Observe] counts them.
	ConnectionError uint64
	// FailVerifyError counts certificates that CA did not issue, that are not valid at the time,
	// that are revoked, or that are not server certificates. FailVerifySAN counts certificates
	// without a matching name, FailVerifyCertHash certificates without a matching hash, and
	// FailVerifyNoCert servers without a certificate.
	FailVerifyError, FailVerifySAN, FailVerifyCertHash, FailVerifyNoCert uint64
}

type counts struct {
	handshake, reused, connection, chain, san, hash, none atomic.Uint64
}

// New reads the files of config and starts to check them for changes. The error joins the errors of
// all fields of config.
func New(config Config) (*Secure, error) {
	p, err := config.check()
	if err != nil {
		return nil, err
	}
	s := &Secure{plan: p, stop: func() {}}
	if n := cmp.Or(p.MaxSessionKeys, 1); n != NoSessions {
		s.sessions = newSessions(n)
	}
	s.parts = s.sources()
	var errs []error
	for _, part := range s.parts {
		part.refresh()
		errs = append(errs, part.err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s.watch()
	return s, nil
}

// sources returns the parts that come from text.
func (s *Secure) sources() []*part {
	p, parts := s.plan, []*part(nil)
	if !p.CA.isZero() {
		ca := &part{name: "Config.CA", sources: []Source{p.CA}, use: s.useTrust}
		if !p.CRL.isZero() {
			ca.name, ca.sources = "Config.CA and Config.CRL", append(ca.sources, p.CRL)
		}
		parts = append(parts, ca)
	}
	if !p.Certificate.isZero() {
		parts = append(parts, &part{name: "Config.Certificate and Config.Key", sources: []Source{p.Certificate, p.Key}, use: s.useIdentity})
	}
	return parts
}

func (s *Secure) useTrust(texts [][]byte) error {
	t, err := newTrust(texts[0], slices.Concat(texts[1:]...), s.plan.AllowExpired)
	if err == nil {
		s.trust.Store(t)
	}
	return err
}

func (s *Secure) useIdentity(texts [][]byte) error {
	cert, err := identity(texts[0], texts[1])
	if err == nil {
		s.identity.Store(cert)
	}
	return err
}

// watch starts to check files for changes, if there are files.
func (s *Secure) watch() {
	interval := cmp.Or(s.plan.ReloadInterval, DefaultReloadInterval)
	if interval == NeverReload || !slices.ContainsFunc(s.parts, (*part).files) {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	s.running.Go(func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				s.look()
			}
		}
	})
}

// look checks the files for changes, in a goroutine without a caller.
func (s *Secure) look() {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("the function TLS.Report of a cluster", p)
		}
	}()
	_ = s.Reload() // Report and Err have the error
}

// Close ends the checks for changes and waits for a running Report. Configurations of TLSConfig
// keep the last contents. Later calls do nothing.
func (s *Secure) Close() {
	s.stop()
	s.running.Wait()
}

// Reload checks the files for changes immediately. It returns the result of Err.
func (s *Secure) Reload() error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	var errs []error
	changed := false
	for _, p := range s.parts {
		changed = p.refresh() || changed
		errs = append(errs, p.err)
	}
	s.renew(changed)
	err := errors.Join(errs...)
	if s.note(err) && s.plan.Report != nil {
		s.plan.Report(err)
	}
	return err
}

// renew removes all sessions after a change, since they were made with the previous certificates. It
// removes them again the next time, because of handshakes that were running. The caller holds
// s.reloading.
func (s *Secure) renew(changed bool) {
	if (changed || s.forget) && s.sessions != nil {
		s.sessions.empty()
	}
	s.forget = changed
}

// note stores err and reports whether it differs from the previous one.
func (s *Secure) note(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := errorText(err) == errorText(s.err)
	s.err = err
	return !same
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Err returns an error if the contents of a file are invalid, so that earlier contents are in use. It
// returns nil if all current contents are in use.
func (s *Secure) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// TLSConfig returns a configuration to clone. The clone's ServerName may be set for a connection.
// TLSConfig always returns the same configuration, which uses the current contents of the files.
func (s *Secure) TLSConfig() *tls.Config {
	p := s.plan
	c := &tls.Config{
		ServerName:         p.SNI,
		NextProtos:         slices.Clone(p.ALPN),
		CipherSuites:       slices.Clone(p.suites),
		CurvePreferences:   slices.Clone(p.curves),
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, also for resumed sessions
		VerifyConnection:   s.verify,
	}
	c.MinVersion, c.MaxVersion = p.versions()
	if !p.Certificate.isZero() {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.identity.Load(), nil }
	}
	if s.sessions != nil {
		c.ClientSessionCache = s.sessions
	}
	return c
}

// verify implements VerifyConnection of the configuration.
func (s *Secure) verify(state tls.ConnectionState) error {
	err := s.plan.check(s.trust.Load(), state.PeerCertificates, state.ServerName, time.Now())
	if err == nil {
		return nil
	}
	s.counts.failure(err)
	if s.plan.AcceptUntrusted {
		return nil
	}
	return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
}

func (c *counts) failure(err error) {
	_, san := errors.AsType[*SANError](err)
	_, hash := errors.AsType[*HashError](err)
	switch {
	case san:
		c.san.Add(1)
	case hash:
		c.hash.Add(1)
	case errors.Is(err, errNoCertificate):
		c.none.Add(1)
	default:
		c.chain.Add(1)
	}
}

// Observe counts a handshake that failed with err, or that succeeded with state if err is nil. It
// does not count a failed verification, which was counted before.
func (s *Secure) Observe(state tls.ConnectionState, err error) {
	switch {
	case err == nil:
		s.counts.handshake.Add(1)
		if state.DidResume {
			s.counts.reused.Add(1)
		}
	case isTLS(err):
		s.counts.connection.Add(1)
	}
}

// isTLS reports whether a handshake failed in TLS itself, and not by a failed verification or the
// end of the connection.
func isTLS(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Op == "remote error" || op.Op == "local error"
	}
	return strings.HasPrefix(err.Error(), "tls: ")
}

// Stats returns the current counts.
func (s *Secure) Stats() Stats {
	c := &s.counts
	return Stats{
		Handshake: c.handshake.Load(), SessionReused: c.reused.Load(), ConnectionError: c.connection.Load(),
		FailVerifyError: c.chain.Load(), FailVerifySAN: c.san.Load(), FailVerifyCertHash: c.hash.Load(), FailVerifyNoCert: c.none.Load(),
	}
}

// Expires returns the earliest expiry of the certificates in use: those of the CA and that of the
// client. It returns the zero time if there are none.
func (s *Secure) Expires() time.Time {
	var all []*x509.Certificate
	if t := s.trust.Load(); t != nil {
		all = append(all, t.anchors...)
	}
	if c := s.identity.Load(); c != nil {
		all = append(all, c.Leaf)
	}
	var first time.Time
	for _, c := range all {
		if first.IsZero() || c.NotAfter.Before(first) {
			first = c.NotAfter
		}
	}
	return first
}

// Suspicious returns a description of each setting that is valid, here and in Envoy, but probably
// not intended.
func (s *Secure) Suspicious() []string {
	p := s.plan
	var all []string
	say := func(is bool, sentence string) {
		if is {
			all = append(all, "secure: "+sentence)
		}
	}
	hashes := len(p.hashes)+len(p.spkis) > 0
	say(p.CA.isZero() && !hashes, "Config.CA: not set: any certificate of a server is accepted")
	say(p.AcceptUntrusted, "Config.AcceptUntrusted: true: any certificate of a server is accepted")
	say(!p.CA.isZero() && len(p.sans) == 0 && !p.VerifySNI && !hashes, "Config.SANs: none: any certificate of the CA is accepted, whatever server it is for")
	say(p.AllowExpired, "Config.AllowExpired: true: certificates are accepted after they expired")
	lowest, _ := p.versions()
	say(lowest < tls.VersionTLS12, "Config.MinVersion: "+tls.VersionName(lowest)+": it is obsolete")
	return all
}
