// Command bench measures pillion beside its rivals, in one run: the time and the
// allocations that each adds to the bare work, as medians of interleaved rounds.
//
//	go run .                       print the table
//	go run . -check                and fail where a bound does not hold
//	go run . -readme ../README.md  and write it there
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 21, "how often each candidate is measured")
	slice := flag.Duration("slice", 30*time.Millisecond, "for how long each time")
	only := flag.String("only", "", "measure only groups whose name contains this")
	check := flag.Bool("check", false, "fail where a bound does not hold")
	readme := flag.String("readme", "", "write the table into this file, between its marks")
	flag.Parse()
	if err := run(*rounds, *slice, *only, *check, *readme); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(rounds int, slice time.Duration, only string, check bool, readme string) error {
	var tables []table
	for _, g := range groups() {
		if strings.Contains(g.name, only) {
			t := table{g, measure(g, rounds, slice)}
			fmt.Println(t.text())
			tables = append(tables, t)
		}
	}
	if readme != "" {
		if err := writeTable(readme, tables); err != nil {
			return err
		}
	}
	if check {
		return checkBounds(tables)
	}
	return nil
}
