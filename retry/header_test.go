package retry

import (
	"context"
	"math"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
)

// TestHeaderMatcher tests each kind of matcher on one header.
func TestHeaderMatcher(t *testing.T) {
	for _, tc := range []struct {
		name    string
		matcher HeaderMatcher
		matches []string
		misses  []string
	}{
		{"present", HeaderMatcher{}, []string{"", "a", "abc"}, []string{missing}},
		{"exact", HeaderMatcher{Exact: "abc"}, []string{"abc"}, []string{"", "ab", "abcd", "ABC", missing}},
		{"prefix", HeaderMatcher{Prefix: "ab"}, []string{"ab", "abc"}, []string{"", "a", "cab", missing}},
		{"suffix", HeaderMatcher{Suffix: "bc"}, []string{"bc", "abc"}, []string{"", "bcd", "c", missing}},
		{"contains", HeaderMatcher{Contains: "b"}, []string{"b", "abc"}, []string{"", "ac", missing}},
		{"regex matches the whole value", HeaderMatcher{Regex: "a|b+"}, []string{"a", "bb"}, []string{"", "ab", "abb", "xa", missing}},
		{"regex with a line end", HeaderMatcher{Regex: "a"}, []string{"a"}, []string{"a\n", missing}},
		{"not present", HeaderMatcher{Invert: true}, []string{missing}, []string{"", "a"}},
		{"not exact", HeaderMatcher{Exact: "abc", Invert: true}, []string{"", "ab"}, []string{"abc", missing}},
		{"not regex", HeaderMatcher{Regex: "a*", Invert: true}, []string{"b"}, []string{"", "aa", missing}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.matcher.Name = "x-again" // names are case-insensitive
			list, err := compileHeaders("RetriableHeaders", []HeaderMatcher{{Name: "X-Other", Exact: "never"}, tc.matcher})
			if err != nil {
				t.Fatal(err)
			}
			check := func(values []string, want bool) {
				for _, value := range values {
					header := http.Header{}
					if value != missing {
						header.Set("X-Again", value)
					}
					if got := anyMatches(list, header.Values); got != want {
						t.Errorf("%+v on %q: got %v, want %v", tc.matcher, value, got, want)
					}
				}
			}
			check(tc.matches, true)
			check(tc.misses, false)
		})
	}
}

// TestHeaderMatcher_lines tests matchers on headers with several lines. As in Envoy one line may
// match, or all lines joined.
func TestHeaderMatcher_lines(t *testing.T) {
	final := []string{"final", "try-again"}
	for _, tc := range []struct {
		name    string
		matcher HeaderMatcher
		lines   []string
		want    bool
	}{
		{"present", HeaderMatcher{}, final, true},
		{"exact, first", HeaderMatcher{Exact: "final"}, final, true},
		{"exact, second", HeaderMatcher{Exact: "try-again"}, final, true},
		{"exact, none", HeaderMatcher{Exact: "again"}, final, false},
		{"exact, joined", HeaderMatcher{Exact: "final,try-again"}, final, true},
		{"prefix, second", HeaderMatcher{Prefix: "try"}, final, true},
		{"suffix, first", HeaderMatcher{Suffix: "final"}, final, true},
		{"contains, second", HeaderMatcher{Contains: "again"}, final, true},
		{"regex, second", HeaderMatcher{Regex: "try-.*"}, final, true},
		{"regex, joined", HeaderMatcher{Regex: "[a-z]+,[a-z-]+"}, final, true},
		{"regex, none", HeaderMatcher{Regex: "[0-9]+"}, final, false},
		{"not present", HeaderMatcher{Invert: true}, final, false},
		{"not exact, one is", HeaderMatcher{Exact: "try-again", Invert: true}, final, false},
		{"not exact, none is", HeaderMatcher{Exact: "again", Invert: true}, final, true},
		{"not prefix, one is", HeaderMatcher{Prefix: "try", Invert: true}, final, false},
		{"not regex, none is", HeaderMatcher{Regex: "[0-9]+", Invert: true}, final, true},
		{"an empty line", HeaderMatcher{Exact: "b"}, []string{"", "b"}, true},
		{"present, no line", HeaderMatcher{}, []string{}, true},
		{"not present, no line", HeaderMatcher{Invert: true}, []string{}, false},
		{"not exact, no line", HeaderMatcher{Exact: "a", Invert: true}, []string{}, true},
		{"regex that matches nothing, no line", HeaderMatcher{Regex: "a*"}, []string{}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.matcher.Name = "X-Verdict"
			m, err := tc.matcher.Compile()
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Matches(tc.lines); got != tc.want {
				t.Errorf("%+v on %q: got %v, want %v", tc.matcher, tc.lines, got, tc.want)
			}
		})
	}
}

