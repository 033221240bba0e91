package secure

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
)

// part is a part of the configuration that is made from the texts of sources, and remade when they
// change.
type part struct {
	name    string // its name in errors
	sources []Source
	// use applies the texts, one for each source.
	use func(texts [][]byte) error

	tried sum   // of the texts that were applied last
	err   error // the error of reading or applying them
}

// files reports whether p has files, and so can change.
func (p *part) files() bool {
	for _, s := range p.sources {
		if s.File != "" {
			return true
		}
	}
	return false
}

func (p *part) read() ([][]byte, error) {
	var texts [][]byte
	for _, s := range p.sources {
		text, err := s.read()
		if err != nil {
			return nil, err
		}
		texts = append(texts, text)
	}
	return texts, nil
}

// refresh applies the texts of the sources if they have changed. It reports whether new texts are in
// use. It reads invalid texts again as long as they change, since a source can be replaced while
// another one is read.
func (p *part) refresh() bool {
	for range 3 {
		texts, err := p.read()
		if err != nil {
			p.tried, p.err = sum{}, p.failure(err)
			return false
		}
		now := sumOf(texts)
		if now == p.tried {
			return false
		}
		p.tried, p.err = now, p.failure(p.use(texts))
		if p.err == nil {
			return true
		}
	}
	return false
}

func (p *part) failure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("secure: %s: %v: %w", p.name, p.sources, err)
}

// identity reads the text of a certificate chain and its key.
func identity(chain, key []byte) (*tls.Certificate, error) {
	for _, text := range [][]byte{chain, key} {
		if _, err := blocks(text); err != nil {
			return nil, err
		}
	}
	if bytes.Contains(key, []byte("BEGIN ENCRYPTED PRIVATE KEY")) || bytes.Contains(key, []byte("Proc-Type: 4,ENCRYPTED")) {
		return nil, errors.New("the key is encrypted, which is not supported")
	}
	cert, err := tls.X509KeyPair(chain, key)
	return &cert, err
}

// sessions is a cache of TLS sessions that can be emptied during use.
type sessions struct {
	size  int
	cache atomic.Value // of lru
}

// lru hides the type of the implementation from atomic.Value.
type lru struct{ tls.ClientSessionCache }

func newSessions(size int) *sessions {
	s := &sessions{size: size}
	s.empty()
	return s
}

// empty removes all sessions.
func (s *sessions) empty() { s.cache.Store(lru{tls.NewLRUClientSessionCache(s.size)}) }

// Get implements [tls.ClientSessionCache].
func (s *sessions) Get(key string) (*tls.ClientSessionState, bool) {
	return s.cache.Load().(lru).Get(key)
}

// Put implements [tls.ClientSessionCache].
func (s *sessions) Put(key string, state *tls.ClientSessionState) {
	s.cache.Load().(lru).Put(key, state)
}
