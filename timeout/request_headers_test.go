package timeout

import (
	"math"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
)

// TestEnvoyHeaders sets timeouts in request headers, with a server that never responds or responds
// late. The expectations were observed with Envoy 1.40.
func TestEnvoyHeaders(t *testing.T) {
	const total, perTry = "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms"
	once := retry.Config{On: "5xx", Rand: func() float64 { return 0 }}
	for _, tc := range []struct {
		name     string
		cfg      Config
		header   []string
		head     time.Duration // until the response headers; 0 for never
		scope    policy.Scope  // of the timeout that fired; 0 for a response
		elapsed  time.Duration
		attempts int
	}{
		{name: "no header", cfg: Config{Total: time.Second}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total shortens", cfg: Config{Total: time.Second}, header: []string{total, "300"}, scope: Total, elapsed: 300 * ms, attempts: 1},
		{name: "total lengthens", cfg: Config{Total: time.Second}, header: []string{total, "3000"}, head: 2 * time.Second, elapsed: 2 * time.Second, attempts: 1},
		{name: "total over the default", header: []string{total, "20000"}, scope: Total, elapsed: 20 * time.Second, attempts: 1},
		{name: "total without a Total", cfg: Config{Total: Unlimited}, header: []string{total, "300"}, scope: Total, elapsed: 300 * ms, attempts: 1},
		{name: "total 0 is none", cfg: Config{Total: time.Second}, header: []string{total, "0"}, head: time.Hour, elapsed: time.Hour, attempts: 1},
		{name: "total, no number", cfg: Config{Total: time.Second}, header: []string{total, "xyz"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total, negative", cfg: Config{Total: time.Second}, header: []string{total, "-1"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total, a fraction", cfg: Config{Total: time.Second}, header: []string{total, "0.5"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total, months", cfg: Config{Total: time.Second}, header: []string{total, "9999999999"}, head: time.Hour, elapsed: time.Hour, attempts: 1},
		{name: "total, 63 bits", cfg: Config{Total: time.Second}, header: []string{total, "9223372036854775807"}, head: time.Hour, elapsed: time.Hour, attempts: 1},
		{name: "total, 64 bits", cfg: Config{Total: time.Second}, header: []string{total, "9223372036854775808"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total, of more than 64 bits", cfg: Config{Total: time.Second}, header: []string{total, "18446744073709551616"}, scope: Total, elapsed: time.Second, attempts: 1},

		{name: "per try", cfg: Config{Total: time.Second}, header: []string{perTry, "200"}, scope: PerTry, elapsed: 400 * ms, attempts: 2},
		{name: "per try shortens", cfg: Config{PerTry: 500 * ms}, header: []string{perTry, "200"}, scope: PerTry, elapsed: 400 * ms, attempts: 2},
		{name: "per try lengthens", cfg: Config{PerTry: 200 * ms}, header: []string{perTry, "500"}, scope: PerTry, elapsed: time.Second, attempts: 2},
		{name: "per try 0 is none", cfg: Config{Total: time.Second, PerTry: 200 * ms}, header: []string{perTry, "0"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "per try, no number", cfg: Config{PerTry: 200 * ms}, header: []string{perTry, "soon"}, scope: PerTry, elapsed: 400 * ms, attempts: 2},
		{name: "per try over the total", cfg: Config{Total: 200 * ms}, header: []string{perTry, "500"}, scope: Total, elapsed: 200 * ms, attempts: 1},
		{
			name: "both", cfg: Config{Total: time.Second, PerTry: time.Second}, header: []string{total, "500", perTry, "300"},
			scope: Total, elapsed: 500 * ms, attempts: 2,
		},
		{name: "total, blanks around and a sign", cfg: Config{Total: time.Second}, header: []string{total, " +300\t"}, scope: Total, elapsed: 300 * ms, attempts: 1},
		{name: "total in two lines", cfg: Config{Total: time.Second}, header: []string{total, "300", total, "300"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total without a value", cfg: Config{Total: time.Second}, header: []string{total, ""}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "total in one line", cfg: Config{Total: time.Second}, header: []string{total, "300,300"}, scope: Total, elapsed: time.Second, attempts: 1},
		{name: "per try in two lines", cfg: Config{PerTry: 200 * ms}, header: []string{perTry, "500", perTry, "600"}, scope: PerTry, elapsed: 400 * ms, attempts: 2},
		{
			name: "per try, longest Duration", cfg: Config{Total: time.Second, PerTry: 200 * ms}, header: []string{perTry, "9223372036854"},
			scope: Total, elapsed: time.Second, attempts: 1,
		},
		{
			name: "per try, overflows a Duration", cfg: Config{Total: Unlimited, PerTry: 200 * ms}, header: []string{perTry, "9223372036855"},
			head: time.Hour, elapsed: time.Hour, attempts: 1,
		},
		{name: "both 0", cfg: Config{PerTry: ms}, header: []string{total, "0", perTry, "0"}, head: time.Hour, elapsed: time.Hour, attempts: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.cfg.EnvoyHeaders = true
				if tc.head == 0 {
					tc.head = never
				}
				req := get(t.Context())
				for i := 0; i < len(tc.header); i += 2 {
					req.Header.Add(tc.header[i], tc.header[i+1])
				}
				r := call(t, upstream(t, tc.cfg, once), server{head: tc.head}, req, 0)
				scope, _ := scopeOf(r.err)
				if scope != tc.scope || r.elapsed != tc.elapsed || r.attempts != tc.attempts {
					t.Errorf("%q: got %v after %v and %d attempts, want %v after %v and %d",
						tc.header, scope, r.elapsed, r.attempts, tc.scope, tc.elapsed, tc.attempts)
				}
			})
		})
	}
}

// TestEnvoyHeaders_sent checks the headers that the server receives: none of the headers that were
// honored, and the expected header that results from them.
func TestEnvoyHeaders_sent(t *testing.T) {
	const total, perTry, expected = "X-Envoy-Upstream-Rq-Timeout-Ms", "X-Envoy-Upstream-Rq-Per-Try-Timeout-Ms", "X-Envoy-Expected-Rq-Timeout-Ms"
	for _, tc := range []struct {
		name         string
		cfg          Config
		header, want http.Header
	}{
		{"honored", Config{EnvoyHeaders: true}, http.Header{total: {"300"}, perTry: {"x"}, "X-Own": {"1"}}, http.Header{"X-Own": {"1"}}},
		{"not honored", Config{}, http.Header{total: {"300"}, perTry: {"100"}}, http.Header{total: {"300"}, perTry: {"100"}}},
		{"expected from total", Config{EnvoyHeaders: true, ExpectedHeader: true}, http.Header{total: {"300"}}, http.Header{expected: {"300"}}},
		{
			"expected from per try",
			Config{EnvoyHeaders: true, ExpectedHeader: true},
			http.Header{total: {"300"}, perTry: {"100"}},
			http.Header{expected: {"100"}},
		},
		{"nothing expected", Config{EnvoyHeaders: true, ExpectedHeader: true}, http.Header{total: {"0"}}, http.Header{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Header = tc.header.Clone()
				base := roundTripper(func(sent *http.Request) (*http.Response, error) {
					if diff := cmp.Diff(tc.want, sent.Header); diff != "" {
						t.Errorf("sent (-want +got):\n%s", diff)
					}
					return server{}.RoundTrip(sent)
				})
				call(t, upstream(t, tc.cfg), base, req, 0)
				if diff := cmp.Diff(tc.header, req.Header); diff != "" {
					t.Errorf("the caller's header has changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestNever uses timeouts that overflow the clock: they never fire, and set no deadline in the
// context, which the dialer would use.
func TestNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, Config{Total: 1<<63 - 1})
		time.Sleep(time.Hour) // so that the clock is not at its start
		base := roundTripper(func(req *http.Request) (*http.Response, error) {
			if d, ok := req.Context().Deadline(); ok && time.Until(d) < never {
				t.Errorf("got a deadline in %v", time.Until(d))
			}
			return server{head: time.Hour}.RoundTrip(req)
		})
		if r := call(t, u, base, get(t.Context()), 0); r.err != nil {
			t.Error(r.err)
		}
	})
}

// FuzzMilliseconds parses arbitrary values. The result must agree with the slow model: a 63-bit
// number, clamped to the longest Duration.
func FuzzMilliseconds(f *testing.F) {
	for _, value := range []string{
		"", "0", "300", " +7 ", "++7", "-1", "1.5", "1e3", "0x10", "1_000", "9223372036854", "9223372036855", "9223372036854775807", "9223372036854775808", "18446744073709551615",
		"18446744073709551616", "00000000000000000000000000000001",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := milliseconds([]string{value})
		want, wantOK := slowMilliseconds(value)
		if got != want && ok || ok != wantOK {
			t.Errorf("%q: got %v, %v, want %v, %v", value, got, ok, want, wantOK)
		}
		for _, lines := range [][]string{nil, {}, {value, value}} {
			if got, ok := milliseconds(lines); ok {
				t.Errorf("%q: got %v, want none", lines, got)
			}
		}
	})
}

var digits = regexp.MustCompile(`^\+?[0-9]+$`)

// slowMilliseconds is a model of milliseconds with numbers that do not overflow.
func slowMilliseconds(value string) (time.Duration, bool) {
	value = strings.TrimSpace(value)
	if !digits.MatchString(value) {
		return 0, false
	}
	ms, _ := new(big.Int).SetString(strings.TrimPrefix(value, "+"), 10)
	if ms.BitLen() > 63 {
		return 0, false
	}
	if ms.Mul(ms, big.NewInt(int64(time.Millisecond))); !ms.IsInt64() {
		return math.MaxInt64, true
	}
	return time.Duration(ms.Int64()), true
}
