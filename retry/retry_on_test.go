package retry

import (
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// dialError returns the error of a failed dial.
func dialError(err error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: err} }

// errRefusedDial is the error of a port without a listener.
var errRefusedDial = dialError(os.NewSyscallError("connect", syscall.ECONNREFUSED))

// openBreaker is a breaker that refuses calls.
func openBreaker(t *testing.T) policy.Policy {
	t.Helper()
	b, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b.Record(breaker.Failure)
	return b
}

func impatient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, time.Second)
}

func leaving(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	time.AfterFunc(time.Second, cancel)
	return ctx, cancel
}

// outcome is a kind of result of an attempt, and the conditions that retry it, as observed with
// Envoy 1.40. The condition "" means the default conditions.
type outcome struct {
	name    string
	answer  answer
	outside timeout.Config                   // outside retry
	inside  func(t *testing.T) policy.Policy // inside retry
	caller  func(context.Context) (context.Context, context.CancelFunc)
	method  string
	words   string
}

const (
	byAny5xx    = "5xx"
	byGateway   = ",5xx,gateway-error"
	byNoAnswer  = ",5xx,gateway-error,reset"
	byNoConnect = byNoAnswer + ",reset-before-request,connect-failure"
)

var outcomes = []outcome{
	{name: "200", answer: status(200), words: "-"},
	{name: "200 with a retriable header", answer: status(200, "X-Again", "yes"), words: "retriable-headers"},
	{name: "500", answer: status(500), words: byAny5xx},
	{name: "501", answer: status(501), words: byAny5xx},
	{name: "502", answer: status(502), words: byGateway},
	{name: "503", answer: status(503), words: byGateway},
	{name: "503 of a rate limit", answer: status(503, "X-Envoy-Ratelimited", "true"), words: "envoy-ratelimited"},
	{
		name: "503 of a rate limit with a retriable header", words: "envoy-ratelimited",
		answer: status(503, "X-Envoy-Ratelimited", "true", "X-Again", "yes"),
	},
	{name: "429 of a rate limit", answer: status(429, "X-Envoy-Ratelimited", "true"), words: "envoy-ratelimited"},
	{name: "503 of an overload", answer: status(503, "X-Envoy-Overloaded", "true"), words: byGateway},
	{name: "504", answer: status(504), words: byGateway},
	{name: "599", answer: status(599), words: byAny5xx},
	{name: "409", answer: status(409), words: "retriable-4xx"},
	{name: "404", answer: status(404), words: "-"},
	{name: "408", answer: status(408), words: "-"},
	{name: "425", answer: status(425), words: "-"},
	{name: "429", answer: status(429), words: "retriable-status-codes"},
	{name: "connection refused", answer: failure(errRefusedDial), words: byNoConnect},
	{name: "connect timeout", answer: failure(dialError(os.ErrDeadlineExceeded)), words: byNoConnect},
	{name: "no route", answer: failure(dialError(syscall.EHOSTUNREACH)), words: byNoConnect},
	{name: "DNS failure", answer: failure(dialError(&net.DNSError{Err: "no such host", IsNotFound: true})), words: byNoConnect},
	{name: "TLS failure", answer: failure(tls.AlertError(40)), words: byNoConnect},
	{name: "connection reset", answer: failure(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), words: byNoAnswer},
	{name: "broken pipe", answer: failure(&net.OpError{Op: "write", Err: syscall.EPIPE}), words: byNoAnswer},
	{name: "EOF before the response", answer: failure(io.EOF), words: byNoAnswer},
	{name: "EOF in the headers", answer: failure(io.ErrUnexpectedEOF), words: byNoAnswer},
	{name: "gRPC, unavailable", answer: status(200, "Grpc-Status", "14"), words: "unavailable"},
	{name: "gRPC, internal", answer: status(200, "Grpc-Status", "13"), words: "internal"},
	{name: "gRPC, canceled", answer: status(200, "Grpc-Status", "1"), words: "cancelled"},
	{name: "gRPC, deadline exceeded", answer: status(200, "Grpc-Status", "4"), words: "deadline-exceeded"},
	{name: "gRPC, resource exhausted", answer: status(200, "Grpc-Status", "8"), words: "resource-exhausted"},
	{name: "gRPC, not found", answer: status(200, "Grpc-Status", "5"), words: "-"},
	{name: "gRPC, no number", answer: status(200, "Grpc-Status", "fourteen"), words: "-"},
	{name: "not HTTP", answer: failure(textError(`malformed HTTP response "SSH-2.0"`)), words: byNoAnswer},
	{name: "stream refused", answer: failure(textError("stream error: stream ID 1; REFUSED_STREAM; received from peer")), words: byNoAnswer + ",refused-stream"},
	{name: "stream reset", answer: failure(textError("stream error: stream ID 1; INTERNAL_ERROR; received from peer")), words: byNoAnswer},
	{name: "timeout of the transport", answer: failure(os.ErrDeadlineExceeded), words: byNoAnswer},
	{name: "unknown error of the transport", answer: failure(errBroken), words: byNoAnswer},
	{name: "per-try timeout", answer: silence, outside: timeout.Config{PerTry: time.Second}, words: byNoAnswer},
	{name: "idle timeout", answer: silence, outside: timeout.Config{Idle: time.Second}, words: byNoAnswer},
	{name: "total timeout", answer: silence, outside: timeout.Config{Total: time.Second}, words: "-"},
	{name: "deadline of the caller", answer: silence, caller: impatient, words: "-"},
	{name: "canceled", answer: silence, caller: leaving, words: "-"},
	{name: "canceled, connection reset", answer: func(req *http.Request) (*http.Response, error) {
		<-req.Context().Done()
		return nil, syscall.ECONNRESET
	}, caller: leaving, words: "-"},
	{name: "refused by a breaker", answer: status(503), inside: openBreaker, words: "-"},
	{name: "refused by a limit", answer: status(503), inside: func(*testing.T) policy.Policy {
		return limits.Config{MaxRequests: limits.Zero}
	}, words: "-"},
	{name: "invalid request", answer: (&http.Transport{}).RoundTrip, method: "NO METHOD", words: "-"},
}

