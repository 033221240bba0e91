package policy

import (
	"context"
	"time"
)

// Pause holds the reader of the response up for d, on behalf of a policy: meanwhile neither the
// limit on silence nor the total limit runs, since the upstream is not waited for. It returns
// early with an error when closed is closed, or when ctx or the attempt's own context has ended.
// It is called between [Stream.Await] and [Stream.Received], as the Read of a body is.
func (s *Stream) Pause(ctx context.Context, d time.Duration, closed <-chan struct{}) error {
	s.Received()
	defer s.Await()
	s.extend(d)
	if s != nil && s.limited {
		ctx = s.ctx
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
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deadline != 0 {
		s.deadline = after(s.deadline, d)
	}
}
