package retry

import (
	"context"
	"errors"
	"testing"

	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
)

// closing is a policy that admits a number of attempts and refuses the rest.
type closing struct{ after int }

var errClosed = errors.New("closed")

func (p closing) Wrap(_ *policy.Builder, next policy.Func) (policy.Func, error) {
	return func(ctx context.Context, c *policy.Call) *policy.Outcome {
		if c.Attempt() > p.after {
			return c.Refuse(errClosed, breaker.CircuitOpen)
		}
		return next(ctx, c)
	}, nil
}

// TestRefusedRetry refuses a retry: the refusal is the result, and wraps the failure that caused
// the retry.
func TestRefusedRetry(t *testing.T) {
	for _, tc := range []struct {
		name    string
		cfg     Config
		after   int
		answers []answer
		is      error // in addition to errClosed
		text    string
	}{
		{"immediately", Config{}, 0, []answer{status(200)}, nil, "closed"},
		{"after an error", Config{}, 1, []answer{failure(errBroken)}, errBroken, ""},
		{"after a status", Config{}, 1, []answer{status(503)}, nil, "closed; before that: upstream responded with status 503"},
		{"repeatedly", Config{RetryRefused: true, NumRetries: 3}, 1, []answer{status(503)}, nil, "closed"},
		{"after two errors", Config{NumRetries: 3}, 2, []answer{status(503), failure(errBroken)}, errBroken, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var d diary
			tc.cfg.Rand = always(0)
			r := call(t, upstream(t, tc.cfg, closing{tc.after}, policy.Listener(d.listen)), answers(tc.answers...), get(t.Context()))
			if !errors.Is(r.err, errClosed) || (tc.is != nil && !errors.Is(r.err, tc.is)) || (tc.text != "" && r.err.Error() != tc.text) {
				t.Errorf("got error %v, want it to wrap %v and %v, and to read %q", r.err, errClosed, tc.is, tc.text)
			}
			if d.has(policy.EventRetrySuccess) {
				t.Errorf("got events %q, want no success", d.lines())
			}
		})
	}
}
