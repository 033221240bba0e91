package pillion_test

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/pillion-go/pillion/retry"
)

// connection is the body of a 101 response: a Read blocks until it is closed, whatever the context
// of the request.
type connection struct {
	io.Writer
	closed atomic.Bool
	end    chan struct{}
}

func (c *connection) Read([]byte) (int, error) {
	<-c.end
	return 0, io.ErrClosedPipe
}

func (c *connection) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		close(c.end)
	}
	return nil
}

// TestDiscard_upgraded pins that discarding a 101 response closes it. Its body is a connection,
// which may never return anything to read.
func TestDiscard_upgraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var made []*connection
		base := roundTripper(func(*http.Request) (*http.Response, error) {
			c := &connection{Writer: io.Discard, end: make(chan struct{})}
			made = append(made, c)
			resp := answer(http.StatusSwitchingProtocols, "")
			resp.Body, resp.ContentLength = c, -1
			return resp, nil
		})
		u := newUpstream(t, retry.Config{On: "retriable-status-codes", RetriableStatusCodes: []int{http.StatusSwitchingProtocols}})
		resp, err := u.Transport(base).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		if len(made) != 2 || !made[0].closed.Load() || made[1].closed.Load() {
			t.Errorf("got %d connections, want 2, and only the first one closed", len(made))
		}
		_ = resp.Body.Close()
	})
}
