package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// numbered returns the hooks of that many policies: the innermost logs 1 first.
func numbered(j *journal, n int) []pillion.Policy {
	var policies []pillion.Policy
	for i := n; i >= 1; i-- {
		policies = append(policies, atEnd(func(_ *policy.Call, _ *policy.Outcome) { j.add(strconv.Itoa(i)) }))
	}
	return policies
}

func oneTo(n int) (all []string) {
	for i := 1; i <= n; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

// TestOnEnd_exactlyOnce ends a response in each way, with more hooks than a Call has room for, and
// then ends it again in other ways.
func TestOnEnd_exactlyOnce(t *testing.T) {
	readAll := func(_ context.CancelFunc, body io.ReadCloser) { _, _ = io.ReadAll(body) }
	shut := func(_ context.CancelFunc, body io.ReadCloser) { _ = body.Close() }
	tests := []struct {
		name   string
		policy pillion.Policy
		bytes  error // how the body ends, 100ms after the response headers
		end    func(leave context.CancelFunc, body io.ReadCloser)
		is     policy.Condition
		flags  envoy.Flags
		detail *envoy.Detail
	}{
		{"EOF", nil, io.EOF, readAll, 0, 0, envoy.ViaUpstream},
		{"EOF, and read on", nil, io.EOF, func(_ context.CancelFunc, body io.ReadCloser) {
			_, _ = io.ReadAll(body)
			_, _ = body.Read(make([]byte, 1))
		}, 0, 0, envoy.ViaUpstream},
		{
			"error", nil, io.ErrUnexpectedEOF, readAll,
			policy.ProtocolError | policy.Reset, envoy.UPE, envoy.MalformedResponseAfter,
		},
		{"close", nil, io.EOF, shut, 0, 0, envoy.ViaUpstream},
		{"close twice", nil, io.EOF, func(_ context.CancelFunc, body io.ReadCloser) {
			_ = body.Close()
			_ = body.Close()
		}, 0, 0, envoy.ViaUpstream},
		{"close beside a read", nil, io.EOF, func(_ context.CancelFunc, body io.ReadCloser) {
			var both sync.WaitGroup
			both.Go(func() { _, _ = io.ReadAll(body) })
			both.Go(func() { _ = body.Close() })
			both.Wait()
		}, 0, 0, envoy.ViaUpstream},
		{"the caller leaves", nil, io.EOF, func(leave context.CancelFunc, _ io.ReadCloser) {
			leave() // and neither reads nor closes
			time.Sleep(100 * time.Millisecond)
		}, policy.Cancelled, envoy.DC, envoy.CallerGone},
		{"the caller leaves, and closes", nil, io.EOF, func(leave context.CancelFunc, body io.ReadCloser) {
			leave()
			_ = body.Close()
		}, policy.Cancelled, envoy.DC, envoy.CallerGone},
		{"the caller leaves, and reads", nil, io.EOF, func(leave context.CancelFunc, body io.ReadCloser) {
			leave()
			_, _ = io.ReadAll(body)
		}, policy.Cancelled, envoy.DC, envoy.CallerGone},
		{
			"total limit, reading",
			timeout.Config{Total: 50 * time.Millisecond},
			io.EOF, readAll,
			policy.Timeout, envoy.UT, envoy.ResponseTimeout,
		},
		{"total limit, no reader", timeout.Config{Total: 50 * time.Millisecond}, io.EOF, func(context.CancelFunc, io.ReadCloser) {
			time.Sleep(60 * time.Millisecond)
		}, policy.Timeout, envoy.UT, envoy.ResponseTimeout},
		{
			"idle limit",
			timeout.Config{Idle: 50 * time.Millisecond},
			io.EOF, readAll,
			policy.Timeout | policy.PerTryTimeout, envoy.UT, envoy.PerTryIdleTimeout,
		},
		{"discard", around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Discard()
			return o
		}), io.EOF, shut, policy.Discarded, 0, envoy.ViaUpstream},
	}
	for _, test := range tests {
		for _, hooks := range []int{1, 4, 5, 9} {
			t.Run(fmt.Sprintf("%s, %d hooks", test.name, hooks), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var order journal
					var ended policy.Outcome
					policies := append([]pillion.Policy{test.policy}, numbered(&order, hooks-1)...)
					policies = append(policies, atEnd(func(_ *policy.Call, end *policy.Outcome) {
						ended = *end
						order.add("0")
					}))
					ctx, leave := context.WithCancel(t.Context())
					defer leave()
					resp, err := newUpstream(t, policies...).Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
						at := time.Now().Add(100 * time.Millisecond)
						return streams(newTape(req.Context(), test.bytes, piece{at, "soup"}))(req)
					})).RoundTrip(get(ctx, t))
					if err != nil {
						t.Fatal(err)
					}
					test.end(leave, resp.Body)
					synctest.Wait() // Close does not wait for a hook that runs elsewhere
					want := append([]string{"0"}, oneTo(hooks-1)...)
					if diff := cmp.Diff(want, order.all()); diff != "" {
						t.Errorf("hooks, inner before outer (-want +got):\n%s", diff)
					}
					if ended.Conditions != test.is || ended.Flags != test.flags || ended.Detail != test.detail {
						t.Errorf("end: got %b %v %v, want %b %v %v", ended.Conditions, ended.Flags, ended.Detail, test.is, test.flags, test.detail)
					}
					if (ended.Err != nil) != test.is.Any(^policy.Discarded) {
						t.Errorf("end: got error %v with condition %b", ended.Err, ended.Conditions)
					}
					// All later ends have no effect.
					_, _ = resp.Body.Read(make([]byte, 1))
					_ = resp.Body.Close()
					leave()
					time.Sleep(time.Hour)
					synctest.Wait()
					if diff := cmp.Diff(want, order.all()); diff != "" {
						t.Errorf("hooks, after more ends (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestOnEnd_finished pins that hooks of finished outcomes are called immediately, also those that a
// hook registers.
func TestOnEnd_finished(t *testing.T) {
	var order journal
	u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		o.OnEnd(c, func(c *policy.Call, end *policy.Outcome) {
			order.add("hook")
			end.OnEnd(c, func(*policy.Call, *policy.Outcome) { order.add("hook of a hook") })
			if end.Open() {
				t.Error("got an open outcome in a hook, want one that has ended")
			}
			end.Discard()
		})
		order.add("return")
		return o
	}))
	resp, err := u.Transport(streams(http.NoBody)).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if diff := cmp.Diff([]string{"hook", "hook of a hook", "return"}, order.all()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOnEnd_many pins that the number of hooks is not limited.
func TestOnEnd_many(t *testing.T) {
	const many = 300
	calls := 0
	u := newUpstream(t, around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
		o := next(ctx, c)
		for range many {
			o.OnEnd(c, func(*policy.Call, *policy.Outcome) { calls++ })
		}
		return o
	}))
	resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if calls != many {
		t.Errorf("hooks called: got %d, want %d", calls, many)
	}
}

