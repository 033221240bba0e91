package tracing

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-xray-sdk-go/v2/strategy/sampling"
	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// FuzzTraceParent checks that a parsed traceparent can be written, parses to the same
// header, and can be sent.
func FuzzTraceParent(f *testing.F) {
	f.Add("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01", "a=b")
	f.Add("01-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-00-x", "")
	f.Add(" 00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-03\t", "a=é")
	f.Add("00-00000000000000000000000000000000-0000000000000000-01", strings.Repeat("a", maxTraceState+1))
	f.Fuzz(func(t *testing.T, parent, state string) {
		h, ok := ParseTraceParent(parent, state)
		if !ok {
			if h.String() != "" || h.State != "" {
				t.Errorf("got %+v of what is not ok", h)
			}
			return
		}
		again, ok := ParseTraceParent(h.TraceParent(), h.State)
		if !ok || again.String() != h.String() || again.State != h.State {
			t.Errorf("%q: got %+v, then %+v, %v", parent, h, again, ok)
		}
		if !isTraceID(h.Root) || !isSegmentID(h.Parent) || !sendable(h.String()+h.TraceParent()+h.State) || len(h.State) > maxTraceState {
			t.Errorf("%q, %q: %+v cannot be sent", parent, state, h)
		}
	})
}

// FuzzBareURL checks that no URL keeps its password, its query or its fragment.
func FuzzBareURL(f *testing.F) {
	prefixes := []string{"https://", "//", "", "jdbc:mysql://", "x:", "https:/", `\\`, "https:///", "HTTP://"}
	for i := range prefixes {
		f.Add(uint8(i), "u", "/p?q#f", "h/p?q#f")
		f.Add(uint8(i), "u@v", "", "h:80")
		f.Add(uint8(i), "0", `:\`, "0")
		f.Add(uint8(i), "@", "#", "0")
	}
	for _, s := range []string{"https://u:secret@h/p?q#f", "//u:secret@h/p", "h/p", "x://u:secret@h", "https://u:secret@h?x=/"} {
		f.Add(uint8(2), "", "", s)
	}
	f.Fuzz(func(t *testing.T, prefix uint8, user, password, rest string) {
		u := rest
		scheme := strings.HasPrefix(password, "://") // it looks like a scheme of two parts, such as jdbc:mysql
		if user != "" && !strings.ContainsAny(user, `:/\?#`) && !strings.Contains(password, "@") && !scheme {
			u = prefixes[int(prefix)%len(prefixes)] + user + ":secret" + password + "secret@" + rest
		}
		bare := bareURL(u)
		if strings.ContainsAny(bare, "?#") || len(bare) > len(u) {
			t.Errorf("%q: got %q", u, bare)
		}
		if u != rest && strings.Contains(strings.TrimSuffix(bare, bareURL(rest)), "secret") && !strings.Contains(rest, "secret") {
			t.Errorf("%q: got %q, with the password", u, bare)
		}
		if parsed, err := url.Parse(u); err == nil && parsed.User != nil {
			if p, ok := parsed.User.Password(); ok && p != "" && strings.HasPrefix(bare[strings.Index(bare, "//")+2:], parsed.User.Username()+":"+p+"@") {
				t.Errorf("%q: got %q, with the password", u, bare)
			}
		}
		if again := bareURL(bare); strings.Contains(again, "@") && again != bare && !strings.Contains(bare, "@") {
			t.Errorf("%q: got %q, then %q", u, bare, again)
		}
	})
}

// FuzzQuote checks that a quoted string is the JSON of the string, without bytes that are
// not UTF-8.
func FuzzQuote(f *testing.F) {
	f.Add("a\x00\xff\u2028\"\\")
	f.Add("é\x7f\x1f\t\r\n</script>")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal(quote(nil, s), &back); err != nil || back != strings.ToValidUTF8(s, "") {
			t.Errorf("%q: got %q, %v", s, quote(nil, s), err)
		}
	})
}

// FuzzForwarded checks that the client of a request is one of the named addresses, and is
// the peer if the peer is not trusted.
func FuzzForwarded(f *testing.F) {
	f.Add("10.0.0.1:80", "1.2.3.4, 10.0.0.2", "https")
	f.Add("[::1]:1", "fe80::1%eth0,,unix:,[1::2]:4", "")
	f.Add("1.2.3.4:1", "5.6.7.8", "https")
	f.Add("@", strings.Repeat("x", 1000), "HTTPS")
	tracer, err := New(Config{Name: "x", Daemon: NoDaemon})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, remote, forwarded, proto string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {forwarded}, "X-Forwarded-Proto": {proto}}}
		got := tracer.forwardedBy(r)
		if got.client != "" && !strings.Contains(remote+","+forwarded, got.client) {
			t.Errorf("got %q of %q, %q", got.client, remote, forwarded)
		}
		if peer := hostOf(remote); !tracer.trusted(peer) && (got.client != peer || got.proto != "") {
			t.Errorf("got %+v from the untrusted peer %q", got, remote)
		}
		if utf8.RuneCountInString(bound(xray.RequestData{ClientIP: got.client}).ClientIP) > maxShort {
			t.Errorf("got an address of %d bytes", len(got.client))
		}
	})
}

