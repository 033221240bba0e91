package secure

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// connect makes a connection in memory from a client with a clone of s's configuration, and
// says hello over it, so that sessions arrive. It returns the states of both ends.
func connect(t *testing.T, s *Secure, server *tls.Config) (client, at tls.ConnectionState, err error) {
	t.Helper()
	return connectWith(t, s, s.TLSConfig().Clone(), server)
}

// connectWith is connect with a configuration of s's.
func connectWith(t *testing.T, s *Secure, config, server *tls.Config) (client, at tls.ConnectionState, err error) {
	t.Helper()
	c, raw := pipe()
	var serving sync.WaitGroup
	serving.Go(func() {
		defer raw.Close()
		end := tls.Server(raw, server)
		if end.HandshakeContext(context.Background()) != nil {
			return
		}
		at = end.ConnectionState()
		io.Copy(end, end)
	})
	defer serving.Wait()
	defer c.Close()
	conn := tls.Client(c, config)
	err = conn.HandshakeContext(context.Background())
	s.Observe(conn.ConnectionState(), err)
	if err == nil {
		_, _ = conn.Write([]byte("hello"))
		if _, failure := io.ReadFull(conn, make([]byte, 5)); failure != nil {
			t.Fatal(failure)
		}
	}
	return conn.ConnectionState(), at, err
}

func write(tb testing.TB, path string, texts ...string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(strings.Join(texts, "")), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func newSecure(t *testing.T, c Config) *Secure {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// reports notes the texts of errors.
type reports struct {
	mu    sync.Mutex
	texts []string
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts = append(r.texts, errorText(err))
}

func (r *reports) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.texts)
}

// refused demands that err is of a failed verification because of a T.
func refused[T error](t *testing.T, err error) {
	t.Helper()
	failed, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		t.Errorf("got error %v, want a tls.CertificateVerificationError", err)
		return
	}
	if _, ok := errors.AsType[T](failed.Err); !ok || len(failed.UnverifiedCertificates) == 0 {
		t.Errorf("got error %v (%T) for %d certificates, want %T for some", failed.Err, failed.Err, len(failed.UnverifiedCertificates), *new(T))
	}
}

// TestReloadCA changes the CA while connections are made.
func TestReloadCA(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := issue(t, "before", nil, form{ca: true}), issue(t, "after", nil, form{ca: true})
		server := serverOf(issue(t, "server", before, form{sans: "dns:recipes.test"}))
		ca := filepath.Join(t.TempDir(), "ca.pem")
		write(t, ca, before.alone())
		s := newSecure(t, Config{CA: Source{File: ca}, SNI: "recipes.test", MaxSessionKeys: 10})
		if _, _, err := connect(t, s, server); err != nil {
			t.Fatal(err)
		}
		if state, _, err := connect(t, s, server); err != nil || !state.DidResume {
			t.Errorf("got resumed %v, error %v, want a resumed session", state.DidResume, err)
		}
		write(t, ca, after.alone())
		if _, _, err := connect(t, s, server); err != nil {
			t.Errorf("before the next look at the file: got error %v", err)
		}
		time.Sleep(DefaultReloadInterval + time.Millisecond)
		_, _, err := connect(t, s, server)
		refused[x509.UnknownAuthorityError](t, err)
		write(t, ca, after.alone(), before.alone())
		time.Sleep(DefaultReloadInterval)
		if state, _, err := connect(t, s, server); err != nil || state.DidResume {
			t.Errorf("got resumed %v, error %v, want a new session", state.DidResume, err)
		}
		if got, want := s.Stats(), (Stats{Handshake: 4, SessionReused: 2, FailVerifyError: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

// TestExpiresWhileInUse: a certificate that expires stays good for a connection and is refused
// on the next one, also if that resumes a session.
func TestExpiresWhileInUse(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, what := range []string{"server", "root"} {
			synctest.Test(t, func(t *testing.T) {
				long := map[bool]time.Duration{false: 1000 * time.Hour}
				root := issue(t, "root", nil, form{ca: true, to: long[what == "root"]})
				server := serverOf(issue(t, "server", root, form{to: long[what == "server"]}))
				s := newSecure(t, Config{CA: in(root.alone()), SNI: "recipes.test", MaxVersion: version})
				if got, want := s.Expires(), root.NotAfter; !got.Equal(want) {
					t.Errorf("got %v, want %v", got, want)
				}
				for range 2 {
					if _, _, err := connect(t, s, server); err != nil {
						t.Fatal(err)
					}
				}
				if got := s.Stats().SessionReused; got != 1 {
					t.Errorf("got %d resumed sessions, want 1", got)
				}
				time.Sleep(25 * time.Hour)
				for range 2 {
					_, _, err := connect(t, s, server)
					refused[x509.CertificateInvalidError](t, err)
				}
			})
		}
	}
}

// TestResumedSessionIsVerified refuses the same session that was good before: verification
// does not rely on what was found at the first handshake.
func TestResumedSessionIsVerified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root, other := issue(t, "root", nil, form{ca: true}), issue(t, "other", nil, form{ca: true})
		server := serverOf(issue(t, "server", root, form{sans: "dns:recipes.test"}))
		s := newSecure(t, Config{CA: in(root.alone()), SNI: "recipes.test", SANs: []Matcher{{Type: DNS, Value: "recipes.test"}}})
		config := s.TLSConfig()
		resumed := false
		config.VerifyConnection = func(state tls.ConnectionState) error {
			resumed = state.DidResume
			return s.verify(state)
		}
		again := func() error { // a session, and what comes of the attempt to resume it
			t.Helper()
			if !resumed {
				t.Error("the session is not resumed")
			}
			_, _, err := connectWith(t, s, config, server)
			return err
		}
		begin := func() {
			t.Helper()
			resumed = true
			if err := again(); err != nil || resumed {
				t.Fatalf("got resumed %v, error %v, want a new session", resumed, err)
			}
			resumed = true
		}
		begin()
		if err := again(); err != nil {
			t.Error(err)
		}
		good := s.trust.Load()
		bad, err := newTrust([]byte(other.alone()), nil, false)
		if err != nil {
			t.Fatal(err)
		}
		s.trust.Store(bad) // without forgetting sessions
		refused[x509.UnknownAuthorityError](t, again())
		s.trust.Store(good)
		begin()
		s.plan.sans[0].Value = "other.test"
		refused[*SANError](t, again())
		if !resumed {
			t.Error("the session is not resumed")
		}
	})
}