// TestOnEnd_panic panics in hooks: the others still run, once, and goroutines that wait for the end
// go on; the panic goes on in the goroutine that ended the response.
func TestOnEnd_panic(t *testing.T) {
	for _, hooks := range []int{1, 3, 7} {
		for panics := 1; panics <= hooks; panics++ {
			t.Run(fmt.Sprintf("%d of %d", panics, hooks), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var order journal
					var policies []pillion.Policy
					for i := hooks; i >= 1; i-- {
						policies = append(policies, atEnd(func(*policy.Call, *policy.Outcome) {
							order.add(strconv.Itoa(i))
							if i <= panics {
								panic(errBroken)
							}
						}))
					}
					resp, err := newUpstream(t, policies...).Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
					if err != nil {
						t.Fatal(err)
					}
					if got := recovered(func() { _, _ = io.ReadAll(resp.Body) }); got != errBroken { //nolint:errorlint // the very one
						t.Errorf("reading to the end: got panic %v, want errBroken", got)
					}
					if diff := cmp.Diff(oneTo(hooks), order.all()); diff != "" {
						t.Errorf("hooks (-want +got):\n%s", diff)
					}
					// No goroutine is stuck, no hook is called again.
					if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF {
						t.Errorf("reading on: got %d, %v, want EOF", n, err)
					}
					_ = resp.Body.Close()
					if got := len(order.all()); got != hooks {
						t.Errorf("hooks at last: got %d calls, want %d", got, hooks)
					}
				})
			})
		}
	}
}

