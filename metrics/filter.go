package metrics

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"time"
)

// Bounds on a filter, which any client can send: the length of its text, the number of
// instructions of its program, the steps (instructions times bytes) for one name and for all names
// of a page before the time is limited, that time, and the wait of a page for its turn.
const (
	maxFilter   = 512
	maxProgram  = 2000
	maxSteps    = 10_000_000
	maxMatching = 200 * time.Millisecond
	maxWaiting  = 3 * time.Second
)

// filter selects statistics of a page.
type filter struct {
	re    *regexp.Regexp
	size  int      // instructions
	found []uint64 // one bit per entry of the page, by its index
}

var (
	errFilterBusy  = errors.New("filter: too many concurrent pages with a filter; retry later")
	errFilterCosts = errors.New("filter: takes too long for this number of statistics; use a simpler one")
)

// turns runs one filter at a time, so that clients can use at most one processor.
type turns chan struct{}

// Cheap filters do not wait for costly ones.
//
//nolint:gochecknoglobals // shared by the process
var little, much = make(turns, 1), make(turns, 1)

// run selects the entries of a page with q's filter, before the page is sent.
func (q *query) run(ctx context.Context, p *plan) (err error) {
	if q.pattern == "" {
		return nil
	}
	cheap := false
	err = little.do(ctx, func() error {
		if q.filter, err = parseFilter(q.pattern); err != nil {
			return err
		}
		if cheap = q.filter.size*p.bytes <= maxSteps; cheap {
			return q.filter.match(p.entries, time.Time{})
		}
		return nil
	})
	if err != nil || cheap {
		return err
	}
	return much.do(ctx, func() error { return q.filter.match(p.entries, time.Now().Add(maxMatching)) })
}

// do waits for its turn and runs work.
func (t turns) do(ctx context.Context, work func() error) error {
	timer := time.NewTimer(maxWaiting)
	defer timer.Stop()
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return errFilterBusy
	case <-timer.C:
		return errFilterBusy
	}
	defer func() { <-t }()
	return work()
}

// parseFilter parses a filter.
func parseFilter(text string) (*filter, error) {
	if len(text) > maxFilter {
		return nil, fmt.Errorf("filter: longer than %d bytes", maxFilter)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, errors.New("filter: " + reason(err)) // without the client's text
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(prog.Inst) > maxProgram {
		return nil, errors.New("filter: too complex")
	}
	re, err := regexp.Compile(text)
	return &filter{re: re, size: len(prog.Inst)}, err
}

// reason returns a short description of a syntax error.
func reason(err error) string {
	if bad, ok := errors.AsType[*syntax.Error](err); ok {
		return string(bad.Code)
	}
	return "no regular expression"
}

// match records which entries have matching names. Until maxSteps have been used it ignores the
// deadline until, so that a cheap filter is never refused.
func (f *filter) match(entries []entry, until time.Time) error {
	f.found = make([]uint64, len(entries)/64+1)
	steps := 0
	for i := range entries {
		e := &entries[i]
		cost := f.size * len(e.name)
		if steps += cost; steps > maxSteps && (cost > maxSteps || time.Now().After(until)) {
			return errFilterCosts
		}
		if f.re.MatchString(e.name) {
			f.found[e.index/64] |= 1 << (e.index % 64)
		}
	}
	return nil
}

// has reports whether the filter selects e.
func (f *filter) has(e *entry) bool { return f.found[e.index/64]&(1<<(e.index%64)) != 0 }
