package command

import (
	"context"
	"errors"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
)

// wantLines checks that err matches ErrInvalid, and that each of its lines names the package
// and begins like one of want, in order.
func wantLines(t *testing.T, err error, want ...string) {
	t.Helper()
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want an error that matches ErrInvalid", err)
		return
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Errorf("got %d lines, want %d:\n%v", len(lines), len(want), err)
		return
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, "command: "+want[i]) {
			t.Errorf("line %d: got %q, want it to begin with %q", i, line, "command: "+want[i])
		}
	}
}

// TestSettings has settings that make no sense: each is an error that names the field and the
// value, and says what to write instead.
func TestSettings(t *testing.T) {
	plain, err := breaker.FromGobreaker[any](gobreaker.NewCircuitBreaker[any](gobreaker.Settings{}))
	must(t, err)
	services := map[string]struct {
		cfg  ServiceConfig
		want []string
	}{
		"a percentage":     {ServiceConfig{Threshold: 50}, []string{"ServiceConfig.Threshold: 50 is above 1; write a ratio such as 0.5, or breaker.Never"}},
		"above one":        {ServiceConfig{Threshold: 1.01}, []string{"ServiceConfig.Threshold: 1.01 is above 1; write"}},
		"no number":        {ServiceConfig{Threshold: math.NaN()}, []string{"ServiceConfig.Threshold: NaN is no ratio; write"}},
		"sleep, no unit":   {ServiceConfig{Sleep: 1}, []string{"ServiceConfig.Sleep: 1ns is below 1ms; did you forget the unit? Write"}},
		"period, no unit":  {ServiceConfig{Period: 10}, []string{"ServiceConfig.Period: 10ns is below 1ms; did you forget the unit? Write"}},
		"a plain breaker":  {ServiceConfig{Breaker: plain}, []string{"ServiceConfig.Breaker: admits no command; make it"}},
		"the zero breaker": {ServiceConfig{Breaker: &breaker.Breaker{}}, []string{"ServiceConfig.Breaker: admits no command; make it"}},
		"both": {ServiceConfig{Breaker: plain, OnStateChange: func(breaker.Change) {}}, []string{
			"ServiceConfig.Breaker: a breaker is given, and settings to make one too; leave out", "ServiceConfig.Breaker: admits no command; make it",
		}},
		"all": {ServiceConfig{Threshold: 2, NonBreakCount: -1, Sleep: -5, Period: -1}, []string{
			"ServiceConfig.Threshold: 2 is above 1; write", "ServiceConfig.NonBreakCount: -1 is negative; write",
			"ServiceConfig.Sleep: -5ns is negative; write", "ServiceConfig.Period: -1ns is negative; write",
		}},
	}
	for name, tt := range services {
		t.Run("service, "+name, func(t *testing.T) {
			_, err := NewService(tt.cfg)
			wantLines(t, err, tt.want...)
		})
	}
	pools := map[string]struct {
		cfg  PoolConfig
		want []string
	}{
		"negative threads":          {PoolConfig{MaxThreads: -1}, []string{"PoolConfig.MaxThreads: -1 is negative; write"}},
		"negative queue":            {PoolConfig{MaxThreads: 1, MaxQueue: -2}, []string{"PoolConfig.MaxQueue: -2 is negative; write"}},
		"queue without threads":     {PoolConfig{MaxQueue: 100}, []string{"PoolConfig.MaxQueue: 100 has no effect on a pool without MaxThreads; write"}},
		"no queue, without threads": {PoolConfig{MaxQueue: Zero}, []string{"PoolConfig.MaxQueue: -1 has no effect on a pool without MaxThreads; write"}},
		"unknown overflow":          {PoolConfig{MaxThreads: 1, MaxQueue: 1, Overflow: 9}, []string{"PoolConfig.Overflow: 9 is unknown; write"}},
		"overflow, no bounds":       {PoolConfig{Overflow: CallerRuns}, []string{"PoolConfig.Overflow: caller_runs has no effect on a pool that is never full; write"}},
		"overflow, endless queue":   {PoolConfig{MaxThreads: 4, Overflow: Discard}, []string{"PoolConfig.Overflow: discard has no effect on a pool that is never full; write"}},
		"all": {PoolConfig{MaxThreads: -1, MaxQueue: -5, Overflow: 200}, []string{
			"PoolConfig.MaxThreads: -1 is negative; write", "PoolConfig.MaxQueue: -5 is negative; write", "PoolConfig.Overflow: 200 is unknown; write",
		}},
	}
	for name, tt := range pools {
		t.Run("pool, "+name, func(t *testing.T) {
			_, err := NewPool(tt.cfg)
			wantLines(t, err, tt.want...)
		})
	}
	for name, cfg := range map[string]PoolConfig{
		"nothing": {}, "threads": {MaxThreads: 1}, "no queue": {MaxThreads: 1, MaxQueue: Zero, Overflow: Discard},
		"caller runs": {MaxThreads: 1, MaxQueue: 1, Overflow: CallerRuns},
	} {
		if _, err := NewPool(cfg); err != nil {
			t.Errorf("pool, %s: got %v, want no error", name, err)
		}
	}
	if _, err := NewService(ServiceConfig{Threshold: breaker.Never, Sleep: time.Millisecond, Period: time.Millisecond}); err != nil {
		t.Errorf("the least: got %v, want no error", err)
	}
}

