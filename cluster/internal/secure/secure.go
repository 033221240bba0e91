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

// Secure is the TLS of connections to an upstream. Its methods may be called concurrently.
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
	err error // what was reported last; guarded by mu

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Stats counts what became of handshakes, by the names of Envoy's statistics of a cluster's
// TLS.
type Stats struct {
	// Handshake counts those that succeeded, SessionReused those of them that resumed a session.
	// [Secure.Observe] counts both.
	Handshake, SessionReused uint64
	// ConnectionError counts those that failed in TLS itself. [Secure.Observe] counts them.
	ConnectionError uint64
	// FailVerifyError counts certificates that do not lead to the CA, are not valid at the time,
	// are revoked or not for servers; FailVerifySAN those without a wanted name;
	// FailVerifyCertHash those that are none of those wanted; FailVerifyNoCert servers without
	// a certificate.
	FailVerifyError, FailVerifySAN, FailVerifyCertHash, FailVerifyNoCert uint64
}

type counts struct {
	handshake, reused, connection, chain, san, hash, none atomic.Uint64
}

// New reads the files of config and begins to look for changes of them. The error joins all
// that is wrong with config.
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

// watch begins to look for changes, if there can be any.
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

// look looks for changes in a goroutine without a caller.
func (s *Secure) look() {
	defer func() {
		if p := recover(); p != nil {
			report.Panic("the function TLS.Report of a cluster", p)
		}
	}()
	_ = s.Reload() // Report and Err have it
}

// Close ends the looking for changes and waits for a running Report. What TLSConfig returned
// goes on to work with what was read last. Further calls do nothing.
func (s *Secure) Close() {
	s.stop()
	s.running.Wait()
}

// Reload looks for changes of files immediately. It returns what Err returns then.
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

// renew forgets sessions after a change: they were made with the certificates of before. It
// does so again the next time, because of handshakes that are under way. s.reloading is held.
func (s *Secure) renew(changed bool) {
	if (changed || s.forget) && s.sessions != nil {
		s.sessions.empty()
	}
	s.forget = changed
}

// note keeps err and reports whether it is another one than before.
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

// Err returns why the contents of files cannot be used, so that earlier ones are. It returns
// nil if they all are in use.
func (s *Secure) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// TLSConfig returns a configuration to clone, whose ServerName may be set for a connection. It
// is the same for the whole life of s and follows the files as they change.
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

// verify is the VerifyConnection of the configuration.
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

// Observe counts a handshake that ended with err or, if that is nil, in state. A failed
// verification is counted already, and so it is not counted again.
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

// isTLS reports whether err says that a handshake failed in TLS itself, rather than by a failed
// verification or the end of the connection.
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

// Stats returns what was counted so far.
func (s *Secure) Stats() Stats {
	c := &s.counts
	return Stats{
		Handshake: c.handshake.Load(), SessionReused: c.reused.Load(), ConnectionError: c.connection.Load(),
		FailVerifyError: c.chain.Load(), FailVerifySAN: c.san.Load(), FailVerifyCertHash: c.hash.Load(), FailVerifyNoCert: c.none.Load(),
	}
}

// Expires returns when the first of the certificates in use, of the CA and of the client, is
// valid no longer. It returns the zero time if there are none.
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

// Suspicious returns sentences about what is allowed, and as in Envoy, but may not be meant.
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
