package docs_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/timeout"
)

// bodyThat is a response body with a Read of its own.
type bodyThat func() (int, error)

func (b bodyThat) Read([]byte) (int, error) { return b() }
func (bodyThat) Close() error               { return nil }

// TestOpenBodies has an open body end in each of the ways in a table of
// docs/life-of-a-call.md, and compares what the table says of it. Afterwards the only slot is
// free.
func TestOpenBodies(t *testing.T) {
	upstream := &pillion.UpstreamError{}
	tests := []struct {
		row      string
		deadline time.Duration                          // of the request's context; 0 means a minute
		read     func(ctx context.Context) (int, error) // nil blocks until ctx ends
		end      func(resp *http.Response, cancel func()) error
		wantErr  func(err error) bool
		flags    envoy.Flags
		counted  breaker.Status
	}{
		{
			row:     "Read reaches the end",
			read:    func(context.Context) (int, error) { return 0, io.EOF },
			end:     reading,
			wantErr: func(err error) bool { return err == io.EOF }, //nolint:errorlint // Read returns io.EOF itself
			counted: breaker.Status{Success: 1},
		},
		{
			row:     "Close before the end",
			end:     func(resp *http.Response, _ func()) error { return resp.Body.Close() },
			wantErr: func(err error) bool { return err == nil },
			counted: breaker.Status{Success: 1},
		},
		{
			row:     "the connection breaks",
			read:    func(context.Context) (int, error) { return 0, syscall.ECONNRESET },
			end:     reading,
			wantErr: func(err error) bool { return errors.As(err, &upstream) && errors.Is(err, syscall.ECONNRESET) },
			flags:   envoy.UPE, // as in Envoy: an HTTP/1 response that is cut is malformed
			counted: breaker.Status{Failure: 1},
		},
		{
			row:     "the total or idle timeout fires",
			end:     reading,
			wantErr: func(err error) bool { return firedBy(err, timeout.Total) },
			flags:   envoy.UT,
			counted: breaker.Status{Timeout: 1},
		},
		{
			row:     "the context of the request is canceled",
			end:     func(resp *http.Response, cancel func()) error { cancel(); return reading(resp, nil) },
			wantErr: func(err error) bool { return errors.Is(err, context.Canceled) && errors.Is(err, errHungUp) },
			flags:   envoy.DC,
		},
		{
			row:      "the deadline of that context passes",
			deadline: time.Millisecond,
			end:      reading,
			wantErr:  func(err error) bool { return firedBy(err, timeout.Caller) },
			flags:    envoy.UT,
			counted:  breaker.Status{Timeout: 1},
		},
		{
			row:     "Read panics",
			read:    func(context.Context) (int, error) { panic("Read") },
			end:     recovering,
			wantErr: func(err error) bool { return err != nil && err.Error() == "Read" },
			flags:   envoy.UPE,
			counted: breaker.Status{Failure: 1},
		},
	}
	page := read(t, "life-of-a-call.md")
	for _, tt := range tests {
		t.Run(tt.row, func(t *testing.T) {
			if !strings.Contains(page, "| "+tt.row+" |") {
				t.Errorf("life-of-a-call.md has no row %q", tt.row)
			}
			synctest.Test(t, func(t *testing.T) {
				circuit, err := breaker.New(breaker.Config{})
				if err != nil {
					t.Fatal(err)
				}
				recipes, err := pillion.New("recipes", timeout.Config{Total: time.Second}, limits.Config{MaxRequests: 1}, circuit)
				if err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithTimeout(t.Context(), cmp.Or(tt.deadline, time.Minute))
				defer stop()
				ctx, cancel := context.WithCancelCause(ctx)
				ctx, info := pillion.WithInfo(ctx)
				resp, err := recipes.Transport(open(tt.read)).RoundTrip(request(t, ctx))
				if err != nil {
					t.Fatal(err)
				}
				if err = tt.end(resp, func() { cancel(errHungUp) }); !tt.wantErr(err) {
					t.Errorf("got the error %v", err)
				}
				if info.Flags() != tt.flags || circuit.Status() != tt.counted {
					t.Errorf("got the flags %v and the counters %+v, want %v and %+v", info.Flags(), circuit.Status(), tt.flags, tt.counted)
				}
				if resp, err = recipes.Transport(kitchen()).RoundTrip(request(t, t.Context())); err != nil {
					t.Fatalf("got %v, want a free slot", err)
				}
				resp.Body.Close()
			})
		})
	}
}

var errHungUp = errors.New("the user hung up")

// reading reads the body until it fails.
func reading(resp *http.Response, _ func()) error {
	_, err := resp.Body.Read(make([]byte, 1))
	return err
}

// recovering is reading, with a panic as the error.
func recovering(resp *http.Response, _ func()) (err error) {
	defer func() { err = fmt.Errorf("%v", recover()) }()
	return reading(resp, nil)
}

// firedBy reports whether err is that of a timeout of the scope.
func firedBy(err error, scope policy.Scope) bool {
	limit, ok := errors.AsType[*timeout.Error](err)
	return ok && limit.Scope == scope && errors.Is(err, context.DeadlineExceeded)
}

// open is a server in memory that responds with 200 and a body that reads by read.
func open(read func(ctx context.Context) (int, error)) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		ctx := req.Context()
		resp := respond(req, http.StatusOK)
		resp.ContentLength, resp.Body = -1, bodyThat(func() (int, error) {
			if read != nil {
				return read(ctx)
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})
		return resp, nil
	})
}

func request(t *testing.T, ctx context.Context) *http.Request { //nolint:revive // ctx differs from t's
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes/soup", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	return req
}
