// Command bench measures pillion beside its rivals, in one run.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 15, "how often each candidate is measured")
	slice := flag.Duration("slice", 30*time.Millisecond, "for how long each time")
	only := flag.String("only", "", "measure only groups whose name contains this")
	flag.Parse()
	for _, g := range groups() {
		if !strings.Contains(g.name, *only) {
			continue
		}
		results := measure(g, *rounds, *slice)
		fmt.Println(g.name)
		for _, c := range g.candidates {
			r := results[c.name]
			fmt.Printf("  %-40s %9.0f ns  +%8.0f ns  %5.1f allocs +%5.1f\n", c.name, r.ns, r.added, r.allocs, r.addedA)
		}
	}
	os.Exit(0)
}
