package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestStatusCondition(t *testing.T) {
	for status := range 1000 {
		want := Condition(0)
		if status >= 500 && status < 600 {
			want |= Status5xx
		}
		if status == 502 || status == 503 || status == 504 {
			want |= GatewayError
		}
		if status == 409 {
			want |= Retriable4xx
		}
		if got := HTTPCondition(status); got != want {
			t.Errorf("%d: got %b, want %b", status, got, want)
		}
	}
}

func TestGRPCCondition(t *testing.T) {
	want := map[int]Condition{
		1: GRPCCancelled, 4: GRPCDeadlineExceeded, 8: GRPCResourceExhausted, 13: GRPCInternal, 14: GRPCUnavailable,
	}
	for code := -1; code < 20; code++ {
		if got := GRPCCondition(code); got != want[code] {
			t.Errorf("%d: got %b, want %b", code, got, want[code])
		}
	}
}

// TestConditions pins which conditions count against an upstream.
func TestConditions(t *testing.T) {
	against := []Condition{Status5xx, Reset, ConnectFailure, RefusedStream, ProtocolError, Timeout, PerTryTimeout, Failed}
	for i := range 32 {
		c := Condition(1) << i
		want := false
		for _, a := range against {
			want = want || a == c
		}
		if c.Any(Failure) != want {
			t.Errorf("condition %b: counts against the upstream: %v, want %v", c, c.Any(Failure), want)
		}
	}
	if (Timeout | Reset).Any(Cancelled) || !(Timeout | Reset).Any(Cancelled|Reset) || Condition(0).Any(Failure) {
		t.Error("Any is wrong")
	}
}

func TestConditionString(t *testing.T) {
	tests := map[Condition]string{
		0:                        "-",
		Status5xx | GatewayError: "5xx,gateway-error",
		1<<21 - 1: "5xx,gateway-error,retriable-4xx,reset,connect-failure,refused-stream,protocol-error,timeout," +
			"per-try-timeout,cancelled,refused,failed,invalid,discarded,grpc-cancelled,grpc-deadline-exceeded," +
			"grpc-resource-exhausted,grpc-internal,grpc-unavailable,upgraded,informational",
		1 << 31: "-",
	}
	for c, want := range tests {
		if got := c.String(); got != want {
			t.Errorf("%b: got %s, want %s", uint32(c), got, want)
		}
	}
	if len(conditionNames) != 21 || Informational != 1<<20 {
		t.Errorf("got %d names, and Informational is %b", len(conditionNames), uint32(Informational))
	}
}

// TestStrings pins the name of each value, and that an unknown value prints its number without a
// panic.
func TestStrings(t *testing.T) {
	tests := []struct {
		name  string
		known []fmt.Stringer
		names string
	}{
		{
			"Rank",
			[]fmt.Stringer{AnyPlace, PerCall, Retries, Hedges, PerAttempt},
			"any+place per+call retry hedge per+attempt",
		},
		{"Scope", []fmt.Stringer{Scope(0), ScopeTotal, ScopePerTry, ScopeIdle, ScopeCaller, scopeDiscard}, "none total per-try idle caller none"},
		{
			"EventKind",
			[]fmt.Stringer{
				EventAttempt, EventAttemptEnd, EventRefused, EventRetryScheduled, EventRetry, EventRetryLimitExceeded,
				EventRetryOverflow, EventRetryAbandoned, EventRetryTooLate, EventRetrySuccess, EventDelayed, EventOverdue, EventEnd,
			},
			"attempt attempt+end refused retry+scheduled retry retry+limit+exceeded retry+overflow retry+abandoned retry+too+late retry+success delayed overdue end",
		},
	}
	for _, test := range tests {
		for i, name := range strings.Fields(test.names) {
			if got, want := test.known[i].String(), strings.ReplaceAll(name, "+", " "); got != want {
				t.Errorf("%s %d: got %q, want %q", test.name, test.known[i], got, want)
			}
		}
	}
	if got := len(eventNames); got != int(EventEnd)+1 {
		t.Errorf("got %d names of events, want %d", got, int(EventEnd)+1)
	}
	for i := range 256 {
		for _, s := range []fmt.Stringer{Rank(i), Scope(i), EventKind(i)} {
			text := s.String()
			if known := strings.Contains(text, "("); i == 255 && reflect.TypeOf(s) != reflect.TypeFor[Scope]() && !known {
				t.Errorf("%T(255): got %q, want its number", s, text)
			}
		}
	}
}

func TestTimeoutError(t *testing.T) {
	if got := (&TimeoutError{Upstream: "recipes", Scope: ScopePerTry, Limit: time.Second, Err: errors.New("source broke")}).Error(); got !=
		"timeout: recipes: per-try limit of 1s reached: source broke" {
		t.Errorf("got %q", got)
	}
	if got := (&TimeoutError{Upstream: "recipes", Scope: ScopeCaller}).Error(); got != "timeout: recipes: caller deadline passed" {
		t.Errorf("got %q", got)
	}
}