// TestReloadIdentity changes the client's certificate: the server sees the new one on the next
// connection, not the one of a resumed session.
func TestReloadIdentity(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, "root", nil, form{ca: true})
		inter := issue(t, "inter", root, form{ca: true})
		server := serverOf(issue(t, "server", root, form{}))
		server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		server.ClientCAs.AddCert(root.Certificate)
		dir := t.TempDir()
		chain, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		first, second := issue(t, "first", root, form{client: true}), issue(t, "second", inter, form{client: true})
		write(t, chain, first.pem())
		write(t, key, first.keyPEM(t))
		var said reports
		s := newSecure(t, Config{
			CA: in(root.alone()), Certificate: Source{File: chain}, Key: Source{File: key}, SNI: "recipes.test",
			Report: said.add,
		})
		seen := func() string {
			_, at, err := connect(t, s, server)
			if err != nil {
				t.Fatal(err)
			}
			return at.PeerCertificates[0].Subject.CommonName + map[bool]string{true: " resumed"}[at.DidResume]
		}
		got := []string{seen(), seen()}
		write(t, chain, second.pem()) // its key comes later
		time.Sleep(DefaultReloadInterval + time.Millisecond)
		got = append(got, seen())
		time.Sleep(DefaultReloadInterval)
		write(t, key, second.keyPEM(t))
		got = append(got, seen())
		time.Sleep(DefaultReloadInterval)
		got = append(got, seen())
		time.Sleep(DefaultReloadInterval)
		got = append(got, seen(), seen())
		if diff := cmp.Diff([]string{"first", "first resumed", "first resumed", "first resumed", "second", "second", "second resumed"}, got); diff != "" {
			t.Errorf("clients (-want +got):\n%s", diff)
		}
		if got := said.all(); len(got) != 2 || !strings.Contains(got[0], "Config.Certificate and Config.Key") || !strings.Contains(got[0], "private key does not match") || got[1] != "" {
			t.Errorf("got reports %q, want one that the key does not match and one that all is well", got)
		}
	})
}

