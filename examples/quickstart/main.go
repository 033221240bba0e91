// Quickstart makes the same calls to a misbehaving server twice, through a bare
// http.Client and through pillion, and compares the results.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -url http://localhost:8080/ -calls 500
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/pillion-go/pillion/examples/internal/program"
	"github.com/pillion-go/pillion/metrics"
)

func main() { program.Main(run) }

// options are the values of the command line's flags.
type options struct {
	url    string
	calls  int
	rate   float64
	asJSON bool
	serve  bool
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	o, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	l := load{url: o.url, calls: o.calls, rate: o.rate}
	if o.url == "" {
		l.server = newServer()
		defer l.server.Close()
		l.url = l.server.URL
	}
	stats, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return err
	}
	if o.serve {
		page, err := servePage(stats, errOut)
		if err != nil {
			return err
		}
		defer func() { _ = page.Close() }()
	}
	if err := report(ctx, l, stats, o.asJSON, out, errOut); err != nil {
		return err
	}
	if o.serve {
		<-ctx.Done()
	}
	return nil
}

// errUsage ends the program after the flag package has printed what was wrong.
var errUsage = errors.New("quickstart: see -h for the flags")

func parse(args []string, errOut io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.StringVar(&o.url, "url", "", "call this `URL` in place of the built-in server")
	flags.IntVar(&o.calls, "calls", 2500, "make this many calls with each client")
	flags.Float64Var(&o.rate, "rate", 500, "start this many calls per second")
	flags.BoolVar(&o.asJSON, "json", false, "print one JSON object for each client")
	flags.BoolVar(&o.serve, "serve", false, "serve the statistics on a loopback port until interrupted")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	return o, o.check(flags.Args())
}

func (o options) check(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("quickstart: unexpected argument %q", rest[0])
	}
	if o.calls < 1 || !(o.rate > 0) {
		return fmt.Errorf("quickstart: -calls %d, -rate %v: both must be above 0", o.calls, o.rate)
	}
	if o.url == "" {
		return nil
	}
	u, err := url.Parse(o.url)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("quickstart: -url %q: must be an http or https URL such as http://localhost:8080/", o.url)
	}
	return nil
}

// report makes all calls and prints the results.
func report(ctx context.Context, l load, stats *metrics.Registry, asJSON bool, out, errOut io.Writer) error {
	p := defaultPolicies()
	if !asJSON {
		if err := printPlan(out, l, p); err != nil {
			return err
		}
	}
	results, err := compare(ctx, l, p, stats, errOut)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("quickstart: interrupted: %w", err)
	}
	if asJSON {
		return printJSON(out, results)
	}
	if err := printResults(out, results); err != nil {
		return err
	}
	return printStats(out, stats)
}

// compare runs the load through a bare client and then through pillion.
func compare(ctx context.Context, l load, p policies, stats *metrics.Registry, errOut io.Writer) ([]result, error) {
	var open openTime
	recipes, err := p.upstream(stats, open.change)
	if err != nil {
		return nil, err
	}
	bare := &http.Client{Transport: l.base, Timeout: bareTimeout}
	guarded := &http.Client{Transport: recipes.Transport(l.base)}

	first := l.run(ctx, bare, progress(errOut, "bare client", l.calls))
	second := l.run(ctx, guarded, progress(errOut, "pillion", l.calls))
	first.Path, second.Path = "bare", "pillion"
	second.OpenPeriods, second.Open = open.sum()
	return []result{first, second}, nil
}
