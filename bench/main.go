// Command bench measures pillion beside other libraries in one run: the processor time and the
// allocations that each adds to the bare work, as medians of interleaved rounds.
//
//	go run .                                print the tables
//	go run . -check                         fail if a bound does not hold
//	go run . -docs ../docs/performance.md   write the tables into this page
//	go run . -readme ../README.md           write five rows into this page
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 201, "measure each candidate this many times; below 6 every difference is within the noise")
	flag.DurationVar(&o.slice, "slice", 3*time.Millisecond, "measure for this much processor time each time")
	flag.StringVar(&o.only, "only", "", "measure only groups whose name contains this")
	flag.BoolVar(&o.check, "check", false, "fail if a bound does not hold")
	flag.StringVar(&o.docs, "docs", "", "write the tables into this page, between its marks")
	flag.StringVar(&o.readme, "readme", "", "write five rows into this page, between its marks")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options are the values of the command line's flags.
type options struct {
	rounds             int
	slice              time.Duration
	only, docs, readme string
	check              bool
}

func run(o options) error {
	if o.only != "" && o.docs+o.readme != "" {
		return errors.New("bench: -docs and -readme need all groups; omit -only")
	}
	var tables []table
	for _, g := range groups() {
		if strings.Contains(g.name, o.only) {
			t := table{g, measure(g, o.rounds, o.slice)}
			fmt.Println(t.text())
			tables = append(tables, t)
		}
	}
	if strings.Contains(clusterPicks, o.only) {
		t, err := pickTable()
		if err != nil {
			return err
		}
		fmt.Println(t.text())
		tables = append(tables, t)
	}
	if err := write(o, tables); err != nil {
		return err
	}
	if o.check {
		return checkBounds(tables)
	}
	return nil
}

// write writes the pages that the options name.
func write(o options, tables []table) error {
	if o.docs != "" {
		if err := writePage(o.docs, docsText(tables)); err != nil {
			return err
		}
	}
	if o.readme == "" {
		return nil
	}
	text, err := readmeText(tables)
	if err != nil {
		return err
	}
	return writePage(o.readme, text)
}