// TestKubernetes swaps the files of a secret as the kubelet does: by a symbolic link to a
// folder, in which they come and go together.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, "root", nil, form{ca: true})
		dir := t.TempDir()
		swap := func(version string, c *cert) {
			folder := filepath.Join(dir, version)
			if err := os.Mkdir(folder, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(folder, "tls.crt"), c.pem())
			write(t, filepath.Join(folder, "tls.key"), c.keyPEM(t))
			old, _ := os.Readlink(filepath.Join(dir, "..data"))
			if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
			if old != "" {
				if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
					t.Fatal(err)
				}
			}
		}
		swap("..1", issue(t, "first", root, form{client: true}))
		for _, f := range []string{"tls.crt", "tls.key"} {
			if err := os.Symlink("..data/"+f, filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
		}
		var said reports
		s := newSecure(t, Config{
			Certificate: Source{File: filepath.Join(dir, "tls.crt")}, Key: Source{File: filepath.Join(dir, "tls.key")},
			ReloadInterval: time.Second, Report: said.add,
		})
		for i, name := range []string{"first", "second", "third"} {
			if got := s.identity.Load().Leaf.Subject.CommonName; got != name {
				t.Errorf("got %q, want %q", got, name)
			}
			swap([]string{"..2", "..3", "..4"}[i], issue(t, []string{"second", "third", "fourth"}[i], root, form{client: true}))
			time.Sleep(time.Second + time.Millisecond)
		}
		if got := said.all(); len(got) > 0 {
			t.Errorf("got reports %v, want none", got)
		}
	})
}

// TestBadFiles: whatever a file becomes, the last good contents stay in use, the error is
// reported once, and good contents are used when they are back.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	root, extra := issue(t, "root", nil, form{ca: true}), issue(t, "extra", nil, form{ca: true})
	half := extra.alone()[:len(extra.alone())/2]
	for _, c := range []struct {
		name string
		text string // of the file; "-" for none and "/" for a folder
		want string
	}{
		{"gone", "-", "no such file"},
		{"empty", "", "contains no PEM block"},
		{"not PEM", "hello", "contains no PEM block"},
		{"half written", root.alone() + half, "1 of 2 PEM blocks are malformed"},
		{"a block spoiled", strings.Replace(extra.alone(), "MII", "?II", 1) + root.alone(), "1 of 2 PEM blocks are malformed"},
		{"not a certificate", "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", "PEM block 1: x509: malformed certificate"},
		{"a key", root.keyPEM(t), "contains no certificate"},
		{"too large", root.alone() + strings.Repeat("#", largest), "has more than 16777216 bytes"},
		{"a folder", "/", "is a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				root := issue(t, "root", nil, form{ca: true})
				server := serverOf(issue(t, "server", root, form{}))
				ca := filepath.Join(t.TempDir(), "ca.pem")
				write(t, ca, root.alone())
				var said reports
				s := newSecure(t, Config{CA: Source{File: ca}, Report: said.add})
				os.Remove(ca)
				switch c.text {
				case "-":
				case "/":
					os.Mkdir(ca, 0o700)
				default:
					write(t, ca, c.text)
				}
				time.Sleep(20*time.Second + time.Millisecond)
				got := said.all()
				if len(got) != 1 || !strings.Contains(got[0], c.want) || !strings.Contains(got[0], ca) {
					t.Fatalf("got reports %q, want one with %q and the file's name", got, c.want)
				}
				if err := s.Err(); errorText(err) != got[0] {
					t.Errorf("got %v, want what was reported", err)
				}
				if _, _, err := connect(t, s, server); err != nil {
					t.Errorf("the last good CA is not in use: %v", err)
				}
				os.Remove(ca)
				write(t, ca, root.alone(), "\n")
				time.Sleep(DefaultReloadInterval)
				if got := said.all(); len(got) != 2 || got[1] != "" || s.Err() != nil {
					t.Errorf("got reports %q and error %v, want none at the end", got, s.Err())
				}
				if _, err := New(Config{CA: Source{File: filepath.Join(t.TempDir(), "none.pem")}}); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("New without the file: got error %v, want os.ErrNotExist", err)
				}
			})
		})
	}
}

// TestPartsAreIndependent: a broken client certificate does not keep a new CA from use.
func TestPartsAreIndependent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		before, after := issue(t, "before", nil, form{ca: true}), issue(t, "after", nil, form{ca: true})
		client := issue(t, "client", before, form{client: true})
		dir := t.TempDir()
		ca, chain, key := filepath.Join(dir, "ca"), filepath.Join(dir, "crt"), filepath.Join(dir, "key")
		write(t, ca, before.alone())
		write(t, chain, client.pem())
		write(t, key, client.keyPEM(t))
		s := newSecure(t, Config{CA: Source{File: ca}, Certificate: Source{File: chain}, Key: Source{File: key}})
		write(t, ca, after.alone())
		write(t, chain, "broken")
		if err := s.Reload(); err == nil {
			t.Error("got no error for a broken certificate")
		}
		if _, _, err := connect(t, s, serverOf(issue(t, "server", after, form{}))); err != nil {
			t.Errorf("the new CA is not in use: %v", err)
		}
	})
}