// TestHeaderLines sends headers with several lines over HTTP, in requests and responses.
func TestHeaderLines(t *testing.T) {
	matcher := []HeaderMatcher{{Name: "X-Verdict", Exact: "try-again"}}
	for _, tc := range []struct {
		name    string
		cfg     Config
		request http.Header
		answer  answer
		want    int // attempts
	}{
		{"response", Config{On: "retriable-headers", RetriableHeaders: matcher}, nil, status(200, "X-Verdict", "final", "X-Verdict", "try-again"), 2},
		{"request", Config{On: "5xx", RetriableRequestHeaders: matcher}, http.Header{"X-Verdict": {"final", "try-again"}}, status(503), 2},
		{"request, empty value", Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}}, http.Header{"X-May": {""}}, status(503), 2},
		{"request, no value", Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-May"}}}, http.Header{"X-May": nil}, status(503), 2},
		{"request, inverted, empty value", Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-No", Invert: true}}}, http.Header{"X-No": {""}}, status(503), 1},
		{"inverted value, missing", Config{On: "5xx", RetriableRequestHeaders: []HeaderMatcher{{Name: "X-No", Exact: "1", Invert: true}}}, nil, status(503), 1},
		{"a rate limit without a value", Config{On: "5xx"}, nil, status(503, "X-Envoy-Ratelimited", ""), 1},
		{"gRPC status in two lines is ignored", Config{On: "unavailable"}, nil, status(200, "Grpc-Status", "14", "Grpc-Status", "14"), 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				req.Header = tc.request
				if r := call(t, upstream(t, tc.cfg), answers(tc.answer), req); r.attempts != tc.want {
					t.Errorf("got %d attempts, want %d", r.attempts, tc.want)
				}
			})
		})
	}
}

// FuzzHeaderMatcher compiles arbitrary matchers and applies them to two lines:
//   - Nothing panics.
//   - Invert inverts the result for a present header.
//   - A matcher that matches one line matches both.
func FuzzHeaderMatcher(f *testing.F) {
	f.Add("X-A", "a", "", "", "", "", "abc", "a")
	f.Add("X-A", "", "a", "", "", "", "", "ab")
	f.Add("x-a", "", "", "", "", "(?m)a$", "a\nb", "b")
	f.Add("X-A", "", "", "", "", "a)(b", "", "")
	f.Add("X A", "", "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, name, exact, prefix, suffix, contains, regex, first, second string) {
		h := HeaderMatcher{Name: name, Exact: exact, Prefix: prefix, Suffix: suffix, Contains: contains, Regex: regex}
		m, err := h.Compile()
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("%+v: got %q, want an error of one line", h, err)
			}
			return
		}
		h.Invert = true
		inverted, err := h.Compile()
		if err != nil {
			t.Fatalf("%+v: got %v when inverted", h, err)
		}
		for _, lines := range [][]string{{}, {first}, {second}, {first, second}} {
			if m.Matches(lines) == inverted.Matches(lines) {
				t.Errorf("%+v on %q: Invert makes no difference", h, lines)
			}
		}
		if (m.Matches([]string{first}) || m.Matches([]string{second})) && !m.Matches([]string{first, second}) {
			t.Errorf("%+v: one of %q and %q matches, but not both", h, first, second)
		}
		if m.Matches(nil) || inverted.Matches(nil) != (exact+prefix+suffix+contains+regex == "") {
			t.Errorf("%+v: want a missing header to match only an inverted matcher with nothing but a name", h)
		}
		if exact != "" && m.Matches([]string{first}) != (first == exact) {
			t.Errorf("%+v on %q: got %v", h, first, first != exact)
		}
	})
}