// FuzzDaemon checks that an accepted address can be dialed, and parses to the same daemon.
func FuzzDaemon(f *testing.F) {
	for _, s := range []string{"", NoDaemon, "xray:2000", "[::1]:2000", "udp:a:1 tcp:b:2", "a:0", "a b:1", "udp:a:1", "http://a:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDaemon(s)
		if err != nil {
			if !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) && !strings.HasPrefix(s, "udp:") && !strings.HasPrefix(s, "tcp:") {
				t.Errorf("%q: got %v, which does not name it", s, err)
			}
			return
		}
		for _, address := range []string{d.udp, d.tcp} {
			if address == "" && s == NoDaemon {
				continue
			}
			host, port, err := net.SplitHostPort(address)
			if err != nil || host == "" || port == "" {
				t.Errorf("%q: got %q, %v", s, address, err)
			}
			if again, err := parseDaemon(address); err != nil || again != (daemon{address, address}) {
				t.Errorf("%q: got %q, which reads as %+v, %v", s, address, again, err)
			}
		}
	})
}

// FuzzAnnotate checks that every annotation is legal in the document, and that legal
// annotations do not change.
func FuzzAnnotate(f *testing.F) {
	f.Add("key-name", "v")
	f.Add("!", strings.Repeat("é", maxAnnotationValue+1))
	f.Add(strings.Repeat("k", maxAnnotationKey+1), "\xff\x00")
	f.Fuzz(func(t *testing.T, key, value string) {
		var m map[string]any
		annotate(&m, key, value)
		again := map[string]any{}
		for k, v := range m {
			s, _ := v.(string)
			if !annotationKeys.MatchString(k) || utf8.RuneCountInString(s) > maxAnnotationValue || !utf8.ValidString(s) {
				t.Errorf("%q: %q: got %q: %q", key, value, k, s)
			}
			annotate(&again, k, v)
		}
		if !maps.Equal(m, again) {
			t.Errorf("%q: %q: got %v, then %v", key, value, m, again)
		}
		if len(m) == 0 && strings.ContainsAny(key, "aA0_-") {
			t.Errorf("%q: got no annotation", key)
		}
	})
}

var annotationKeys = regexp.MustCompile(`^[A-Za-z0-9_]{1,500}$`)

// FuzzSamplingRules checks that a request is sampled if the SDK's wildcards match its host,
// method and path. A slow matcher is the reference.
func FuzzSamplingRules(f *testing.F) {
	f.Add("*", "GET", "/menu*", "front", "GET", "/menu/today")
	f.Add("fro?t", "*", "/MENU", "front", "PUT", "/menu")
	f.Add("front", "GET", "/a?c", "front:80", "get", "/abc")
	f.Add("*.local", "P*", "*/x", "a.b.local", "POST", "/x/y/x")
	f.Fuzz(func(t *testing.T, hostRule, methodRule, pathRule, host, method, path string) {
		for _, s := range []string{hostRule, methodRule, pathRule, host, method, path} {
			if s == "" || len(s) > 50 || !sendable(s) {
				return
			}
		}
		if strings.ContainsAny(host+method+path, "*?") { // the SDK treats a star in the text as one in the rule
			return
		}
		rules, err := json.Marshal(map[string]any{
			"version": 2, "default": map[string]any{"fixed_target": 0, "rate": 0},
			"rules": []any{map[string]any{"host": hostRule, "http_method": methodRule, "url_path": pathRule, "fixed_target": 0, "rate": 1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		local, err := sampling.NewLocalizedStrategyFromJSONBytes(rules)
		if err != nil {
			t.Fatal(err)
		}
		tracer, err := New(Config{Name: "front", Daemon: NoDaemon, Sampling: local})
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: method, Host: host, URL: &url.URL{Path: path}, Header: http.Header{}, RemoteAddr: "1.2.3.4:5"}
		want := wildcard(hostRule, host) && wildcard(methodRule, method) && wildcard(pathRule, path)
		tracer.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if got := Current(r.Context()).Sampled(); got != want {
				t.Errorf("rule %q %q %q, request %q %q %q: got %v, want %v", hostRule, methodRule, pathRule, host, method, path, got, want)
			}
		})).ServeHTTP(discardResponse{}, r)
		if err := tracer.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// wildcard reports whether s matches a pattern of stars and question marks.
func wildcard(pattern, s string) bool {
	expression := regexp.QuoteMeta(pattern)
	expression = strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(expression)
	return regexp.MustCompile(`(?is)^` + expression + `$`).MatchString(s)
}

type discardResponse struct{}

func (discardResponse) Header() http.Header         { return http.Header{} }
func (discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (discardResponse) WriteHeader(int)             {}