// recovered returns the value of f's panic.
func recovered(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// TestOnEnd_lateReader ends a body by the caller's context, with a slow hook, and reads meanwhile:
// the reader waits for the hook, and receives the error that the hook received.
func TestOnEnd_lateReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		u := newUpstream(t, atEnd(func(*policy.Call, *policy.Outcome) { <-goOn }))
		ctx, leave := context.WithCancel(t.Context())
		resp, err := u.Transport(roundTripper(func(req *http.Request) (*http.Response, error) {
			return streams(newTape(req.Context(), io.EOF, piece{time.Now().Add(time.Hour), "soup"}))(req)
		})).RoundTrip(get(ctx, t))
		if err != nil {
			t.Fatal(err)
		}
		leave()
		synctest.Wait() // the hook runs
		told := make(chan error, 3)
		for range cap(told) {
			go func() {
				_, err := resp.Body.Read(make([]byte, 1))
				told <- err
			}()
		}
		synctest.Wait()
		if len(told) != 0 {
			t.Error("a reader received the end before the hooks had run")
		}
		if err := resp.Body.Close(); err != nil { // does not wait
			t.Errorf("close: %v", err)
		}
		close(goOn)
		for range cap(told) {
			if err := <-told; !errors.Is(err, context.Canceled) {
				t.Errorf("a reader got %v, want that the caller was canceled", err)
			}
		}
	})
}

// TestOnEnd_lateReaderOfAPanic is TestOnEnd_lateReader with a hook that panics: the readers are not
// stuck, and receive their own error.
func TestOnEnd_lateReaderOfAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		u := newUpstream(t, atEnd(func(*policy.Call, *policy.Outcome) {
			<-goOn
			panic("hook")
		}))
		resp, err := u.Transport(streams(io.NopCloser(iotest.ErrReader(errBroken)))).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		closed := make(chan any)
		go func() { closed <- recovered(func() { _ = resp.Body.Close() }) }()
		synctest.Wait() // the hook runs
		told := make(chan error)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			told <- err
		}()
		synctest.Wait()
		close(goOn)
		if got := <-closed; got != "hook" {
			t.Errorf("close: got panic %v, want the hook's", got)
		}
		if err := <-told; !errors.Is(err, errBroken) {
			t.Errorf("the reader got %v, want errBroken", err)
		}
	})
}

// TestOnEnd_closeInHook pins that a hook may close the body whose end it receives, whatever ended
// it.
func TestOnEnd_closeInHook(t *testing.T) {
	for name, end := range map[string]func(body io.ReadCloser){
		"EOF":   func(body io.ReadCloser) { _, _ = io.ReadAll(body) },
		"close": func(body io.ReadCloser) { _ = body.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var body io.ReadCloser
				calls := 0
				u := newUpstream(t, atEnd(func(*policy.Call, *policy.Outcome) {
					calls++
					_ = body.Close()
				}))
				resp, err := u.Transport(answers(http.StatusOK, "soup")).RoundTrip(get(t.Context(), t))
				if err != nil {
					t.Fatal(err)
				}
				body = resp.Body
				end(body)
				if calls != 1 {
					t.Errorf("hook called %d times, want once", calls)
				}
			})
		})
	}
}

// TestCall_slots uses more policies with state than a Call has room for: each finds its own state,
// separately in each attempt, and zero at first.
func TestCall_slots(t *testing.T) {
	const many = 9
	var seen journal
	var policies []pillion.Policy
	for i := range many {
		policies = append(policies, policyFunc(func(s *policy.Builder, next policy.Func) (policy.Func, error) {
			slot := s.Slot()
			hook := func(c *policy.Call, _ *policy.Outcome) {
				got := c.State(slot)
				seen.add(fmt.Sprintf("%d: %d %v", i, got.N, got.V))
			}
			return func(ctx context.Context, c *policy.Call) *policy.Outcome {
				if got := *c.State(slot); got.N != 0 || got.V != nil {
					t.Errorf("policy %d, attempt %d: got state %+v at first, want zero", i, c.Attempt(), got)
				}
				*c.State(slot) = policy.State{N: int64(10*i + c.Attempt()), V: fmt.Sprint("v", i)}
				o := next(ctx, c)
				o.OnEnd(c, hook)
				return o
			}, nil
		}))
		if i == 3 {
			policies = append(policies, quick(1)) // all inner ones see two attempts
		}
	}
	u := newUpstream(t, policies...)
	client := &http.Client{Transport: u.Transport(answers(http.StatusServiceUnavailable, "no"))}
	want := map[string]int{}
	for i := range many {
		want[fmt.Sprintf("%d: %d v%d", i, 10*i+1, i)]++
		if i > 3 {
			want[fmt.Sprintf("%d: %d v%d", i, 10*i+2, i)]++
		}
	}
	for range 3 { // the storage of a call is reused
		seen = journal{}
		send(t, client, get(t.Context(), t))
		got := map[string]int{}
		for _, line := range seen.all() {
			got[line]++
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("states at the end (-want +got):\n%s", diff)
		}
	}
}

