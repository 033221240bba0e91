package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go/failsafehttp"
	"golang.org/x/sync/semaphore"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// stub responds immediately, with a body or without.
type stub struct {
	status int
	body   string
}

func (s stub) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{
		StatusCode: s.status, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, ContentLength: int64(len(s.body)), Request: req,
	}
	if s.body != "" {
		resp.Body = io.NopCloser(strings.NewReader(s.body))
	}
	return resp, nil
}

func upstream(policies ...pillion.Policy) *pillion.Upstream {
	u, err := pillion.New("bench", policies...)
	if err != nil {
		log.Fatal(err)
	}
	return u
}

// all returns the policies that the tables call all policies.
func all(header bool) []pillion.Policy {
	return []pillion.Policy{
		timeout.Config{Total: time.Second, PerTry: 300 * time.Millisecond, ExpectedHeader: header},
		retry.Config{},
		limits.Config{},
		breaker.Config{},
	}
}

// get returns a function that makes one call and reads its response.
func get(ctx context.Context, rt http.RoundTripper, url string) func() {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 4<<10)
	return func() {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			log.Fatal(err)
		}
		for err == nil {
			_, err = resp.Body.Read(buf)
		}
		if !errors.Is(err, io.EOF) {
			log.Fatal(err)
		}
		_ = resp.Body.Close()
	}
}

// refused returns a function that makes one call, which must be refused.
func refused(rt http.RoundTripper) func() {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://bench/", nil)
	if err != nil {
		log.Fatal(err)
	}
	return func() {
		if _, err := rt.RoundTrip(req); err == nil {
			log.Fatal("a call was not refused")
		}
	}
}

// groups returns all measurements. The loopback server runs until the program ends.
func groups() []group {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, body)
	}))
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	return append([]group{
		coreGroup(),
		refusalGroup(),
		breakerGroup("stub with a body", stub{200, body}),
		breakerGroup("stub with http.NoBody", stub{200, ""}),
		allGroup("stub with a body", stub{200, body}, "http://bench/"),
		allGroup("stub with http.NoBody", stub{200, ""}, "http://bench/"),
		allGroup("loopback", transport, server.URL),
	}, slices.Concat(commandGroups(), metricsGroups(), tracingGroups(), grpcGroups(), clusterGroups())...)
}

const body = "a body of some length, like a small response has"

func coreGroup() group {
	clean, err := breaker.New(breaker.Config{})
	if err != nil {
		log.Fatal(err)
	}
	failing, err := breaker.New(breaker.Config{Period: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	for range 100 {
		failing.Record(breaker.Failure)
		failing.Record(breaker.Success)
		failing.Record(breaker.Success)
	}
	guard := func(b *breaker.Breaker) func() {
		return func() {
			t, err := b.Admit()
			if err != nil {
				log.Fatal(err)
			}
			t.Done(breaker.Success, nil)
		}
	}
	cb := newGobreaker(false)
	return group{"breaker core, closed", []candidate{
		{"nothing", func() {}},
		{"pillion, clean window", guard(clean)},
		{"pillion, failures in the window", guard(failing)},
		{"gobreaker v2 rolling Execute", func() {
			_, _ = cb.Execute(func() (*http.Response, error) { return nil, nil })
		}},
	}, false}
}

func refusalGroup() group {
	b, err := breaker.New(breaker.Config{NonBreakCount: 1, Sleep: time.Hour})
	if err != nil {
		log.Fatal(err)
	}
	b.Record(breaker.Failure)
	base := stub{200, body}
	return group{"breaker open, refusal through a RoundTripper", []candidate{
		{"nothing", func() {}},
		{"pillion", refused(upstream(b).Transport(base))},
		{"gobreaker v2", refused(gobreakerTransport{newGobreaker(true), base})},
	}, false}
}

func breakerGroup(where string, base http.RoundTripper) group {
	ctx := context.Background()
	cancellable, cancel := context.WithCancel(ctx)
	keep = append(keep, cancel)
	const url = "http://bench/"
	return group{"closed breaker through a RoundTripper, " + where, []candidate{
		{"bare", get(ctx, base, url)},
		{"pillion", get(ctx, upstream(breaker.Config{}).Transport(base), url)},
		{"pillion, cancellable caller", get(cancellable, upstream(breaker.Config{}).Transport(base), url)},
		{"gobreaker v2", get(ctx, gobreakerTransport{newGobreaker(false), base}, url)},
		{"gobreaker v2 two-step, judged at the end of the body", get(ctx, newTwoStep(base), url)},
		{"failsafe-go", get(ctx, failsafehttp.NewRoundTripper(base, failsafeBreaker()), url)},
	}, false}
}

// keep holds the cancel functions of contexts that last until the program ends.
var keep []context.CancelFunc

func allGroup(where string, base http.RoundTripper, url string) group {
	ctx := context.Background()
	cancellable, cancel := context.WithCancel(ctx)
	keep = append(keep, cancel)
	return group{"retry, breaker, limits and timeouts, " + where, []candidate{
		{"bare", get(ctx, base, url)},
		{"pillion", get(ctx, upstream(all(false)...).Transport(base), url)},
		{"pillion, cancellable caller", get(cancellable, upstream(all(false)...).Transport(base), url)},
		{"pillion, with the timeout header", get(ctx, upstream(all(true)...).Transport(base), url)},
		{"named packages by hand", get(ctx, &byHand{newGobreaker(false), semaphore.NewWeighted(1024), base}, url)},
		{"failsafe-go", get(ctx, failsafeAll(base), url)},
		{"failsafe-go, with a total timeout too", get(ctx, failsafeTotal(base), url)},
	}, where == "loopback"}
}
