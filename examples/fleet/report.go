package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// lines is the number of lines of the table that are measured.
const lines = 14

// printPlan prints what is about to run, and for how long.
func printPlan(w io.Writer, o options) error {
	_, err := fmt.Fprintf(w, `%d hosts on this machine, %g calls per second, %d calls for each line:
about %.0f s in all. Seed %d says which hosts are slow or fail. A host serves
one request at a time, in %v; slow ones take %v.

`, size, o.rate, o.calls, 3+(lines+1.5)*float64(o.calls)/o.rate, o.seed, usual, slow)
	return err
}

// printResults prints one table, and what it shows.
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

// progress names on a terminal what is measured. It writes nothing elsewhere.
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