// textError is an error that is recognized only by its text.
type textError string

func (e textError) Error() string { return string(e) }

// TestWords checks each of Envoy's conditions against each kind of outcome.
func TestWords(t *testing.T) {
	all := slices.Concat([]string{""}, slices.Sorted(maps.Keys(words)))
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			var got []string
			for _, word := range all {
				t.Run("on "+word, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						if retriedBy(t, o, word) {
							got = append(got, word)
						}
					})
				})
			}
			want := slices.Sorted(strings.SplitSeq(o.words, ","))
			if o.words == "-" {
				want = nil
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("conditions that retry it (-want +got):\n%s", diff)
			}
		})
	}
}

func retriedBy(t *testing.T, o outcome, word string) bool {
	t.Helper()
	cfg := Config{On: word, Rand: always(0)}
	switch word {
	case "retriable-status-codes":
		cfg.RetriableStatusCodes = []int{418, 429}
	case "retriable-headers":
		cfg.RetriableHeaders = []HeaderMatcher{{Name: "X-Again"}}
	}
	policies := []policy.Policy{o.outside, cfg}
	if o.inside != nil {
		policies = append(policies, o.inside(t))
	}
	ctx := t.Context()
	if o.caller != nil {
		var cancel context.CancelFunc
		ctx, cancel = o.caller(ctx)
		defer cancel()
	}
	req := get(ctx)
	if o.method != "" {
		req.Method = o.method
	}
	w := answers(o.answer)
	r := call(t, upstream(t, policies...), w, req)
	if w.open != 0 {
		t.Errorf("got %d response bodies open, want 0", w.open)
	}
	if again := r.flags.Has(envoy.URX); again != (r.attempts == 2) {
		t.Errorf("got flags %v after %d attempts", r.flags, r.attempts)
	}
	return r.attempts == 2
}
