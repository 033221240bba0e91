// Compare makes the same calls to one loopback service, by HTTP and by unary gRPC, through
// bare clients, through pillion, and through a real Envoy sidecar. It prints what the two
// add to a call and what they count. Both have the same policy, which is written once. Calls
// that fail are made by HTTP alone.
//
//	go run ./examples/compare
//	go run ./examples/compare -json
//
// Envoy is the binary that PILLION_ENVOY names, or envoy on PATH. Without one there is no
// sidecar to compare with. "make envoy" installs one:
//
//	make envoy
//	PILLION_ENVOY=$(tools/envoy path .local) go run ./examples/compare
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/pillion-go/pillion/examples/internal/program"
)

func main() { program.Main(run) }

// options are the values of the command line's flags.
type options struct {
	json   bool
	mixed  int     // calls on each path
	rate   float64 // of the open loop
	closed []level
	open   []level
}

func parse(args []string, errOut io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.BoolVar(&o.json, "json", false, "print one JSON object")
	flags.IntVar(&o.mixed, "calls", 3000, "make this many mixed calls on each path")
	flags.Float64Var(&o.rate, "rate", 1000, "start this many calls per second in the open loop")
	short := flags.Bool("short", false, "make only a few calls, to see that the program works")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.mixed < 1 || !(o.rate > 0) {
		return o, fmt.Errorf("compare: -calls %d, -rate %v: both must be above 0", o.mixed, o.rate)
	}
	const closed, open = 5 * time.Second, 2 * time.Second // a minute in all, on a slow machine too
	o.closed = []level{{1, 100, 120, closed}, {8, 200, 50, closed}, {64, 640, 18, closed}}
	o.open = []level{{1, 100, 12, open}, {8, 100, 12, open}, {64, 128, 12, open}}
	if *short {
		o.closed = []level{{1, 20, 3, closed}, {8, 40, 1, closed}, {64, 64, 1, closed}}
		o.open = []level{{1, 20, 1, open}, {8, 20, 1, open}, {64, 64, 1, open}}
	}
	return o, nil
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	o, err := parse(args, errOut)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintln(errOut, "compare: measuring takes about a minute")
	r, err := compare(ctx, standardPolicy(), o, findEnvoy(), errOut)
	if err != nil {
		return err
	}
	if o.json {
		return r.printJSON(out)
	}
	return r.print(out)
}

// compare measures all paths. There is no sidecar if envoy is empty.
func compare(ctx context.Context, p policy, o options, envoy string, errOut io.Writer) (*report, error) {
	if envoy == "" {
		_, _ = fmt.Fprintln(errOut, "compare: no envoy on PATH and PILLION_ENVOY is not set: there is no sidecar to compare with")
	}
	s, err := newServer(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	all, closeAll, err := paths(ctx, p, s, envoy)
	if err != nil {
		return nil, err
	}
	defer closeAll()

	r := &report{}
	for _, protocol := range protocols {
		r.addRows(ctx, all, protocol, o, errOut)
	}
	if err := r.addMixed(ctx, all, p, s, o.mixed, errOut); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("compare: interrupted: %w", ctx.Err())
	}
	return r, nil
}

// addRows measures calls to which the server responds immediately.
func (r *report) addRows(ctx context.Context, all []path, protocol string, o options, errOut io.Writer) {
	for _, l := range o.closed {
		say(errOut, "%s, closed loop, %d callers", protocol, l.callers)
		r.Rows = append(r.Rows, measure(ctx, all, protocol, l, func(p *path, callers int, calls []call) round {
			return p.closedLoop(ctx, callers, calls)
		})...)
	}
	for _, l := range o.open {
		say(errOut, "%s, open loop, %d callers", protocol, l.callers)
		rows := measure(ctx, all, protocol, l, func(p *path, callers int, calls []call) round {
			return p.openLoop(ctx, callers, calls, o.rate)
		})
		for i := range rows {
			rows[i].Rate = o.rate
		}
		r.Open = append(r.Open, rows...)
	}
}

// addMixed makes the mixed calls on all paths, and then reads the statistics.
func (r *report) addMixed(ctx context.Context, all []path, p policy, s *server, calls int, errOut io.Writer) error {
	stats := map[string]map[string]uint64{}
	for i := range all {
		say(errOut, "mixed calls, %s", all[i].name)
		row, err := all[i].runMixed(ctx, p, s, calls)
		if err != nil {
			return err
		}
		r.Mixed = append(r.Mixed, row)
		if all[i].stats == nil {
			continue
		}
		if stats[all[i].name], err = all[i].stats(ctx); err != nil {
			return err
		}
	}
	r.Stats = compareStats(stats["library"], stats["sidecar"])
	return nil
}

// say writes what is going on, if w is a terminal.
func say(w io.Writer, format string, args ...any) {
	file, ok := w.(*os.File)
	if !ok {
		return
	}
	if info, err := file.Stat(); err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return
	}
	_, _ = fmt.Fprintf(w, "compare: "+format+"\n", args...)
}