// TestNothingToWatch: without files there is no goroutine (the bubble would say so), and so
// with NeverReload.
func TestNothingToWatch(t *testing.T) {
	t.Parallel()
	root := issue(t, "root", nil, form{ca: true})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, root.alone())
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []Config{{CA: in(root.alone())}, {}, {CA: Source{File: ca}, ReloadInterval: NeverReload}} {
			if _, err := New(c); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestReloadWhileConnecting connects from several goroutines while files change all the time:
// each connection is good by the old files or the new ones.
func TestReloadWhileConnecting(t *testing.T) {
	t.Parallel()
	root, other := issue(t, "root", nil, form{ca: true}), issue(t, "other", nil, form{ca: true})
	server := serverOf(issue(t, "server", root, form{}))
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, root.alone())
	s := newSecure(t, Config{CA: Source{File: ca}, SNI: "recipes.test", ReloadInterval: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := connect(t, s, server); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := 0; ctx.Err() == nil; i++ {
		next := ca + ".next"
		write(t, next, []string{root.alone() + other.alone(), other.alone() + root.alone(), root.alone()}[i%3])
		if err := os.Rename(next, ca); err != nil {
			t.Fatal(err)
		}
		if err := s.Reload(); err != nil {
			t.Error(err)
		}
	}
	running.Wait()
}

// TestTransport uses the configuration as a pool does: cloned into the template of a transport,
// with the server name of a connection.
func TestTransport(t *testing.T) {
	t.Parallel()
	root := issue(t, "root", nil, form{ca: true})
	sni := make(chan string, 10)
	scenario := &scenario{server: serverOf(issue(t, "server", root, form{sans: "dns:*.recipes.test"})), show: "sni"}
	scenario.server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		sni <- h.ServerName
		return nil, nil
	}
	address := serve(t, scenario)
	s := newSecure(t, Config{CA: in(root.alone()), VerifySNI: true})
	for _, c := range []struct {
		serverName string
		sent       string
		ok         bool
	}{{"api.recipes.test", "api.recipes.test", true}, {"soup.test", "soup.test", false}, {"", "", true}} {
		transport := &http.Transport{TLSClientConfig: s.TLSConfig()}
		transport.TLSClientConfig.ServerName = c.serverName
		template := transport.Clone()
		conn, err := template.NewClientConn(t.Context(), "https", address)
		if got := <-sni; got != c.sent {
			t.Errorf("%q: got SNI %q, want %q", c.serverName, got, c.sent)
		}
		if (err == nil) != c.ok {
			t.Errorf("%q: got error %v, want success %v", c.serverName, err, c.ok)
		}
		if err != nil {
			refused[*SANError](t, err)
			continue
		}
		resp, err := conn.RoundTrip(newRequest(t, "https://anything.test/"))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		conn.Close()
	}
}

func TestObserve(t *testing.T) {
	t.Parallel()
	s := newSecure(t, Config{})
	for _, err := range []error{
		tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"},
		&net.OpError{Op: "remote error", Err: tls.AlertError(40)},
		errors.New("tls: server selected unsupported protocol version 301"),
	} {
		before := s.Stats().ConnectionError
		if s.Observe(tls.ConnectionState{}, err); s.Stats().ConnectionError != before+1 {
			t.Errorf("%v is not counted", err)
		}
	}
	for _, err := range []error{io.EOF, &net.OpError{Op: "read", Err: io.ErrUnexpectedEOF}, context.Canceled, &tls.CertificateVerificationError{Err: io.EOF}} {
		before := s.Stats()
		if s.Observe(tls.ConnectionState{}, err); s.Stats() != before {
			t.Errorf("%v is counted", err)
		}
	}
}

// TestRefusedByServer counts a handshake that the server refuses.
func TestRefusedByServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := serverOf(issue(t, "server", nil, form{}))
		server.MinVersion = tls.VersionTLS13
		s := newSecure(t, Config{MaxVersion: tls.VersionTLS12})
		if _, _, err := connect(t, s, server); err == nil {
			t.Error("got no error")
		}
		if got, want := s.Stats(), (Stats{ConnectionError: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestMaxSessionKeys(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		keys int
		want []bool // whether the connections to a, b, a and b resume a session
	}{{0, []bool{false, false, false, false}}, {1, []bool{false, false, false, false}}, {2, []bool{false, false, true, true}}, {NoSessions, []bool{false, false, false, false}}} {
		synctest.Test(t, func(t *testing.T) {
			server := serverOf(issue(t, "server", nil, form{}))
			s := newSecure(t, Config{MaxSessionKeys: c.keys})
			var got []bool
			for i := range 4 {
				s.plan.SNI = []string{"a.test", "b.test"}[i%2]
				state, _, err := connect(t, s, server)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, state.DidResume)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%d keys: resumed (-want +got):\n%s", c.keys, diff)
			}
		})
	}
}
