package pool_test

import (
	"io"
	"log"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/pillion-go/pillion/cluster/internal/pool"
)

// counts is an Observer that adds up.
type counts struct {
	n [pool.NumEvents]atomic.Int64
}

func (c *counts) Observe(e pool.Event, n int64) { c.n[e].Add(n) }

func (c *counts) get(e pool.Event) int64 { return c.n[e].Load() }

// slots is a Slots with fixed limits, whose use may exceed them by force.
type slots struct {
	limit [3]int64
	used  [3]atomic.Int64
}

func newSlots(connections, pending, requests int64) *slots {
	return &slots{limit: [3]int64{pool.Connection: connections, pool.Pending: pending, pool.Request: requests}}
}

func (p *slots) TryAcquire(k pool.Kind) bool {
	for {
		n := p.used[k].Load()
		if n >= p.limit[k] {
			return false
		}
		if p.used[k].CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (p *slots) Acquire(k pool.Kind) { p.used[k].Add(1) }

func (p *slots) Release(k pool.Kind) {
	if p.used[k].Add(-1) < 0 {
		panic("a slot was released twice: " + k.String())
	}
}

// silence drops what net/http logs until the test ends.
func silence(t *testing.T) {
	t.Helper()
	before := log.Writer()
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(before) })
}

// quietLog drops what a server logs.
func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

// finishBody reads and closes the body of resp.
func finishBody(resp *http.Response) error {
	_, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return err
}
