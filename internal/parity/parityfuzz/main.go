// Command parityfuzz plays random scenarios through a real Envoy and through the library, and
// reports the differences that no rule explains.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion/internal/parity"
)

func main() {
	failing, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "parityfuzz:", err)
		os.Exit(2)
	}
	if failing {
		os.Exit(1)
	}
}

func run() (failing bool, err error) {
	list := flag.String("seeds", "100", "a number of seeds, from 1, or a range: 1-2000")
	workers := flag.Int("workers", 8, "scenarios that are played at the same time")
	limit := flag.Duration("time", 0, "stop drawing scenarios after this time; 0 for no limit")
	shrink := flag.Duration("shrink", 3*time.Minute, "how long to shrink each scenario that differs; 0 for not at all")
	dir := flag.String("dir", ".local/parity-fuzz", "directory for the cases that are found")
	flag.Parse()
	seeds, err := parseSeeds(*list)
	if err != nil {
		return false, err
	}
	binary := parity.FindEnvoy()
	if binary == "" {
		_, err = fmt.Fprintln(os.Stdout, "parity fuzz: SKIPPED: no Envoy found: set PILLION_ENVOY or put envoy on PATH")
		return false, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	f := &parity.Fuzzer{Envoy: binary, Workers: *workers, Time: *limit, Shrink: *shrink, Dir: *dir, Out: os.Stdout, Log: os.Stderr}
	tally, err := f.Run(ctx, seeds)
	return tally.Failing > 0, err
}

// parseSeeds parses a number of seeds, or a range.
func parseSeeds(list string) ([]uint64, error) {
	from, to, ranged := strings.Cut(list, "-")
	if !ranged {
		from, to = "1", list
	}
	first, errFirst := strconv.ParseUint(from, 10, 64)
	last, errLast := strconv.ParseUint(to, 10, 64)
	if err := errors.Join(errFirst, errLast); err != nil {
		return nil, fmt.Errorf("seeds %q: write a number, or a range such as 1-2000: %w", list, err)
	}
	if last < first {
		return nil, fmt.Errorf("seeds %q: there are none; write a number, or a range such as 1-2000", list)
	}
	var seeds []uint64
	for seed := first; seed <= last; seed++ {
		seeds = append(seeds, seed)
	}
	return seeds, nil
}
