package metrics

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"time"
)

// Bounds on a filter, which a stranger may have written: the length of its text, the
// instructions of the machine that it becomes, the steps (instructions times bytes) that it
// may take for one name, and for all names of a page before its time is limited, that time,
// and how long a page waits for its turn.
const (
	maxFilter   = 512
	maxProgram  = 2000
	maxSteps    = 10_000_000
	maxMatching = 200 * time.Millisecond
	maxWaiting  = 3 * time.Second
)

// filter lets some statistics of a page through.
type filter struct {
	re    *regexp.Regexp
	size  int      // instructions
	found []uint64 // a bit for each entry of the page, by its index
}

var (
	errFilterBusy  = errors.New("filter: too many pages with a filter at a time; try again")
	errFilterCosts = errors.New("filter: takes too long for so many statistics; use a simpler one")
)

// turns has one filter at work at a time, so that strangers can take the time of one
// processor at most.
type turns chan struct{}

// Filters of little work do not wait for those of much work.
//
//nolint:gochecknoglobals // for the process
var little, much = make(turns, 1), make(turns, 1)

// run finds what q's filter lets through of a page, before any of it is sent.
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

// do runs work when its turn has come.
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

// parseFilter reads a filter.
func parseFilter(text string) (*filter, error) {
	if len(text) > maxFilter {
		return nil, fmt.Errorf("filter: longer than %d bytes", maxFilter)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, errors.New("filter: " + reason(err)) // without what the stranger wrote
	}
	prog, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(prog.Inst) > maxProgram {
		return nil, errors.New("filter: too complex")
	}
	re, err := regexp.Compile(text)
	return &filter{re: re, size: len(prog.Inst)}, err
}

// reason is what is wrong with an expression, in a few words.
func reason(err error) string {
	if bad, ok := errors.AsType[*syntax.Error](err); ok {
		return string(bad.Code)
	}
	return "no regular expression"
}

// match takes down which entries have names that match. After maxSteps in all it ends at a
// time, so that a filter of little work is never refused.
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

// has reports whether the filter lets e through.
func (f *filter) has(e *entry) bool { return f.found[e.index/64]&(1<<(e.index%64)) != 0 }
