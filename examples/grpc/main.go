// Command grpc makes the same calls to a misbehaving gRPC server twice, through a bare
// connection and through pillion, and compares the results. The server limits its own
// load with pillion too.
//
//	go run ./examples/grpc
//	go run ./examples/grpc -calls 500 -rate 1000
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/examples/internal/program"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func main() { program.Main(run) }

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	l, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	p := defaultPolicies()
	if err = printPlan(out, l, p); err != nil {
		return err
	}
	results, stats, err := compare(ctx, l, p)
	if err != nil {
		return err
	}
	if err = ctx.Err(); err != nil {
		return fmt.Errorf("grpc: interrupted: %w", err)
	}
	if err = printResults(out, results); err != nil {
		return err
	}
	return printStats(out, stats)
}

// errUsage ends the program after the flag package has printed what was wrong.
var errUsage = errors.New("grpc: see -h for the flags")

func parse(args []string, errOut io.Writer) (load, error) {
	var l load
	flags := flag.NewFlagSet("grpc", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.IntVar(&l.calls, "calls", 3000, "make this many calls on each path")
	flags.Float64Var(&l.rate, "rate", 500, "start this many calls per second")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return l, err
		}
		return l, errUsage
	}
	if flags.NArg() > 0 {
		return l, fmt.Errorf("grpc: unexpected argument %q", flags.Arg(0))
	}
	if l.calls < 1 || !(l.rate > 0) {
		return l, fmt.Errorf("grpc: -calls %d, -rate %v: both must be above 0", l.calls, l.rate)
	}
	return l, nil
}

// bareTimeout is the deadline of each call.
const bareTimeout = time.Second

// policies are what pillion's connection runs with.
type policies struct {
	timeout timeout.Config
	retry   retry.Config
	limits  limits.Config
	breaker breaker.Config
}

func defaultPolicies() policies {
	return policies{
		timeout: timeout.Config{Total: bareTimeout, PerTry: 250 * time.Millisecond},
		retry:   retry.Config{On: "unavailable,reset,connect-failure", NumRetries: 2},
		limits:  limits.Config{MaxRequests: 200},
		breaker: breaker.Config{Threshold: 0.5, Period: time.Second, Sleep: 100 * time.Millisecond},
	}
}

// upstream makes the upstream that is called: the order is from the outside in.
func (p policies) upstream(registry *metrics.Registry) (*pillion.Upstream, error) {
	return pillion.New("recipes", metrics.Config{Registry: registry}, metrics.GRPC{Registry: registry},
		p.timeout, p.retry, p.limits, p.breaker)
}

// compare runs the load through a bare connection and then through pillion. It returns
// pillion's statistics too.
func compare(ctx context.Context, l load, p policies) ([]result, counters, error) {
	s, err := startServer()
	if err != nil {
		return nil, nil, err
	}
	defer s.stop()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return nil, nil, err
	}
	recipes, err := p.upstream(registry)
	if err != nil {
		return nil, nil, err
	}
	var results []result
	for _, path := range []struct {
		name    string
		options []grpc.DialOption
	}{{"bare", nil}, {"pillion", pilliongrpc.DialOptions(recipes)}} {
		r, err := l.run(ctx, path.name, s, path.options)
		if err != nil {
			return nil, nil, err
		}
		results = append(results, r)
	}
	count := func(name string) uint64 { return registry.Cluster("recipes").Counter(name).Value() }
	return results, count, nil
}

// counters return the value of one of the cluster's statistics.
type counters func(name string) uint64
