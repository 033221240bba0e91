package pillion

import (
	"math"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// FuzzExpectedTimeout compares with a parser of whole numbers without bounds. Its
// invariants: digits alone are a number, of milliseconds; 0, and what does not fit into 32
// bits, is no limit; a limit is positive and survives being written again.
func FuzzExpectedTimeout(f *testing.F) {
	for _, value := range []string{"", "0", "1", "15000", "4294967295", "4294967296", "-1", "+1", "1.5", " 1", "1 ", "0x10", "1_000", "007", "９"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		want := time.Duration(0)
		digits := value != "" && strings.Trim(value, "0123456789") == ""
		if n, ok := new(big.Int).SetString(value, 10); digits && ok && n.IsUint64() && n.Uint64() <= math.MaxUint32 {
			want = time.Duration(n.Uint64()) * time.Millisecond
		}
		got, ok := ExpectedTimeout(value)
		if ok != (want > 0) || ok && got != want {
			t.Errorf("%q: got %v, %v, want %v", value, got, ok, want)
		}
		if again, _ := ExpectedTimeout(milliseconds(got)); ok && again != got {
			t.Errorf("%q: got %v, and %v when written again", value, got, again)
		}
	})
}

// FuzzMilliseconds compares with exact arithmetic: rounded up, and never 0.
func FuzzMilliseconds(f *testing.F) {
	for _, d := range []int64{0, 1, -1, 999_999, 1_000_000, 1_000_001, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, nanoseconds int64) {
		want := new(big.Int).Add(big.NewInt(nanoseconds), big.NewInt(999_999))
		want.Div(want, big.NewInt(1_000_000)) // rounds down, as Euclid does
		if want.Sign() <= 0 {
			want.SetInt64(1)
		}
		if got := milliseconds(time.Duration(nanoseconds)); got != want.String() {
			t.Errorf("%d: got %s, want %v", nanoseconds, got, want)
		}
	})
}

// FuzzIsGRPC compares with the rule in words: the media type is application/grpc, alone or
// with a subtype after a plus sign; not gRPC-Web, and nothing in other letters.
func FuzzIsGRPC(f *testing.F) {
	for _, value := range []string{"", "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc;x", "Application/grpc", " application/grpc", "application/grpc+"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		want := value == "application/grpc" || strings.HasPrefix(value, "application/grpc+")
		if got := isGRPC(value); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	})
}

// FuzzValidHost compares with net/http: what is found invalid is not sent to a proxy.
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

// FuzzControl compares with a rune at a time.
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

// FuzzHeaderValues compares with the map: one line or many, absent, and present without a
// value.
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