// TestSettings_ofCommands has commands with such settings: they fail with these errors.
func TestSettings_ofCommands(t *testing.T) {
	one := func(context.Context, int) (int, error) { return 1, nil }
	for name, tt := range map[string]struct {
		command *Command[int]
		want    []string
	}{
		"negative limit": {New(Config{Timeout: -1}, value(1)), []string{"Config.Timeout: -1ns is negative; write"}},
		"limit, no unit": {New(Config{Timeout: 30}, value(1)), []string{"Config.Timeout: 30ns is below 1ms; did you forget the unit? Write"}},
		"zero service":   {New(Config{Service: &Service{}}, value(1)), []string{"Config.Service: the service was not made by NewService; pass"}},
		"nil work":       {New[int](Config{}, nil), []string{"the work is a nil function; pass"}},
		"nil dependency": {Chain(Config{}, (*Command[int])(nil), one), []string{"dependency 1 is nil, or was not made by New; pass"}},
		"all": {NewAll[int, int](Config{Service: &Service{}, Timeout: 1}, []*Command[int]{Const(1), nil, {}}, nil), []string{
			"the work is a nil function", "Config.Timeout: 1ns", "Config.Service: ", "dependency 2 is nil", "dependency 3 is nil",
		}},
	} {
		must(t, tt.command.Run(t.Context()))
		_, err := tt.command.Get(t.Context())
		t.Run(name, func(t *testing.T) { wantLines(t, err, tt.want...) })
	}
	for name, tt := range map[string]struct {
		options retry.Retryable
		want    []string
	}{
		"sleep, no unit": {retry.Retryable{Sleep: 1}, []string{"Retryable.Sleep: 1ns is below 1ms; did you forget the unit? Write"}},
		"both sleeps": {retry.Retryable{Sleep: time.Second, SleepFunc: func(int) time.Duration { return 0 }}, []string{
			"Retryable.Sleep: 1s has no effect beside SleepFunc; leave one of them out",
		}},
		"a nil pattern": {retry.Retryable{Matching: []retry.Pattern{(*regexp.Regexp)(nil)}}, []string{"Retryable.Matching: a Pattern is nil; leave it out"}},
		"a budget": {retry.Retryable{Budget: &retry.Budget{Percent: 10}}, []string{
			"Retryable.Budget: {Percent:10 MinPerSecond:0 Window:0s Disabled:false} has no effect on a command, which has no upstream; leave it out",
		}},
		"all": {retry.Retryable{Tries: -3, Sleep: -7, On: []retry.Match{nil}, Matching: []retry.Pattern{nil}, Budget: &retry.Budget{}}, []string{
			"Retryable.Tries: -3 is negative; write", "Retryable.Sleep: -7ns is negative; write",
			"Retryable.On, Retryable.Not: a Match is nil; leave", "Retryable.Matching: a Pattern is nil; leave",
			"Retryable.Budget: {Percent:0 MinPerSecond:0 Window:0s Disabled:false} has no effect",
		}},
	} {
		c := New(Config{}, value(1))
		must(t, c.RunWithRetry(t.Context(), tt.options))
		_, err := c.Get(t.Context())
		t.Run("retry, "+name, func(t *testing.T) { wantLines(t, err, tt.want...) })
	}
}

// TestNilArguments has nil arguments: each is an error that says so, never a nil dereference.
func TestNilArguments(t *testing.T) {
	var none context.Context
	s := service(t, ServiceConfig{})
	for name, start := range starts {
		c := New(Config{Service: s}, value(1))
		t.Run(name, func(t *testing.T) { wantLines(t, start(c, none), "invalid: Start: the context is nil; pass") })
		if c.Started() {
			t.Errorf("%s: got a started command, want one that can still be started", name)
		}
		must(t, start(c, t.Context()))
		_, err := c.Get(none)
		wantLines(t, err, "invalid: Get, Wait: the context is nil; pass")
		wantLines(t, c.Wait(none), "invalid: Get, Wait: the context is nil; pass")
		if v, err := c.Get(t.Context()); v != 1 || err != nil {
			t.Errorf("%s: got %d and %v, want the command to work", name, v, err)
		}
	}
	started := Start(none, Config{Service: s}, value(1))
	_, err := started.Get(t.Context())
	wantLines(t, err, "invalid: Start: the context is nil; pass")
	wantStatus(t, s, breaker.Status{Success: int64(len(starts)), Failure: 1})

	wantLines(t, s.Shutdown(none), "invalid: Shutdown: the context is nil; pass")
	wantLines(t, s.Executor().Shutdown(none), "invalid: Shutdown: the context is nil; pass")
	v, err := Start(t.Context(), Config{Service: s}, value(2)).Get(t.Context())
	if v != 2 || err != nil {
		t.Errorf("got %d and %v, want a pool that works", v, err)
	}
	for name, bad := range map[string]*Service{"nil": nil, "zero": {}} {
		_, err = Allow(bad, func() (int, error) { t.Error("it ran"); return 1, nil })
		t.Run(name, func(t *testing.T) {
			wantLines(t, err, "invalid: Allow: the service is nil, or was not made by NewService; pass")
			wantLines(t, bad.Shutdown(t.Context()), "invalid: Shutdown: the service is nil")
		})
	}
	_, err = Allow[int](s, nil)
	wantLines(t, err, "invalid: Allow: the function is nil; pass")
}
