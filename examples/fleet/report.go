package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// lines is the number of measured lines of the table.
const lines = 14

// printPlan prints the measurements that will run and how long they will take.
func printPlan(w io.Writer, o options) error {
	_, err := fmt.Fprintf(w, `%d hosts on this machine, %g calls per second, %d calls for each line:
about %.0f s in total. Seed %d selects the hosts that are slow or fail.
A host serves one request at a time, in %v; a slow host needs %v.

`, size, o.rate, o.calls, 3+(lines+1.5)*float64(o.calls)/o.rate, o.seed, usual, slow)
	return err
}

// printResults prints the table, and one explanation for each group.
func printResults(w io.Writer, groups []group) error {
	rows := []page.Row{{"", "failed", "median", "99 %", "share"}}
	for i, g := range groups {
		rows = append(rows, page.Row{}, page.Row{fmt.Sprintf("%s (%d)", g.title, i+1), "", "", "", g.measure})
		for _, r := range g.rows {
			rows = append(rows, page.Row{"  " + r.Policy, percent(r.Failed), duration(r.P50), duration(r.P99), percent(r.Share)})
		}
	}
	if err := page.Table(w, append(rows, page.Row{})); err != nil {
		return err
	}
	for i, g := range groups {
		if _, err := fmt.Fprintf(w, "(%d) %s\n", i+1, g.shows); err != nil {
			return err
		}
	}
	return nil
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }

func duration(d milliseconds) string { return strconv.FormatFloat(float64(d), 'f', 0, 64) + " ms" }

func printJSON(w io.Writer, groups []group) error {
	for _, g := range groups {
		for _, r := range g.rows {
			if err := json.NewEncoder(w).Encode(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// progress returns a function that shows the current measurement, if w is a terminal. Otherwise the
// function does nothing.
func progress(w io.Writer) func(title, policy string) {
	file, ok := w.(*os.File)
	if !ok {
		return func(string, string) {}
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return func(string, string) {}
	}
	n := 0
	return func(title, policy string) {
		if n++; n == lines {
			_, _ = fmt.Fprint(w, "\r\033[K")
			return
		}
		_, _ = fmt.Fprintf(w, "\r\033[K%d of %d: %s, %s", n, lines, title, policy)
	}
}