// missing is the value of a missing header.
const missing = "(missing)"

// TestRetriableHeaders retries by response headers, with any status.
func TestRetriableHeaders(t *testing.T) {
	bad := []HeaderMatcher{{Name: "X-Bad", Exact: "yes"}}
	notGood := []HeaderMatcher{{Name: "X-Good", Invert: true}}
	for _, tc := range []struct {
		name   string
		on     string
		list   []HeaderMatcher
		answer answer
		want   int
	}{
		{"match on 200", "retriable-headers", bad, status(200, "X-Bad", "yes"), 2},
		{"match on 404", "retriable-headers", bad, status(404, "X-Bad", "yes"), 2},
		{"other value", "retriable-headers", bad, status(200, "X-Bad", "no"), 1},
		{"no header", "retriable-headers", bad, status(503), 1},
		{"empty value", "retriable-headers", []HeaderMatcher{{Name: "X-Bad"}}, status(200, "X-Bad", ""), 2},
		{"inverted, present", "retriable-headers", notGood, status(200, "X-Good", "1"), 1},
		{"inverted, missing", "retriable-headers", notGood, status(200), 2},
		// Without a response no header is missing.
		{"inverted, connection refused", "retriable-headers", notGood, failure(errRefusedDial), 1},
		{"inverted, connection reset", "retriable-headers", notGood, failure(errBroken), 1},
		{"inverted, connection reset, other condition", "retriable-headers,reset", notGood, failure(errBroken), 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, Config{On: tc.on, RetriableHeaders: tc.list})
				if r := call(t, u, answers(tc.answer), get(t.Context())); r.attempts != tc.want {
					t.Errorf("got %d attempts, want %d", r.attempts, tc.want)
				}
			})
		})
	}
}

// TestRetriableHeadersOfFunctions uses a successful function, which has no headers.
func TestRetriableHeadersOfFunctions(t *testing.T) {
	u := upstream(t, Config{On: "retriable-headers", RetriableHeaders: []HeaderMatcher{{Name: "X-Good", Invert: true}}})
	runs := 0
	_, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) {
		runs++
		return 0, nil
	})
	if runs != 1 || err != nil {
		t.Errorf("got %d runs and %v, want 1 and no error", runs, err)
	}
}

// TestHeaderLookups records which response headers are read: for a good response there must be
// none.
func TestHeaderLookups(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		code int
		want string
	}{
		{"good response", Config{On: "5xx"}, 200, ""},
		{"good response, default", Config{}, 200, ""},
		{"retriable response", Config{On: "5xx", NumRetries: Never}, 503, "X-Envoy-Ratelimited"},
		{"retriable response, default", Config{}, 503, "X-Envoy-Ratelimited Retry-After X-Envoy-Ratelimited"},
		{"envoy-ratelimited must read", Config{On: "envoy-ratelimited"}, 200, "X-Envoy-Ratelimited"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var x answered
				x.code = tc.code
				upstream(t, tc.cfg).Chain().Invoke(t.Context(), &x)
				if got := strings.Join(x.asked, " "); got != tc.want {
					t.Errorf("got lookups of %q, want %q", got, tc.want)
				}
			})
		})
	}
}

// answered is an exchange of a custom protocol that records which headers are read.
type answered struct {
	code  int
	asked []string
}

func (x *answered) Request() policy.Request { return policy.Request{Protocol: "test"} }
func (x *answered) Unary() bool             { return true }

