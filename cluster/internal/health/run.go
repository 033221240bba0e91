package health

import (
	"context"
	"time"
)

// Prober checks one host. Run calls it from one goroutine.
type Prober interface {
	// Probe checks the host once. It must return when ctx ends.
	Probe(ctx context.Context) Verdict

	// Close releases the prober's connection. Run calls it last.
	Close()
}

// Run checks the session's host with p until ctx ends or the session is closed. It calls report
// with each result, in the goroutine of its caller. It closes p, but not the session. A panic of
// p or report continues in the caller.
func Run(ctx context.Context, s *Session, p Prober, report func(Step)) {
	defer p.Close()
	timer := time.NewTimer(time.Until(s.Start(time.Now())))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		step, ok := check(ctx, s, p)
		if !ok {
			return
		}
		report(step)
		timer.Reset(time.Until(step.Next))
	}
}

// check does one check. It returns false if ctx ended or the session was closed.
func check(ctx context.Context, s *Session, p Prober) (Step, bool) {
	attempt, ok := s.Begin(time.Now())
	if !ok {
		return Step{}, false
	}
	limited, cancel := context.WithDeadline(ctx, attempt.Deadline)
	defer cancel()
	v := p.Probe(limited)
	if ctx.Err() != nil {
		return Step{}, false
	}
	if limited.Err() != nil { // the result of p is too late
		v = Broken(limited.Err(), true)
	}
	return attempt.Done(v, time.Now())
}
