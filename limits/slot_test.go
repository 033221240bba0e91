package limits

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// call is a call in progress, for the cases of TestSlot.
type call struct {
	t     *testing.T
	ctx   context.Context
	leave context.CancelFunc
	u     *pillion.Upstream
	resp  *http.Response
}

// TestSlot ends calls in all possible ways: the slot is held until the end and free afterwards.
func TestSlot(t *testing.T) {
	const limit = time.Second
	body := func(r io.Reader) roundTripper { return answer(200, r) }
	soup := func() io.Reader { return strings.NewReader("soup") }
	for _, tc := range []struct {
		name  string
		outer timeout.Config
		base  func() roundTripper
		end   func(c *call)
	}{
		{
			name: "body read to its end", base: func() roundTripper { return body(soup()) },
			end: func(c *call) {
				if got, err := io.ReadAll(c.resp.Body); string(got) != "soup" || err != nil {
					c.t.Errorf("got %q and %v, want soup", got, err)
				}
			},
		},
		{
			name: "body closed early", base: func() roundTripper { return body(soup()) },
			end: func(c *call) { c.resp.Body.Close() },
		},
		{
			name: "body broken", base: func() roundTripper { return body(failing{errBroken}) },
			end: func(c *call) {
				if _, err := io.ReadAll(c.resp.Body); !errors.Is(err, errBroken) {
					c.t.Errorf("got %v, want errBroken", err)
				}
			},
		},
		{
			name: "canceled, body left open", base: func() roundTripper { return body(soup()) },
			end: func(c *call) { c.leave(); time.Sleep(100 * time.Millisecond) }, // the slot is freed after a delay
		},
		{
			name: "total timeout, body left open", outer: timeout.Config{Total: limit},
			base: func() roundTripper { return body(soup()) },
			end:  func(*call) { time.Sleep(limit) },
		},
		{
			name: "connection upgraded, and closed", base: func() roundTripper { return answer(101, soup()) },
			end: func(c *call) { c.resp.Body.Close() },
		},
		{
			name: "closed twice", base: func() roundTripper { return body(soup()) },
			end: func(c *call) {
				c.resp.Body.Close()
				defer open(c.t.Context(), c.t, c.u).Body.Close()
				c.resp.Body.Close() // must not free the other call's slot
				if !full(c.t, c.u) {
					c.t.Error("the slot of another call is free")
				}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := &call{t: t, u: upstream(t, tc.outer, Config{MaxRequests: 1})}
				c.ctx, c.leave = context.WithCancel(t.Context())
				defer c.leave()
				resp, err := send(c.ctx, c.u, tc.base())
				if err != nil {
					t.Fatal(err)
				}
				c.resp = resp
				if !full(t, c.u) {
					t.Error("the slot is free before the end")
				}
				tc.end(c)
				synctest.Wait()
				if full(t, c.u) {
					t.Error("the slot is held after the end")
				}
			})
		})
	}
}

// TestSlotWithoutABody ends attempts without a response body.
func TestSlotWithoutABody(t *testing.T) {
	for _, tc := range []struct {
		name   string
		base   roundTripper
		panics any
	}{
		{name: "no body", base: func(req *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Request: req}, nil
		}},
		{name: "failure", base: func(*http.Request) (*http.Response, error) { return nil, errBroken }},
		{name: "panic", base: func(*http.Request) (*http.Response, error) { panic("boom") }, panics: "boom"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, Config{MaxRequests: 1})
				func() {
					defer func() {
						if got := recover(); got != tc.panics {
							t.Errorf("got panic %v, want %v", got, tc.panics)
						}
					}()
					resp, err := send(t.Context(), u, roundTripper(func(req *http.Request) (*http.Response, error) {
						if !full(t, u) {
							t.Error("the slot is free during the attempt")
						}
						return tc.base(req)
					}))
					if err == nil {
						resp.Body.Close()
					}
				}()
				if full(t, u) {
					t.Error("the slot is held after the end")
				}
			})
		})
	}
}

// TestSlotOfAFunction runs a function, which ends when it returns or panics.
func TestSlotOfAFunction(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func() error
	}{
		{"returns", func() error { return nil }},
		{"fails", func() error { return errBroken }},
		{"panics", func() error { panic("boom") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := upstream(t, Config{MaxRequests: 1})
				finish := make(chan struct{})
				go func() {
					defer func() { _ = recover() }()
					_, _ = pillion.Do(t.Context(), u, func(context.Context) (int, error) {
						<-finish
						return 0, tc.end()
					})
				}()
				synctest.Wait()
				if !full(t, u) {
					t.Error("the slot is free while the function runs")
				}
				close(finish)
				synctest.Wait()
				if full(t, u) {
					t.Error("the slot is held after the function's end")
				}
			})
		})
	}
}

// TestNoSlotDuringBackOff checks that a discarded response holds no slot during the back-off.
func TestNoSlotDuringBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := upstream(t, retry.Config{BaseInterval: time.Second, Rand: func() float64 { return 0.5 }}, Config{MaxRequests: 1})
		done := make(chan struct{})
		go func() {
			defer close(done)
			resp, err := send(t.Context(), u, answer(503, strings.NewReader("not now")))
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
		}()
		time.Sleep(100 * time.Millisecond)
		if full(t, u) {
			t.Error("the slot is held during the back-off")
		}
		<-done
		if full(t, u) {
			t.Error("the slot is held after the call's end")
		}
	})
}
