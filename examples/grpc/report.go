package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// printPlan prints what is about to run, and for how long.
func printPlan(w io.Writer, l load, p policies) error {
	b := p.breaker
	_, err := fmt.Fprintf(w, `%d calls, %g per second, to a misbehaving gRPC server on this machine,
first through a bare connection, then through pillion: about %.0f s in all.

The bare connection has a deadline of %v. pillion has these policies:

  timeout  %v for a call, %v for each attempt
  retry    at most %d retries for a call, on %s
  limits   at most %d attempts at the same time
  breaker  opens for %v if %.0f %% of the results of the last %v are failures

The server accepts at most %d calls at the same time, with pillion's limits.

`, l.calls, l.rate, 2*float64(l.calls)/l.rate, bareTimeout, p.timeout.Total, p.timeout.PerTry, p.retry.NumRetries, p.retry.On,
		p.limits.MaxRequests, b.Sleep, 100*b.Threshold, b.Period, serverLimits.MaxRequests)
	return err
}

// printResults sets the paths side by side.
func printResults(w io.Writer, results []result) error {
	if err := page.Table(w, append(phaseRows(results), page.Row{})); err != nil {
		return err
	}
	if err := page.Table(w, totalRows(results)); err != nil {
		return err
	}
	bare, pillion := results[0].total(), results[1].total()
	_, err := fmt.Fprintf(w, `
pillion: %s of at most %s succeed. The bare connection: %s.

(1) While the server is down no call can succeed, whatever the client does.
(2) A retry is an attempt. So is one that the open breaker refuses, which does
    not reach the server.
`, page.Percent(pillion.successes, pillion.calls), page.Percent(pillion.possible, pillion.calls), page.Percent(bare.successes, bare.calls))
	return err
}

// phaseRows has a row for each phase of the server.
func phaseRows(results []result) []page.Row {
	row := func(name string, first phaseResult, of func(result) phaseResult) page.Row {
		r := page.Row{name, strconv.Itoa(first.calls), page.Percent(first.possible, first.calls)}
		for _, x := range results {
			r = append(r, page.Percent(of(x).successes, of(x).calls))
		}
		return r
	}
	rows := []page.Row{{"successful calls while the server is ...", "calls", "possible", "bare", "pillion"}}
	for i, p := range phases {
		rows = append(rows, row(p.name, results[0].phases[i], func(r result) phaseResult { return r.phases[i] }))
	}
	return append(rows, row("all phases (1)", results[0].total(), result.total))
}

// totalRows has a row for each total.
func totalRows(results []result) []page.Row {
	row := func(name string, cell func(result) string) page.Row {
		r := page.Row{name}
		for _, x := range results {
			r = append(r, cell(x))
		}
		return r
	}
	return []page.Row{
		row("", func(r result) string { return r.path }),
		row("successful calls", func(r result) string { return page.Percent(r.total().successes, r.total().calls) }),
		row("median time of a call", func(r result) string { return milliseconds(r.p50) }),
		row("99th percentile", func(r result) string { return milliseconds(r.p99) }),
		row("attempts (2)", func(r result) string { return strconv.FormatInt(r.attempts, 10) }),
		row("calls that the server received", func(r result) string { return strconv.FormatInt(r.received, 10) }),
		row("all calls took", func(r result) string { return r.elapsed.Round(10 * time.Millisecond).String() }),
	}
}

// printStats prints some of the statistics of pillion's calls, under Envoy's names.
func printStats(w io.Writer, count counters) error {
	if _, err := fmt.Fprint(w, "\nThe calls through pillion, counted as Envoy counts them:\n\n"); err != nil {
		return err
	}
	const method = "grpc.grpc.health.v1.Health.Check."
	for _, name := range []string{"upstream_rq_total", "upstream_rq_retry", "upstream_rq_breaker_open", method + "0", method + "4", method + "14", method + "total"} {
		if _, err := fmt.Fprintf(w, "cluster.recipes.%s: %d\n", name, count(name)); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond))
}
