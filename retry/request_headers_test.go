package retry

import (
	"context"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// TestEnvoyHeaders sends the request headers that ask for retries. The expectations were observed
// with Envoy 1.40.
func TestEnvoyHeaders(t *testing.T) {
	const (
		on, grpcOn, most = "X-Envoy-Retry-On", "X-Envoy-Retry-Grpc-On", "X-Envoy-Max-Retries"
		codes, names     = "X-Envoy-Retriable-Status-Codes", "X-Envoy-Retriable-Header-Names"
		urx              = envoy.URX
	)
	none := Config{EnvoyHeaders: true}
	two := Config{On: "5xx", NumRetries: 2, EnvoyHeaders: true}
	grpc := func(code string) *wire { return answers(status(200, "Grpc-Status", code)) }
	for _, tc := range []struct {
		name   string
		cfg    Config
		header []string
		wire   *wire // nil responds with 503
		want   int   // attempts
		flags  envoy.Flags
	}{
		{name: "no header, no policy", cfg: none, want: 1},
		{name: "no header, the policy's", cfg: two, want: 3, flags: urx},
		{name: "retry-on alone", cfg: none, header: []string{on, "5xx"}, want: 2, flags: urx},
		{name: "retry-on of a POST", cfg: none, header: []string{on, "5xx", ":method", "POST"}, want: 2, flags: urx},
		{name: "retry-on of another kind", cfg: none, header: []string{on, "connect-failure"}, want: 1},
		{name: "retry-on adds", cfg: Config{On: "retriable-4xx", EnvoyHeaders: true}, header: []string{on, "gateway-error"}, want: 2, flags: urx},
		{
			name: "retry-on replaces nothing", cfg: Config{On: "retriable-4xx", EnvoyHeaders: true}, header: []string{on, "gateway-error"},
			wire: answers(status(409)), want: 2, flags: urx,
		},
		{name: "retry-on, a list with blanks", cfg: none, header: []string{on, " reset , gateway-error,"}, want: 2, flags: urx},
		{name: "retry-on, unknown conditions", cfg: none, header: []string{on, "sometimes,5xx,often"}, want: 2, flags: urx},
		{name: "retry-on, only unknown conditions", cfg: none, header: []string{on, "sometimes"}, want: 1},
		{name: "retry-on, empty", cfg: two, header: []string{on, ""}, want: 3, flags: urx},
		{name: "envoy-ratelimited in the header", cfg: none, header: []string{on, "envoy-ratelimited"}, wire: answers(status(429, "X-Envoy-Ratelimited", "1")), want: 2, flags: urx},

		{name: "max-retries alone does nothing", cfg: none, header: []string{most, "3"}, want: 1},
		{name: "max-retries with retry-on", cfg: none, header: []string{on, "5xx", most, "3"}, want: 4, flags: urx},
		{name: "max-retries raises", cfg: two, header: []string{most, "4"}, want: 5, flags: urx},
		{name: "max-retries lowers", cfg: two, header: []string{most, "1"}, want: 2, flags: urx},
		{name: "max-retries 0", cfg: two, header: []string{most, "0"}, want: 1, flags: urx},
		{name: "max-retries over Never", cfg: Config{On: "5xx", NumRetries: Never, EnvoyHeaders: true}, header: []string{most, "1"}, want: 2, flags: urx},
		{name: "max-retries, no number", cfg: two, header: []string{most, "abc"}, want: 3, flags: urx},
		{name: "max-retries, negative", cfg: two, header: []string{most, "-1"}, want: 3, flags: urx},
		{name: "max-retries, a fraction", cfg: two, header: []string{most, "1.5"}, want: 3, flags: urx},
		{name: "max-retries, too large a number", cfg: two, header: []string{most, "99999999999999999999"}, want: 3, flags: urx},

		{name: "max-retries, more than 31 bits", cfg: two, header: []string{most, "2147483648"}, wire: answers(status(503), status(503), status(503), status(503), status(200)), want: 5},
		{name: "max-retries, 32 bits", cfg: two, header: []string{most, "4294967295"}, wire: answers(status(503), status(503), status(503), status(503), status(200)), want: 5},
		{name: "max-retries, 33 bits are cut to 32", cfg: two, header: []string{most, "4294967296"}, want: 1, flags: urx},
		{name: "max-retries, 33 bits plus one are cut to one", cfg: two, header: []string{most, "4294967297"}, want: 2, flags: urx},
		{name: "max-retries, 64 bits", cfg: two, header: []string{most, "18446744073709551612"}, wire: answers(status(503), status(503), status(503), status(503), status(200)), want: 5},
		{name: "max-retries, 65 bits", cfg: two, header: []string{most, "18446744073709551616"}, want: 3, flags: urx},
		{name: "max-retries, blanks and a sign", cfg: two, header: []string{most, " +1 "}, want: 2, flags: urx},
		{name: "max-retries in two lines", cfg: two, header: []string{most, "1", most, "1"}, want: 3, flags: urx},
		{name: "max-retries in one line", cfg: two, header: []string{most, "1,1"}, want: 3, flags: urx},
		{name: "max-retries, empty", cfg: two, header: []string{most, ""}, want: 3, flags: urx},

		{name: "retry-on in two lines", cfg: none, header: []string{on, "connect-failure", on, "5xx"}, want: 2, flags: urx},
		{name: "retry-on in two lines, lists", cfg: none, header: []string{on, "connect-failure,", on, " reset , 5xx"}, want: 2, flags: urx},
		{name: "retry-on, conditions that only a Config has", cfg: none, header: []string{on, "default,idempotent"}, want: 1},
		{name: "retry-on, idempotent is ignored", cfg: two, header: []string{on, "idempotent", ":method", "POST"}, want: 3, flags: urx},
		{
			name: "idempotent of a Config applies", cfg: Config{On: "idempotent", EnvoyHeaders: true}, header: []string{on, "5xx", ":method", "POST"},
			want: 1,
		},
		{name: "idempotent of a Config, GET", cfg: Config{On: "idempotent", EnvoyHeaders: true}, header: []string{on, "5xx"}, want: 2, flags: urx},
		{
			name: "status codes in two lines", cfg: none, header: []string{on, "retriable-status-codes", codes, "418", codes, "x, 503"},
			want: 2, flags: urx,
		},
		{
			name: "header names in two lines", cfg: none, header: []string{on, "retriable-headers", names, "x-other", names, "x-again"},
			wire: answers(status(200, "X-Again", "")), want: 2, flags: urx,
		},
		{name: "gRPC conditions in two lines", cfg: none, header: []string{grpcOn, "cancelled", grpcOn, "unavailable"}, wire: grpc("14"), want: 2, flags: urx},
		{
			name: "the list of a Config for the caller's condition", cfg: Config{RetriableStatusCodes: []int{418}, EnvoyHeaders: true},
			header: []string{on, "retriable-status-codes"}, wire: answers(status(418)), want: 2, flags: urx,
		},
		{
			name: "the list of a Config without the caller's condition", cfg: Config{RetriableStatusCodes: []int{418}, EnvoyHeaders: true},
			wire: answers(status(418)), want: 1,
		},
		{
			name: "the matchers of a Config for the caller's condition", cfg: Config{RetriableHeaders: []HeaderMatcher{{Name: "X-Bad", Exact: "1"}}, EnvoyHeaders: true},
			header: []string{on, "retriable-headers"}, wire: answers(status(200, "X-Bad", "1")), want: 2, flags: urx,
		},
		{
			name: "the condition of a Config for the caller's list", cfg: Config{On: "retriable-status-codes", EnvoyHeaders: true},
			header: []string{codes, "418"}, wire: answers(status(418)), want: 2, flags: urx,
		},

		{name: "status codes without the condition", cfg: none, header: []string{codes, "503"}, want: 1},
		{name: "status codes with the condition", cfg: none, header: []string{on, "retriable-status-codes", codes, "418, 503"}, want: 2, flags: urx},
		{name: "status codes, others", cfg: none, header: []string{on, "retriable-status-codes", codes, "418"}, want: 1},
		{name: "status codes, some invalid", cfg: none, header: []string{on, "retriable-status-codes", codes, "x,,503,5e2"}, want: 2, flags: urx},
		{
			name: "status codes add", cfg: Config{On: "retriable-status-codes", RetriableStatusCodes: []int{404}, EnvoyHeaders: true},
			header: []string{codes, "418"}, wire: answers(status(418), status(404), status(404)), want: 2, flags: urx,
		},

		{name: "header names without the condition", cfg: none, header: []string{names, "X-Again"}, wire: answers(status(200, "X-Again", "")), want: 1},
		{
			name: "header names with the condition", cfg: none, header: []string{on, "retriable-headers", names, "x-other, x-again"},
			wire: answers(status(200, "X-Again", "")), want: 2, flags: urx,
		},
		{name: "header names, none present", cfg: none, header: []string{on, "retriable-headers", names, "X-Again"}, want: 1},
		{name: "header names, not a name", cfg: none, header: []string{on, "retriable-headers", names, "not a name,,"}, want: 1},
		{
			name: "header names add", cfg: Config{On: "retriable-headers", RetriableHeaders: []HeaderMatcher{{Name: "X-Bad", Exact: "1"}}, EnvoyHeaders: true},
			header: []string{names, "X-Again"}, wire: answers(status(200, "X-Bad", "1")), want: 2, flags: urx,
		},

		{name: "gRPC conditions in their header", cfg: none, header: []string{grpcOn, "unavailable"}, wire: grpc("14"), want: 2, flags: urx},
		{name: "gRPC conditions, another status", cfg: none, header: []string{grpcOn, "unavailable, cancelled"}, wire: grpc("4"), want: 1},
		{name: "gRPC conditions in the other header", cfg: none, header: []string{on, "unavailable"}, wire: grpc("14"), want: 1},
		{name: "other conditions in gRPC's header", cfg: none, header: []string{grpcOn, "5xx"}, want: 1},

		{name: "without EnvoyHeaders", cfg: Config{On: "5xx"}, header: []string{on, "retriable-4xx", most, "9"}, want: 2, flags: urx},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				req := get(t.Context())
				for i := 0; i < len(tc.header); i += 2 {
					if tc.header[i] == ":method" {
						req.Method = tc.header[i+1]
						continue
					}
					req.Header.Add(tc.header[i], tc.header[i+1])
				}
				if tc.wire == nil {
					tc.wire = answers(status(503))
				}
				r := call(t, upstream(t, tc.cfg), tc.wire, req)
				if r.attempts != tc.want || r.flags != tc.flags || r.err != nil {
					t.Errorf("%q: got %d attempts, flags %v, %v, want %d, %v", tc.header, r.attempts, r.flags, r.err, tc.want, tc.flags)
				}
			})
		})
	}
}