func (x *answered) Try(_ context.Context, _ *policy.Attempt, o *policy.Outcome) {
	o.Code, o.Detail = x.code, envoy.ViaUpstream
	if x.code == 503 {
		o.Conditions = policy.Status5xx | policy.GatewayError
	}
}

func (x *answered) Classify(*policy.Attempt, *policy.Outcome, error) {}
func (x *answered) RequestHeader(string) []string                    { return nil }
func (x *answered) Header(*policy.Attempt) policy.Header             { return http.Header{} }
func (x *answered) Idempotent() bool                                 { return true }
func (x *answered) Replayable() bool                                 { return true }

func (x *answered) ResponseHeader(_ *policy.Outcome, name string) []string {
	x.asked = append(x.asked, name)
	return nil
}

// TestResetFormat parses values at a fixed time.
func TestResetFormat(t *testing.T) {
	now := time.Date(2026, time.May, 4, 12, 0, 0, 500e6, time.UTC)
	const no = time.Duration(-1)
	for _, tc := range []struct {
		name   string
		value  string
		either time.Duration // SecondsOrDate
		plain  time.Duration // Seconds
		unix   time.Duration // UnixTimestamp
	}{
		{"seconds", "120", 2 * time.Minute, 2 * time.Minute, no},
		{"blanks around", " 120\t", 2 * time.Minute, 2 * time.Minute, no},
		{"zero", "0", no, no, no},
		{"longest", "9223372036", 9223372036 * time.Second, 9223372036 * time.Second, 7445476036*time.Second - 500*time.Millisecond},
		{"too long", "9223372037", no, no, 7445476037*time.Second - 500*time.Millisecond},
		{"a year beyond any Duration", "99999999999", no, no, no},
		{"largest timestamp", "9223372036854775807", no, no, no},
		{"over the largest timestamp", "9223372036854775808", no, no, no},
		{"sign", "+5", 5 * time.Second, 5 * time.Second, no},
		{"timestamp with a sign", "+1777896005", 1777896005 * time.Second, 1777896005 * time.Second, 4500 * time.Millisecond},
		{"two signs", "++5", no, no, no},
		{"blank behind the sign", "+ 5", no, no, no},
		{"negative", "-5", no, no, no},
		{"fraction", "1.5", 2 * time.Second, no, no},
		{"smallest fraction", "1.000000000000000000000000001", 2 * time.Second, no, no},
		{"zero fraction", "7.000", 7 * time.Second, no, no},
		{"point without digits", "7.", 7 * time.Second, no, no},
		{"less than a second", "0.25", time.Second, no, no},
		{"no digits before the point", ".5", time.Second, no, no},
		{"zero as a fraction", "0.0", no, no, no},
		{"point alone", ".", no, no, no},
		{"two points", "1.5.2", no, no, no},
		{"comma", "1,5", no, no, no},
		{"negative fraction", "-1.5", no, no, no},
		{"exponent", "1e3", no, no, no},
		{"fraction with an exponent", "1.5e3", no, no, no},
		{"longest, and a fraction", "9223372036.1", no, no, no},
		{"underscore", "1_0", no, no, no},
		{"hexadecimal", "0x10", no, no, no},
		{"unit", "5s", no, no, no},
		{"empty", "", no, no, no},
		{"words", "soon", no, no, no},
		{"timestamp", "1777896005", 1777896005 * time.Second, 1777896005 * time.Second, 4500 * time.Millisecond},
		{"timestamp in the past", "1777896000", 1777896000 * time.Second, 1777896000 * time.Second, no},
		{"date", "Mon, 04 May 2026 12:00:10 GMT", 9500 * time.Millisecond, no, no},
		{"date, RFC 850", "Monday, 04-May-26 12:00:10 GMT", 9500 * time.Millisecond, no, no},
		{"date, ANSI C", "Mon May  4 12:00:10 2026", 9500 * time.Millisecond, no, no},
		{"date in the past", "Mon, 04 May 2026 12:00:00 GMT", no, no, no},
		{"date in another zone", "Mon, 04 May 2026 12:00:10 CET", no, no, no},
		{"date beyond any Duration", "Fri, 31 Dec 9999 23:59:59 GMT", no, no, no},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for format, want := range map[ResetFormat]time.Duration{
				SecondsOrDate: tc.either, Seconds: tc.plain, UnixTimestamp: tc.unix,
			} {
				got, ok := format.parse(tc.value, now)
				if !ok {
					got = no
				}
				if got != want {
					t.Errorf("format %d: %q: got %v, want %v", format, tc.value, got, want)
				}
			}
		})
	}
}

