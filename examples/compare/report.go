package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
)

// report is all that was found out.
type report struct {
	Rows  []row      `json:"rows"`      // closed loop
	Open  []row      `json:"open_loop"` // at a fixed rate
	Mixed []mixedRow `json:"mixed"`
	Stats []stat     `json:"stats"`
}

func (r *report) printJSON(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(r)
}

func (r *report) print(w io.Writer) error {
	parts := []func(io.Writer) error{
		func(w io.Writer) error {
			return printRows(w, "Closed loop: each caller makes its next call when it has the last answer.", r.Rows)
		},
		func(w io.Writer) error {
			return printRows(w, "Open loop: calls are due at a fixed rate, and count from then.", r.Open)
		},
		r.printMixed, r.printStats, r.printVerdict,
	}
	for _, part := range parts {
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

// table prints lines whose cells end with tabs.
func table(w io.Writer, title string, lines func(line func(cells ...string))) error {
	if _, err := fmt.Fprintf(w, "%s\n\n", title); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	lines(func(cells ...string) {
		for _, cell := range cells {
			_, _ = fmt.Fprintf(t, "%s\t", cell) // the error comes out of Flush
		}
		_, _ = fmt.Fprintln(t)
	})
	_, _ = fmt.Fprintln(t)
	return t.Flush()
}

func printRows(w io.Writer, title string, rows []row) error {
	return table(w, title+" Microseconds; what is added is the median over all rounds.", func(line func(...string)) {
		line("protocol", "callers", "path", "p50", "p90", "p99", "CPU/call", "added p50", "p90", "p99", "CPU/call")
		for _, r := range rows {
			cells := []string{r.Protocol, strconv.Itoa(r.Callers), r.Path, number(r.P50), number(r.P90), number(r.P99), number(r.CPU)}
			if a := r.Added; r.Path != "bare" {
				cells = append(cells, number(a.P50), number(a.P90), number(a.P99), number(a.CPU))
			}
			if r.Failed != 0 {
				cells = append(cells, fmt.Sprintf("%d calls failed", r.Failed))
			}
			line(cells...)
		}
	})
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

func (r *report) printMixed(w io.Writer) error {
	title := "Mixed calls by HTTP: three in ten fail at first, a third each with 503, by hanging, and with a refused connection. Milliseconds."
	return table(w, title, func(line func(...string)) {
		line("path", "calls", "succeeded", "p50", "p90", "p99", "CPU/call")
		for _, m := range r.Mixed {
			line(m.Path, strconv.Itoa(m.Calls), fmt.Sprintf("%.1f %%", 100*m.Succeeded),
				number(m.P50/1000), number(m.P90/1000), number(m.P99/1000), fmt.Sprintf("%.3f", m.CPU/1000))
		}
	})
}

func (r *report) printStats(w io.Writer) error {
	if r.addedBy("http", "sidecar") == nil {
		return table(w, "Statistics of the cluster that are not 0.", func(line func(...string)) {
			for _, s := range r.Stats {
				line(s.Name, count(s.Library))
			}
		})
	}
	return table(w, "Statistics of the cluster that are not 0. What differs is marked.", func(line func(...string)) {
		line("name", "library", "sidecar", "")
		for _, s := range r.Stats {
			line(s.Name, count(s.Library), count(s.Sidecar), s.mark())
		}
	})
}

func count(n *uint64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatUint(*n, 10)
}

// mark says how a statistic differs.
func (s stat) mark() string {
	switch {
	case s.Library != nil && s.Sidecar != nil && *s.Library == *s.Sidecar:
		return ""
	case s.Library == nil:
		return "sidecar only"
	case s.Sidecar == nil:
		return "library only"
	}
	return "differs"
}

// printVerdict puts the two in one sentence for each protocol.
func (r *report) printVerdict(w io.Writer) error {
	if r.addedBy("http", "sidecar") == nil {
		_, err := fmt.Fprintln(w, "There was no sidecar to compare with: no envoy on PATH, and PILLION_ENVOY does not name one.")
		return err
	}
	for _, protocol := range protocols {
		library, sidecar := r.addedBy(protocol, "library").P50, r.addedBy(protocol, "sidecar").P50
		verdict := fmt.Sprintf("the library adds %.1f µs and the sidecar %.0f µs, %.0f times as much", library, sidecar, sidecar/library)
		if library <= 0 {
			verdict = fmt.Sprintf("the sidecar adds %.0f µs, and the library nothing that could be measured", sidecar)
		}
		if _, err := fmt.Fprintf(w, "To one caller's p50 by %s %s.\n", protocol, verdict); err != nil {
			return err
		}
	}
	return nil
}

// addedBy is what a path adds for one caller in a closed loop.
func (r *report) addedBy(protocol, path string) *added {
	for i := range r.Rows {
		if r.Rows[i].Protocol == protocol && r.Rows[i].Callers == 1 && r.Rows[i].Path == path {
			return &r.Rows[i].Added
		}
	}
	return nil
}
