package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// printPlan prints what is about to run, and for how long.
func printPlan(w io.Writer, l load, p policies) error {
	target := "a misbehaving server on this machine"
	if l.server == nil {
		target = l.url
	}
	seconds := 2 * float64(l.calls) / l.rate
	rows := []page.Row{
		{fmt.Sprintf("%d calls, %g per second, to %s,", l.calls, l.rate, target)},
		{fmt.Sprintf("first through a bare http.Client, then through pillion: about %.0f s in all.", seconds)},
		{},
		{"The bare client has a timeout of " + bareTimeout.String() + ". pillion has these policies:"},
		{},
	}
	return page.Table(w, append(append(rows, p.rows()...), page.Row{}))
}

// printResults sets the clients side by side.
func printResults(w io.Writer, results []result) error {
	if results[0].ServerRequests == nil {
		return printOtherServer(w, results)
	}
	if err := page.Table(w, phaseRows(results)); err != nil {
		return err
	}
	if err := page.Table(w, totalRows(results)); err != nil {
		return err
	}
	bare, pillion := results[0], results[1]
	_, err := fmt.Fprintf(w, `
pillion: %s of at most %s succeed. The bare client: %s.

(1) While the server is down no call can succeed, whatever the client does.
(2) A call fails immediately while the breaker is open. This spares the server.
(3) net/http itself resends some requests on connections that were reset.
`, page.Percent(pillion.Successes, pillion.Calls), page.Percent(pillion.Possible, pillion.Calls), page.Percent(bare.Successes, bare.Calls))
	return err
}

// phaseRows has a row for each phase of the server.
func phaseRows(results []result) []page.Row {
	rows := []page.Row{{"successful calls while the server is ...", "calls", "possible", "bare", "pillion"}}
	for i, p := range results[0].Phases {
		row := page.Row{p.Name, strconv.Itoa(p.Calls), page.Percent(p.Possible, p.Calls)}
		for _, r := range results {
			row = append(row, page.Percent(r.Phases[i].Successes, p.Calls))
		}
		rows = append(rows, row)
	}
	total := page.Row{"all phases (1)", strconv.Itoa(results[0].Calls), page.Percent(results[0].Possible, results[0].Calls)}
	for _, r := range results {
		total = append(total, page.Percent(r.Successes, r.Calls))
	}
	return append(rows, total, page.Row{})
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
		row("", func(r result) string { return r.Path }),
		row("successful calls", func(r result) string { return page.Percent(r.Successes, r.Calls) }),
		row("median time of a call", func(r result) string { return fmt.Sprintf("%.2f ms", r.P50) }),
		row("99th percentile", func(r result) string { return fmt.Sprintf("%.2f ms", r.P99) }),
		row("attempts, retries included", func(r result) string { return strconv.Itoa(r.Attempts) }),
		row("calls that the open breaker refused (2)", func(r result) string { return strconv.Itoa(r.Refusals) }),
		row("breaker was open", func(r result) string { return openPeriods(r) }),
		row("requests that the server received (3)", func(r result) string { return received(r) }),
		row("all calls took", func(r result) string { return r.Elapsed.Round(10 * time.Millisecond).String() }),
	}
}

func openPeriods(r result) string {
	switch r.OpenPeriods {
	case 0:
		return "never"
	case 1:
		return fmt.Sprintf("once, %.0f ms", r.Open)
	}
	return fmt.Sprintf("%d times, %.0f ms", r.OpenPeriods, r.Open)
}

func received(r result) string {
	if r.ServerRequests == nil {
		return "unknown"
	}
	return strconv.FormatInt(*r.ServerRequests, 10)
}

// printOtherServer prints the results of a server of which nothing is known.
func printOtherServer(w io.Writer, results []result) error {
	if err := page.Table(w, totalRows(results)); err != nil {
		return err
	}
	for _, r := range results {
		if r.LastFailure == nil {
			continue
		}
		if _, err := fmt.Fprintf(w, "\nthe last failure of %s:\n%v\n", r.Path, r.LastFailure); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(w io.Writer, results []result) error {
	for _, r := range results {
		if err := json.NewEncoder(w).Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// progress keeps one line of a terminal up to date. It writes nothing elsewhere.
func progress(w io.Writer, client string, calls int) func(done int) {
	file, ok := w.(*os.File)
	if !ok {
		return func(int) {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(int) {}
	}
	return func(done int) {
		switch {
		case done == calls-1:
			_, _ = fmt.Fprint(w, "\r\033[K")
		case done%50 == 0:
			_, _ = fmt.Fprintf(w, "\r\033[K%s: %d of %d calls", client, done, calls)
		}
	}
}
