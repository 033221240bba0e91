package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
)

// site is what lives as long as the program: the services, one for each upstream
// that is to be judged by itself.
type site struct {
	upstreams *upstreams
	inner     *command.Service // recipes, authors, related, prices
	reviews   *command.Service
	began     time.Time
}

func newSite(up *upstreams, every time.Duration) (*site, error) {
	pool, err := command.NewPool(command.PoolConfig{MaxThreads: 16, MaxQueue: 100})
	if err != nil {
		return nil, err
	}
	inner, err := command.NewService(command.ServiceConfig{Name: "inner", Executor: pool})
	if err != nil {
		return nil, err
	}
	reviews, err := command.NewService(command.ServiceConfig{
		Name: "reviews", Executor: pool, Threshold: 0.2, NonBreakCount: 4, Sleep: 3 * every,
	})
	if err != nil {
		return nil, err
	}
	return &site{up, inner, reviews, time.Now()}, nil
}

// page assembles one page from five commands, and tells what each did.
func (s *site) page(ctx context.Context, n int, out io.Writer) error {
	began, log := time.Now(), newJournal()
	quick := command.Config{Service: s.inner, Timeout: time.Second}

	recipe := s.fetch(log, "recipe", quick, s.upstreams.recipes)
	author := command.Chain(quick, recipe, func(ctx context.Context, recipe string) (string, error) {
		name, err := s.upstreams.get(ctx, s.upstreams.authors)
		return recipe + " by " + name, err
	})
	reviews := s.fetch(log, "reviews", command.Config{Service: s.reviews, Timeout: time.Second}, s.upstreams.reviews)
	related := s.fetch(log, "related", command.Config{Service: s.inner, Timeout: 20 * time.Millisecond}, s.upstreams.related)
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
		log.fallback("related", related, "nothing alike"),
		page.After(price),
		price.StartWithRetry(ctx, retry.Retryable{Tries: 3, Sleep: time.Millisecond}),
		page.Start(ctx), // and so all others
	); err != nil {
		return err
	}
	text, err := page.Get(ctx)
	if err != nil {
		return fmt.Errorf("expeditor: page %d: %w", n, err)
	}
	say(out, "page %-2d  %s\n%s", n, text, log.lines())
	say(out, "         took %v; at %v %s\n", time.Since(began).Round(100*time.Microsecond),
		time.Since(s.began).Round(time.Millisecond), statusOf(s.reviews))
	return nil
}

// fetch makes a command that asks an upstream.
func (s *site) fetch(log *journal, name string, cfg command.Config, from *httptest.Server) *command.Command[string] {
	return command.New(cfg, func(ctx context.Context) (string, error) {
		log.attempt(name)
		return s.upstreams.get(ctx, from)
	})
}

func (s *site) close(ctx context.Context, out io.Writer) error {
	say(out, "in all   %s; %s; the servers saw %d requests\n", statusOf(s.reviews), statusOf(s.inner), s.upstreams.requests.Load())
	return errors.Join(s.reviews.Shutdown(ctx), s.inner.Shutdown(ctx))
}

// statusOf is a service's status in one line, without what is zero.
func statusOf(s *command.Service) string {
	st, state := s.Status(), "closed"
	if s.Breaking() {
		state = "OPEN"
	}
	parts := []string{s.Name() + " " + state}
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
