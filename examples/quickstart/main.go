// Quickstart sends the same calls to a misbehaving server twice, through a bare
// http.Client and through pillion, and shows the difference.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -url http://localhost:8080/ -calls 500
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
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
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(errOut)
	target := flags.String("url", "", "call this http or https URL in place of a server of our own")
	calls := flags.Int("calls", 4000, "how many calls to make on each path")
	rate := flags.Float64("rate", 500, "how many to start per second")
	asJSON := flags.Bool("json", false, "print one JSON object for each path")
	serve := flags.Bool("serve", false, "show the statistics at /stats of a loopback port, until interrupted")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return errUsage // Parse has said what is wrong
	}
	if err := checkArgs(flags.Args(), *calls, *rate, *target); err != nil {
		return err
	}
	l := load{url: *target, calls: *calls, rate: *rate}
	if *target == "" {
		l.server = newServer()
		defer l.server.Close()
		l.url = l.server.URL
	}
	_, _ = fmt.Fprintf(errOut, "2 × %d calls at %g a second to %s, about %.0f s\n", *calls, *rate, l.describe(), 2*float64(*calls) / *rate)
	stats, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return err
	}
	if *serve {
		page, err := servePage(stats, errOut)
		if err != nil {
			return err
		}
		defer func() { _ = page.Close() }()
	}
	if err := report(ctx, l, stats, *asJSON, out, errOut); err != nil {
		return err
	}
	if *serve {
		<-ctx.Done()
	}
	return nil
}

// report makes all calls, and prints what became of them.
func report(ctx context.Context, l load, stats *metrics.Registry, asJSON bool, out, errOut io.Writer) error {
	results, err := compare(ctx, l, stats, errOut)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("quickstart: interrupted: %w", err)
	}
	if asJSON {
		return printJSON(out, results)
	}
	if err := printTable(out, results); err != nil {
		return err
	}
	return printStats(out, stats)
}

// errUsage ends the program after what was wrong has been said.
var errUsage = errors.New("quickstart: usage: see -h")

func checkArgs(rest []string, calls int, rate float64, target string) error {
	if len(rest) > 0 {
		return fmt.Errorf("quickstart: unexpected argument %q", rest[0])
	}
	if calls < 1 || !(rate > 0) {
		return fmt.Errorf("quickstart: -calls %d, -rate %v: both must be above 0", calls, rate)
	}
	if target == "" {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("quickstart: -url %q: want one such as http://localhost:8080/", target)
	}
	return nil
}

// compare runs the load through a bare client and then through the library.
func compare(ctx context.Context, l load, stats *metrics.Registry, errOut io.Writer) ([]result, error) {
	var open openTime
	recipes, err := newUpstream(&open, stats)
	if err != nil {
		return nil, err
	}
	bare := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(), Timeout: time.Second} //nolint:forcetypeassert // nobody replaced it
	guarded := &http.Client{Transport: recipes.Transport(nil)}

	l.progress = progress(errOut, "bare", l.calls)
	first := l.run(ctx, "bare", bare, false)
	l.progress = progress(errOut, "pillion", l.calls)
	second := l.run(ctx, "pillion", guarded, true)
	second.OpenPeriods, second.Open = open.sum()
	return []result{first, second}, nil
}

// newUpstream is the library's side: the policies that a service would have.
func newUpstream(open *openTime, stats *metrics.Registry) (*pillion.Upstream, error) {
	return pillion.New("recipes",
		metrics.Config{Registry: stats},
		timeout.Config{Total: time.Second, PerTry: 250 * time.Millisecond},
		retry.Config{NumRetries: 2},
		limits.Config{MaxRequests: 200, MaxRetries: 50},
		breaker.Config{Threshold: 0.5, Period: time.Second, Sleep: 100 * time.Millisecond, OnStateChange: open.change},
	)
}

// printFailures says what went wrong with a server of somebody else's.
func printFailures(w io.Writer, results []result) error {
	for _, r := range results {
		if r.LastFailure == nil {
			continue
		}
		if _, err := fmt.Fprintf(w, "\nthe last failure of %s: %v\n", r.Path, r.LastFailure); err != nil {
			return err
		}
	}
	return nil
}

// openTime adds up how long the breaker was open.
type openTime struct {
	mu      sync.Mutex
	periods int           // guarded by mu
	total   time.Duration // guarded by mu
	since   time.Time     // zero while closed; guarded by mu
}

func (o *openTime) change(c breaker.Change) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.To == breaker.Open {
		o.periods++
		o.since = c.At
		return
	}
	o.total += c.At.Sub(o.since)
	o.since = time.Time{}
}

func (o *openTime) sum() (periods int, total milliseconds) {
	o.mu.Lock()
	defer o.mu.Unlock()
	t := o.total
	if !o.since.IsZero() {
		t += time.Since(o.since)
	}
	return o.periods, ms(t)
}

// progress keeps one line of a terminal up to date, and writes nothing elsewhere.
func progress(w io.Writer, path string, calls int) func(done int, phase string) {
	file, ok := w.(*os.File)
	if !ok {
		return func(int, string) {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int, string) {}
	}
	var mu sync.Mutex
	return func(done int, phase string) {
		mu.Lock()
		defer mu.Unlock()
		end := ""
		if done+50 >= calls {
			end = "\r\033[K"
		}
		_, _ = fmt.Fprintf(w, "\r\033[K%-8s %5d of %d  %s%s", path, done, calls, phase, end)
	}
}

func printJSON(w io.Writer, results []result) error {
	for _, r := range results {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// printTable shows the paths side by side.
func printTable(w io.Writer, results []result) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	row := func(name string, cell func(result) string) {
		_, _ = fmt.Fprintf(t, "%s\t", name) // the error comes out of Flush
		for _, r := range results {
			_, _ = fmt.Fprintf(t, "%s\t", cell(r))
		}
		_, _ = fmt.Fprintln(t)
	}
	row("", func(r result) string { return r.Path })
	row("calls", func(r result) string { return strconv.Itoa(r.Calls) })
	row("succeeded", func(r result) string { return fmt.Sprintf("%.1f %%", 100*float64(r.Successes)/float64(r.Calls)) })
	row("p50 of all calls", func(r result) string { return fmt.Sprintf("%.2f ms", r.P50) })
	row("p99 of all calls", func(r result) string { return fmt.Sprintf("%.2f ms", r.P99) })
	row("attempts, refused ones included", func(r result) string { return strconv.FormatInt(r.Attempts, 10) })
	row("calls that ended refused", func(r result) string { return strconv.FormatInt(r.Refusals, 10) })
	row("requests the server saw", func(r result) string {
		if r.ServerRequests == nil {
			return "-"
		}
		return strconv.FormatInt(*r.ServerRequests, 10)
	})
	row("breaker open", func(r result) string { return fmt.Sprintf("%d times, %.0f ms", r.OpenPeriods, r.Open) })
	row("took", func(r result) string { return r.Elapsed.Round(10 * time.Millisecond).String() })
	if err := t.Flush(); err != nil {
		return err
	}
	if results[0].ServerRequests == nil {
		return printFailures(w, results)
	}
	_, err := fmt.Fprintln(w, "\nnet/http sends some requests again by itself, on kept-alive connections that were reset; the server counts them too.")
	return err
}