var (
	digits = regexp.MustCompile(`^\+?[0-9]+$`)
	sloppy = regexp.MustCompile(`^\+?([0-9]+\.?[0-9]*|\.[0-9]+)$`)
)

// slowParse is a model of parse with numbers that do not overflow.
func slowParse(f ResetFormat, value string, now time.Time) (wait time.Duration, ok bool) {
	value = strings.TrimSpace(value)
	nanos := new(big.Int)
	billion := big.NewInt(1e9)
	sinceEpoch := new(big.Int).Add(new(big.Int).Mul(big.NewInt(now.Unix()), billion), big.NewInt(int64(now.Nanosecond())))
	at, err := http.ParseTime(value)
	switch {
	case f == SecondsOrDate && sloppy.MatchString(value):
		seconds, _ := new(big.Rat).SetString("0" + strings.TrimSuffix(strings.TrimPrefix(value, "+"), "."))
		up := new(big.Int).Sub(seconds.Denom(), big.NewInt(1))
		nanos.Div(up.Add(up, seconds.Num()), seconds.Denom()) // rounded up
		if nanos.BitLen() > 63 {
			return 0, false // the number is too large
		}
		nanos.Mul(nanos, billion)
	case digits.MatchString(value):
		nanos.SetString(strings.TrimPrefix(value, "+"), 10)
		nanos.Mul(nanos, billion)
		if f == UnixTimestamp {
			nanos.Sub(nanos, sinceEpoch)
		}
	case f == SecondsOrDate && err == nil:
		nanos.Mul(big.NewInt(at.Unix()), billion)
		nanos.Add(nanos, big.NewInt(int64(at.Nanosecond())))
		nanos.Sub(nanos, sinceEpoch)
	default:
		return 0, false
	}
	if nanos.Sign() <= 0 || nanos.Cmp(big.NewInt(math.MaxInt64)) > 0 {
		return 0, false
	}
	return time.Duration(nanos.Int64()), true
}

// FuzzResetFormat parses arbitrary values at an arbitrary time:
//   - Nothing panics.
//   - A wait is above zero if it is ok, else zero.
//   - Both agree with the slow model.
func FuzzResetFormat(f *testing.F) {
	now := time.Date(2026, time.May, 4, 12, 0, 0, 5, time.UTC).UnixNano()
	for _, value := range []string{
		"", "0", "120", " 1 ", "+1", "1.5", ".5", "2.", "0.0", "+0.1", "-1", "1e3", "9223372036", "9223372037", "1777896005", "9223372036854775807",
		"18446744073709551616", "Mon, 04 May 2026 12:00:10 GMT", "Monday, 04-May-26 12:00:10 GMT", "Mon May  4 12:00:10 2026",
		"Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT",
	} {
		for format := range uint8(3) {
			f.Add(value, format, now)
		}
	}
	f.Fuzz(func(t *testing.T, value string, format uint8, nanos int64) {
		format %= 3
		now := time.Unix(0, nanos)
		wait, ok := ResetFormat(format).parse(value, now)
		if (wait > 0) != ok || wait < 0 {
			t.Errorf("format %d: %q at %v: got %v, %v, want a wait above zero if and only if it is ok", format, value, now, wait, ok)
		}
		wantWait, wantOK := slowParse(ResetFormat(format), value, now)
		if wait != wantWait || ok != wantOK {
			t.Errorf("format %d: %q at %v: got %v, %v, want %v, %v", format, value, now, wait, ok, wantWait, wantOK)
		}
	})
}
