// Quickstart sends the same calls to a misbehaving server twice, through a bare
// http.Client and through pillion, and shows the difference.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -url http://localhost:8080/ -calls 500
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/limits"
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
	url := flags.String("url", "", "call this URL in place of a server of our own")
	calls := flags.Int("calls", 4000, "how many calls to make on each path")
	rate := flags.Float64("rate", 500, "how many to start per second")
	asJSON := flags.Bool("json", false, "print one JSON object for each path")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *calls < 1 || !(*rate > 0) {
		return fmt.Errorf("quickstart: -calls %d, -rate %v: both must be above 0", *calls, *rate)
	}
	l := load{url: *url, calls: *calls, rate: *rate}
	if *url == "" {
		l.server = newServer()
		defer l.server.Close()
		l.url = l.server.URL
	}
	results, err := compare(ctx, l, errOut)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("quickstart: interrupted: %w", err)
	}
	if *asJSON {
		return printJSON(out, results)
	}
	return printTable(out, results)
}

// compare runs the load through a bare client and then through the library.
func compare(ctx context.Context, l load, errOut io.Writer) ([]result, error) {
	var open openTime
	recipes, err := newUpstream(&open)
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
func newUpstream(open *openTime) (*pillion.Upstream, error) {
	return pillion.New("recipes",
		timeout.Config{Total: time.Second, PerTry: 250 * time.Millisecond},
		retry.Config{NumRetries: 2},
		limits.Config{MaxRequests: 200, MaxRetries: 50},
		breaker.Config{Threshold: 0.5, Period: time.Second, Sleep: 100 * time.Millisecond, OnStateChange: open.change},
	)
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
	row("p50", func(r result) string { return fmt.Sprintf("%.2f ms", r.P50) })
	row("p99", func(r result) string { return fmt.Sprintf("%.2f ms", r.P99) })
	row("attempts", func(r result) string { return strconv.FormatInt(r.Attempts, 10) })
	row("refused by the breaker", func(r result) string { return strconv.FormatInt(r.Refusals, 10) })
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
	_, err := fmt.Fprintln(w, "\nnet/http sends some requests again by itself, on kept-alive connections that were reset; the server counts them too.")
	return err
}