// TestEnvoyHeaders_consumed checks that no attempt sends the headers to the server, valid or not,
// and that the caller's map is unchanged.
func TestEnvoyHeaders_consumed(t *testing.T) {
	full := http.Header{"X-Own": {"1", "2"}}
	for i, name := range envoyHeaders {
		full[name] = []string{[]string{"5xx", "unavailable", "junk", "418", "X-Again", "true"}[i], "junk"}
	}
	full.Set(envoy.MaxRetriesHeader, "2")
	for _, tc := range []struct {
		name   string
		cfg    Config
		header http.Header
		want   http.Header
		tries  int
	}{
		{"consumed", Config{EnvoyHeaders: true}, full, http.Header{"X-Own": {"1", "2"}}, 3},
		{"not consumed", Config{On: "5xx"}, full, full, 2},
		{"nothing to consume", Config{On: "5xx", EnvoyHeaders: true}, http.Header{"X-Own": {"1"}}, http.Header{"X-Own": {"1"}}, 2},
		{"no header at all", Config{On: "5xx", EnvoyHeaders: true}, nil, nil, 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sent []http.Header
				base := answers(func(req *http.Request) (*http.Response, error) {
					sent = append(sent, req.Header.Clone())
					return status(503)(req)
				})
				req := get(t.Context())
				req.Header = tc.header.Clone()
				call(t, upstream(t, tc.cfg), base, req)
				if diff := cmp.Diff(slices.Repeat([]http.Header{tc.want}, tc.tries), sent); diff != "" {
					t.Errorf("sent (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(tc.header, req.Header); diff != "" {
					t.Errorf("the caller's header has changed (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestEnvoyHeaders_eachForItself uses one policy for calls with different headers: no call affects
// another.
func TestEnvoyHeaders_eachForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, timeout.Config{}, Config{
			On: "retriable-status-codes,retriable-headers", RetriableStatusCodes: []int{404},
			RetriableHeaders: []HeaderMatcher{{Name: "X-Bad"}}, BaseInterval: time.Millisecond, EnvoyHeaders: true,
		})
		for range 3 {
			for header, value := range map[string]string{
				"X-Envoy-Retriable-Status-Codes": "418", "X-Envoy-Retriable-Header-Names": "X-Tea", "X-Envoy-Max-Retries": "3",
			} {
				asking := get(t.Context())
				asking.Header.Set(header, value)
				call(t, u, answers(status(418, "X-Tea", "1")), asking)
				if r := call(t, u, answers(status(418, "X-Tea", "1")), get(t.Context())); r.attempts != 1 {
					t.Errorf("after a call with %s: got %d attempts of a call without it, want 1", header, r.attempts)
				}
			}
		}
	})
}

// asking is an exchange with request headers.
type asking struct {
	answered
	header http.Header
}

func (x *asking) RequestHeader(name string) []string { return x.header[name] }

// FuzzEnvoyHeaders sends arbitrary headers, in one line or two. Nothing panics, and the number of
// retries is that of the header if it is a number, else the policy's.
func FuzzEnvoyHeaders(f *testing.F) {
	f.Add("5xx, reset", "unavailable", "3", "418,x", "X-Again,\x00", 503, false)
	f.Add("retriable-status-codes", "", "18446744073709551615", "503", "", 503, true)
	f.Add("default,idempotent", ",", "-1", "+503", ":", 200, true)
	f.Fuzz(func(t *testing.T, on, grpcOn, most, codes, names string, code int, twice bool) {
		base, err := Config{EnvoyHeaders: true, NumRetries: 7}.compile()
		if err != nil {
			t.Fatal(err)
		}
		header := http.Header{}
		for i, value := range []string{on, grpcOn, most, codes, names} {
			header[envoyHeaders[i]] = []string{value}
			if twice {
				header[envoyHeaders[i]] = []string{value, value}
			}
		}
		var heard *envoyRule
		probe := probing(func(c *policy.Call) *policy.Outcome {
			heard = base.honoring(c)
			o := &policy.Outcome{Code: code, Detail: envoy.ViaUpstream}
			_ = heard.again(c, o)
			return o
		})
		upstream(t, probe).Chain().Invoke(t.Context(), &asking{header: header})
		want := uint64(7)
		if value := strings.TrimSpace(most); digits.MatchString(value) && !twice {
			if n, _ := new(big.Int).SetString(strings.TrimPrefix(value, "+"), 10); n.BitLen() <= 64 {
				want = n.Uint64() % (1 << 32)
			}
		}
		if uint64(heard.most) != want {
			t.Errorf("%q, twice: %v: got %d retries, want %d", most, twice, heard.most, want)
		}
		if heard.on.idempotent {
			t.Error("got idempotent from a request header, want it ignored")
		}
	})
}

// probing is a policy that returns its own outcomes.
type probing func(*policy.Call) *policy.Outcome

func (p probing) Wrap(*policy.Builder, policy.Func) (policy.Func, error) {
	return func(_ context.Context, c *policy.Call) *policy.Outcome { return p(c) }, nil
}
