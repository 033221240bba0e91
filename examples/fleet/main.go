// Fleet calls twenty hosts in this process, some of which are slow or fail. It compares policies of
// load balancing, ejection, retry and connection age.
//
//	go run ./examples/fleet
//	go run ./examples/fleet -seed 7 -json
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/pillion-go/pillion/examples/internal/program"
)

func main() { program.Main(run) }

// options holds the values of the command line flags.
type options struct {
	seed   uint64
	calls  int
	rate   float64
	asJSON bool
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	o, err := parse(args, errOut)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := startFleet(loopback, o.seed)
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	defer f.close()
	if !o.asJSON {
		if err = printPlan(out, o); err != nil {
			return err
		}
	}
	groups, err := compare(ctx, f, load{calls: o.calls, rate: o.rate}, progress(errOut))
	if err != nil {
		return fmt.Errorf("fleet: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("fleet: interrupted: %w", err)
	}
	if o.asJSON {
		return printJSON(out, groups)
	}
	return printResults(out, groups)
}

// errUsage ends the program after package flag has printed the error.
var errUsage = errors.New("fleet: see -h for the flags")

func parse(args []string, errOut io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("fleet", flag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.Uint64Var(&o.seed, "seed", 1, "seed of the random numbers that select slow hosts, failing hosts, zones and picks")
	flags.IntVar(&o.calls, "calls", 720, "number of calls for each line of the table")
	flags.Float64Var(&o.rate, "rate", 600, "number of calls that start per second")
	flags.BoolVar(&o.asJSON, "json", false, "print one JSON object for each line of the table")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("fleet: unexpected argument %q", flags.Arg(0))
	case o.calls < size || !(o.rate > 0):
		return o, fmt.Errorf("fleet: -calls %d, -rate %v: write at least %d calls, and a rate above 0", o.calls, o.rate, size)
	}
	return o, nil
}
