// Expeditor assembles pages from five upstreams, as a service does that is written with
// Ruby's Expeditor: with dependencies, fallbacks, timeouts and retries. One of the upstreams
// is sometimes slow, one fails sometimes, and one breaks down and recovers. The program
// prints one line for each page.
//
//	go run ./examples/expeditor
//	go run ./examples/expeditor -pages 40 -every 20ms
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/pillion-go/pillion/examples/internal/program"
)

func main() { program.Main(run) }

func run(ctx context.Context, args []string, out, errOut io.Writer) error {
	flags := flag.NewFlagSet("expeditor", flag.ContinueOnError)
	flags.SetOutput(errOut)
	pages := flags.Int("pages", 24, "assemble this many pages")
	every := flags.Duration("every", 50*time.Millisecond, "wait for this long between pages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *pages < 3 || *every <= 0 {
		return fmt.Errorf("expeditor: -pages %d, -every %v: at least 3 pages, and a time above 0", *pages, *every)
	}
	up := startUpstreams()
	defer up.close()
	s, err := newSite(up, *every)
	if err != nil {
		return err
	}
	return assemble(ctx, s, *pages, *every, out)
}

// plan says what is about to run.
const plan = `%d pages, each assembled by five commands that call five upstreams. "reviews" is
down for a third of the pages, and its circuit opens for %v at a time. Each
4th response of "related" takes longer than the timeout, %v. Each 3rd response
of "price" is a failure, which is retried.

%s`

// assemble makes the pages. In the second third of them the upstream of the reviews is
// down.
func assemble(ctx context.Context, s *site, pages int, every time.Duration, out io.Writer) error {
	say(out, plan, pages, s.reviewsConfig.Sleep, relatedTimeout, header())
	for n := range pages {
		switch n {
		case pages / 3:
			say(out, "--- the upstream of the reviews goes down ---\n")
			s.upstreams.broken.Store(true)
		case 2 * pages / 3:
			say(out, "--- the upstream of the reviews recovers ---\n")
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

// pause waits for d. It reports whether ctx had not ended by then.
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