// TestOutcome_openWithError pins that a response that a policy replaces by an error without
// discarding it is discarded, and that the call has ended.
func TestOutcome_openWithError(t *testing.T) {
	bodies := newTally()
	ends := 0
	u := newUpstream(t,
		atEnd(func(_ *policy.Call, end *policy.Outcome) {
			if ends++; !errors.Is(end.Err, errBroken) {
				t.Errorf("outer hook: got %v, want errBroken", end.Err)
			}
		}),
		around(func(ctx context.Context, c *policy.Call, next policy.Func) *policy.Outcome {
			o := next(ctx, c)
			o.Err = errBroken
			return o
		}),
		atEnd(func(*policy.Call, *policy.Outcome) { ends++ }))
	ctx, info := pillion.WithInfo(t.Context())
	resp, err := u.Transport(streams(newCountedBody(bodies))).RoundTrip(get(ctx, t))
	if resp != nil || !errors.Is(err, errBroken) {
		t.Errorf("got %v, %v, want errBroken", resp, err)
	}
	if ends != 2 || !info.Done() {
		t.Errorf("got %d ends, done %v, want 2 and true", ends, info.Done())
	}
	bodies.wantNone(t)
}

func TestOutcome_failure(t *testing.T) {
	tests := []struct {
		name string
		o    policy.Outcome
		want string
	}{
		{"success", policy.Outcome{Code: 200}, ""},
		{"not found", policy.Outcome{Code: 404}, ""},
		{"409", policy.Outcome{Code: 409, Conditions: policy.Retriable4xx}, ""},
		{"503", policy.Outcome{Code: 503, Conditions: policy.Status5xx | policy.GatewayError}, "upstream responded with status 503"},
		{"error", policy.Outcome{Err: errBroken, Conditions: policy.Reset}, "broken"},
		{"cancelled", policy.Outcome{Err: context.Canceled, Conditions: policy.Cancelled}, "context canceled"},
		{"error within a response", policy.Outcome{Code: 503, Err: errBroken, Conditions: policy.Status5xx}, "broken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.o.Failure()
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if status, ok := errors.AsType[*pillion.StatusError](err); ok != strings.HasPrefix(test.want, "upstream") || (ok && status.Code != test.o.Code) {
				t.Errorf("got StatusError %v, %v", status, ok)
			}
		})
	}
}

// closable is an empty body. Its Close makes a reader return before it returns itself.
type closable struct{ shut chan struct{} }

func (b closable) Read([]byte) (int, error) {
	<-b.shut
	return 0, http.ErrBodyReadAfterClose
}

func (b closable) Close() error {
	close(b.shut)
	time.Sleep(time.Second)
	return nil
}

// TestOnEnd_closeUnderAReader pins that closing a body is no failure of the upstream if a reader
// waits for it concurrently, in either order.
func TestOnEnd_closeUnderAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var end policy.Outcome
		u := newUpstream(t, atEnd(func(_ *policy.Call, o *policy.Outcome) { end = *o }))
		resp, err := u.Transport(streams(closable{make(chan struct{})})).RoundTrip(get(t.Context(), t))
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error)
		go func() {
			_, err := resp.Body.Read(make([]byte, 1))
			told <- err
		}()
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- resp.Body.Close() }()
		if err := <-told; !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("the reader got %v, want that the body is closed", err)
		}
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
		if end.Err != nil || end.Conditions != 0 || end.Detail != envoy.ViaUpstream {
			t.Errorf("end: got %v, %b, %v, want no failure", end.Err, end.Conditions, end.Detail)
		}
	})
}
