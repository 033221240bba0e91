// Command grpc sends the same calls to a misbehaving gRPC server twice, through a
// bare connection and through pillion, and shows the difference. The server sheds load
// by the same policies.
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
	"os"
	"os/signal"
	"strconv"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("grpc", flag.ContinueOnError)
	flags.SetOutput(errOut)
	calls := flags.Int("calls", 3000, "how many calls to make on each path")
	rate := flags.Float64("rate", 500, "how many to start per second")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return errUsage // Parse has said what is wrong
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("grpc: unexpected argument %q", flags.Arg(0))
	}
	if *calls < 1 || !(*rate > 0) {
		return fmt.Errorf("grpc: -calls %d, -rate %v: both must be above 0", *calls, *rate)
	}
	_, _ = fmt.Fprintf(errOut, "2 × %d calls at %g a second, about %.0f s\n", *calls, *rate, 2*float64(*calls) / *rate)
	results, stats, err := compare(ctx, load{calls: *calls, rate: *rate})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("grpc: interrupted: %w", err)
	}
	return printTable(out, results, stats)
}

// errUsage ends the program after what was wrong has been said.
var errUsage = errors.New("grpc: usage: see -h")

// compare runs the load through a bare connection and then through the library.
func compare(ctx context.Context, l load) ([]result, *metrics.ClusterStats, error) {
	s, err := startServer() //nolint:contextcheck // calls bring their own
	if err != nil {
		return nil, nil, err
	}
	defer s.stop()
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return nil, nil, err
	}
	recipes, err := pillion.New("recipes",
		metrics.Config{Registry: registry}, metrics.GRPC{Registry: registry},
		timeout.Config{Total: time.Second, PerTry: 250 * time.Millisecond},
		retry.Config{On: "unavailable,reset,connect-failure", NumRetries: 2},
		limits.Config{MaxRequests: 200, MaxRetries: 50},
		breaker.Config{Threshold: 0.5, Period: time.Second, Sleep: 100 * time.Millisecond},
	)
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
	return results, registry.Cluster("recipes"), nil
}

// printTable shows the paths side by side, and what the library counted.
func printTable(w io.Writer, results []result, stats *metrics.ClusterStats) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(result) string) {
		_, _ = fmt.Fprintf(t, "%s\t", name) // the error comes out of Flush
		for _, r := range results {
			_, _ = fmt.Fprintf(t, "%s\t", cell(r))
		}
		_, _ = fmt.Fprintln(t)
	}
	row("", func(r result) string { return r.path })
	row("calls", func(r result) string { return strconv.Itoa(r.calls) })
	row("succeeded", func(r result) string { return fmt.Sprintf("%.1f %%", 100*float64(r.successes)/float64(r.calls)) })
	row("p50 of all calls", func(r result) string { return milliseconds(r.p50) })
	row("p99 of all calls", func(r result) string { return milliseconds(r.p99) })
	row("attempts, refused ones included", func(r result) string { return strconv.FormatInt(r.attempts, 10) })
	row("calls the server got", func(r result) string { return strconv.FormatInt(r.served, 10) })
	row("took", func(r result) string { return r.elapsed.Round(10 * time.Millisecond).String() })
	if err := t.Flush(); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(w)
	const method = "grpc.grpc.health.v1.Health.Check."
	for _, name := range []string{"upstream_rq_total", "upstream_rq_retry", "upstream_rq_breaker_open", method + "0", method + "4", method + "14", method + "total"} {
		if _, err := fmt.Fprintf(w, "cluster.recipes.%s: %d\n", name, stats.Counter(name).Value()); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
