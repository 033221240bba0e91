package main

import (
	"context"
	"log"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"golang.org/x/sync/errgroup"

	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
)

// work is the work of the commands. It takes almost no time, but the compiler cannot
// remove it.
func work(ctx context.Context) (int, error) { return 42, ctx.Err() }

func noValue(context.Context, error) (int, error) { return 0, nil }

func service(cfg command.ServiceConfig) *command.Service {
	s, err := command.NewService(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return s
}

// expect ends the program if a command failed.
func expect(v int, err error) {
	if v != 42 || err != nil {
		log.Fatalf("a command returned %d and %v", v, err)
	}
}

// commandHereGroup measures a command that is made, started and read in the calling
// goroutine, beside one of hystrix-go, which has no retries.
func commandHereGroup() group {
	ctx := context.Background()
	cancellable, cancel := context.WithCancel(ctx)
	keep = append(keep, cancel)
	hystrix.ConfigureCommand("bench", hystrix.CommandConfig{Timeout: 1000, MaxConcurrentRequests: 100_000})
	cfg := command.Config{Service: service(command.ServiceConfig{}), Timeout: time.Second}
	here := func(ctx context.Context) func() {
		return func() {
			c := command.New(cfg, work)
			if err := c.SetFallback(noValue); err != nil {
				log.Fatal(err)
			}
			if err := c.RunWithRetry(ctx, retry.Retryable{Tries: 3}); err != nil {
				log.Fatal(err)
			}
			expect(c.Get(ctx))
		}
	}
	return group{"command in the calling goroutine: timeout, retry, breaker, fallback", []candidate{
		{"the work alone", func() { expect(work(ctx)) }},
		{"pillion", here(ctx)},
		{"pillion, cancellable caller", here(cancellable)},
		{"hystrix-go Do: timeout, breaker, fallback", func() {
			var v int
			err := hystrix.Do("bench", func() (err error) { v, err = work(ctx); return err }, func(err error) error { return err })
			expect(v, err)
		}},
	}, false}
}

// commandPoolGroup measures a command on a pool, started and waited for, beside a
// goroutine that no policy guards.
func commandPoolGroup() group {
	ctx := context.Background()
	onPool := func(cfg command.Config) func() {
		return func() { expect(command.Start(ctx, cfg, work).Get(ctx)) }
	}
	unbounded := service(command.ServiceConfig{})
	pool, err := command.NewPool(command.PoolConfig{MaxThreads: 8, MaxQueue: 64})
	if err != nil {
		log.Fatal(err)
	}
	bounded := service(command.ServiceConfig{Executor: pool})
	return group{"command on the pool", []candidate{
		{"the work alone", func() { expect(work(ctx)) }},
		{"errgroup goroutine, unguarded", func() {
			var v int
			var g errgroup.Group
			g.Go(func() (err error) { v, err = work(ctx); return err })
			expect(v, g.Wait())
		}},
		{"pillion", onPool(command.Config{Service: unbounded})},
		{"pillion, bounded pool", onPool(command.Config{Service: bounded})},
		{"pillion, with a timeout", onPool(command.Config{Service: unbounded, Timeout: time.Second})},
	}, false}
}

func commandGroups() []group { return []group{commandHereGroup(), commandPoolGroup()} }

// commandBounds are what commands promise. hystrix-go starts two goroutines; a command
// in the calling goroutine starts none.
func commandBounds() []bound {
	return []bound{
		{"command in the calling goroutine", "pillion", "hystrix-go Do: timeout, breaker, fallback", 0.25, 8},
		{"command on the pool", "pillion", "errgroup goroutine, unguarded", 2.5, 8},
		{"command on the pool", "pillion, with a timeout", "errgroup goroutine, unguarded", 4, 12},
	}
}
