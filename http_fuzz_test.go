package pillion

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// FuzzValidHost compares with net/http: an invalid host is not sent to a proxy.
func FuzzValidHost(f *testing.F) {
	for _, host := range []string{"", "recipes.test", "recipes.test:80", "[::1]:80", "/var/run/docker.sock", "a b", "a\"b", "a\\b", "a#b", "a?b", "a@b", "a\x00b", "a\x7fb", "ünïcode.test", "a_b~c"} {
		f.Add(host)
	}
	f.Fuzz(func(t *testing.T, host string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://recipes.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		var sent strings.Builder
		err = req.WriteProxy(&sent)
		if complains := err != nil && err.Error() == "http: invalid Host header"; complains && validHost(host) && isASCII(host) || !complains && !validHost(host) && err == nil {
			t.Errorf("%q: got %v, while net/http says %v and sends %q", host, validHost(host), err, sent.String())
		}
	})
}

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r >= 0x80 })
}

// FuzzControl compares with a loop over runes.
func FuzzControl(f *testing.F) {
	for _, s := range []string{"", "/soup", "a\nb", "a\x7f", "\x80", "ü", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := false
		for _, b := range []byte(s) {
			want = want || b < 0x20 || b == 0x7f
		}
		if got := hasControl(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	})
}

// FuzzHeaderValues compares with the map: one line or many, absent, and present without a value.
func FuzzHeaderValues(f *testing.F) {
	f.Add("X-Soup", "x-soup", 2)
	f.Add("X-Soup", "X-Salt", 1)
	f.Add("Idempotency-Key", "idempotency-key", -1)
	f.Add("a b", "a b", 0)
	f.Fuzz(func(t *testing.T, name, ask string, n int) {
		h := http.Header{}
		var values []string
		for i := range min(n, 5) {
			values = append(values, strconv.Itoa(i))
		}
		h[http.CanonicalHeaderKey(name)] = values
		got := headerValues(h, ask)
		present := http.CanonicalHeaderKey(name) == http.CanonicalHeaderKey(ask)
		if (got != nil) != present || present && len(got) != len(values) {
			t.Errorf("%q of %q: got %q, want %q, present %v", ask, name, got, values, present)
		}
	})
}
