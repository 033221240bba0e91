package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
)

// site is what exists as long as the program: the services. Reviews have a circuit
// breaker of their own.
type site struct {
	upstreams     *upstreams
	inner         *command.Service // recipes, authors, related, prices
	reviewsConfig command.ServiceConfig
	reviews       *command.Service
	texts         map[string]int // the pages' texts, with the number of the first such page
}

// relatedTimeout is short: a page does not wait long for related recipes.
const relatedTimeout = 20 * time.Millisecond

func newSite(up *upstreams, every time.Duration) (*site, error) {
	pool, err := command.NewPool(command.PoolConfig{MaxThreads: 16, MaxQueue: 100})
	if err != nil {
		return nil, err
	}
	inner, err := command.NewService(command.ServiceConfig{Name: "inner", Executor: pool})
	if err != nil {
		return nil, err
	}
	cfg := command.ServiceConfig{Name: "reviews", Executor: pool, Threshold: 0.2, NonBreakCount: 4, Sleep: 3 * every}
	reviews, err := command.NewService(cfg)
	if err != nil {
		return nil, err
	}
	return &site{up, inner, cfg, reviews, map[string]int{}}, nil
}

// page assembles page n from five commands, and prints what each did.
func (s *site) page(ctx context.Context, n int, out io.Writer) error {
	began, log := time.Now(), newJournal()
	quick := command.Config{Service: s.inner, Timeout: time.Second}

	recipe := s.fetch(log, "recipe", quick, s.upstreams.recipes)
	author := command.Chain(quick, recipe, func(ctx context.Context, recipe string) (string, error) {
		name, err := s.upstreams.get(ctx, s.upstreams.authors)
		return recipe + " by " + name, err
	})
	reviews := s.fetch(log, "reviews", command.Config{Service: s.reviews, Timeout: time.Second}, s.upstreams.reviews)
	related := s.fetch(log, "related", command.Config{Service: s.inner, Timeout: relatedTimeout}, s.upstreams.related)
	price := s.fetch(log, "price", quick, s.upstreams.prices)

	page := command.New3(command.Config{}, author, reviews, related,
		func(ctx context.Context, author, reviews, related string) (string, error) {
			price, err := price.Get(ctx)
			return fmt.Sprintf("%s, %s, with %s, for %s", author, reviews, related, price), err
		})
	if err := errors.Join(
		log.watch("recipe", recipe),
		log.watch("author", author),
		log.watch("reviews", reviews),
		log.watch("related", related),
		log.watch("price", price),
		log.fallback("reviews", reviews, "not yet reviewed"),
		log.fallback("related", related, "nothing similar"),
		page.After(price),
		price.StartWithRetry(ctx, retry.Retryable{Tries: 3, Sleep: time.Millisecond}),
		page.Start(ctx), // starts the others too
	); err != nil {
		return err
	}
	text, err := page.Get(ctx)
	if err != nil {
		return fmt.Errorf("expeditor: page %d: %w", n, err)
	}
	say(out, "%s", log.line(n, time.Since(began), circuitOf(s.reviews)))
	if s.texts[text] == 0 {
		s.texts[text] = n
	}
	return nil
}

// fetch makes a command that calls an upstream.
func (s *site) fetch(log *journal, name string, cfg command.Config, from *httptest.Server) *command.Command[string] {
	return command.New(cfg, func(ctx context.Context) (string, error) {
		log.attempt(name)
		return s.upstreams.get(ctx, from)
	})
}

// close prints the sums and ends the services.
func (s *site) close(ctx context.Context, out io.Writer) error {
	say(out, "\n%s\n", legend)
	for _, text := range slices.SortedFunc(maps.Keys(s.texts), func(a, b string) int { return s.texts[a] - s.texts[b] }) {
		say(out, "page %d: %s\n", s.texts[text], text)
	}
	say(out, "\nresults since the circuit last closed, and requests:\n")
	for _, service := range []*command.Service{s.reviews, s.inner} {
		say(out, "  %-8s %-7s %s\n", service.Name(), circuitOf(service), resultsOf(service))
	}
	say(out, "  the upstreams received %d requests\n", s.upstreams.requests.Load())
	return errors.Join(s.reviews.Shutdown(ctx), s.inner.Shutdown(ctx))
}

func circuitOf(s *command.Service) string {
	if s.Breaking() {
		return "OPEN"
	}
	return "closed"
}

// resultsOf are the results that a service counted, without those that did not occur.
func resultsOf(s *command.Service) string {
	st := s.Status()
	var parts []string
	for _, c := range []struct {
		result breaker.Result
		n      int64
	}{
		{breaker.Success, st.Success},
		{breaker.Failure, st.Failure},
		{breaker.Rejection, st.Rejection},
		{breaker.Timeout, st.Timeout},
		{breaker.Break, st.Break},
		{breaker.Dependency, st.Dependency},
	} {
		if c.n > 0 {
			parts = append(parts, fmt.Sprintf("%v %d", c.result, c.n))
		}
	}
	return strings.Join(parts, ", ")
}
