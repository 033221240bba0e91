// Expeditor assembles pages from five upstreams, as a service written with Ruby's
// Expeditor does: with dependencies, fallbacks, time-outs and retries, while one of the
// upstreams is slow, one fails now and then, and one breaks down and recovers. It prints
// what each command did, and the status of the broken one's service over time.
//
//	go run ./examples/expeditor
//	go run ./examples/expeditor -pages 40 -every 20ms
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("expeditor", flag.ContinueOnError)
	flags.SetOutput(errOut)
	pages := flags.Int("pages", 24, "how many pages to assemble")
	every := flags.Duration("every", 50*time.Millisecond, "how much time to leave between them")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *pages < 3 || *every <= 0 {
		return fmt.Errorf("expeditor: -pages %d, -every %v: there must be three pages at least, and time between them", *pages, *every)
	}
	up := startUpstreams()
	defer up.close()
	s, err := newSite(up, *every)
	if err != nil {
		return err
	}
	return assemble(ctx, s, *pages, *every, out)
}

// assemble makes the pages. In the second third of them reviews are broken.
func assemble(ctx context.Context, s *site, pages int, every time.Duration, out io.Writer) error {
	for n := range pages {
		switch n {
		case pages / 3:
			say(out, "--- reviews break down ---\n")
			s.upstreams.broken.Store(true)
		case 2 * pages / 3:
			say(out, "--- reviews are well again ---\n")
			s.upstreams.broken.Store(false)
		}
		if err := s.page(ctx, n+1, out); err != nil {
			return err
		}
		if !pause(ctx, every) {
			return fmt.Errorf("expeditor: interrupted: %w", context.Cause(ctx))
		}
	}
	return s.close(ctx, out)
}

// pause waits for d. It is false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func say(out io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
