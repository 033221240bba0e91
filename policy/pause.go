package policy

import (
	"context"
	"time"
)

// Pause delays the reader of the response by d, on behalf of a policy. Neither the idle limit nor the
// total limit runs meanwhile, because the caller does not wait for the upstream. Pause returns early
// with an error when closed is closed, or when the attempt's context ends; an attempt without a
// context of its own has ctx. It must be called between [Stream.Await] and [Stream.Received], as a
// body's Read is.
func (s *Stream) Pause(ctx context.Context, d time.Duration, closed <-chan struct{}) error { //nolint:contextcheck // the attempt has its own
	s.Received()
	defer s.Await()
	s.extend(d)
	if s != nil && s.own != nil {
		ctx = s.own.context()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-closed:
		return errEnded
	}
}

// extend moves the total limit of an open response by d.
func (s *Stream) extend(d time.Duration) {
	if s == nil || s.own == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.own; l.deadline != 0 {
		l.deadline = after(l.deadline, d)
	}
}
