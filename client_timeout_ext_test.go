package pillion_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// TestClientTimeout pins that http.Client.Timeout is a deadline of the caller each time. net/http
// both ends the context and closes the request's Cancel, in either order.
func TestClientTimeout(t *testing.T) {
	const calls = 100
	for name, test := range map[string]struct {
		policies []pillion.Policy
		open     bool // the response has begun
	}{
		"before the response":             {[]pillion.Policy{timeout.Config{}}, false},
		"before the response, with retry": {[]pillion.Policy{timeout.Config{}, retry.Config{}}, false},
		"without policies":                {nil, false},
		"in the body":                     {[]pillion.Policy{timeout.Config{}}, true},
		"in the body, with retry":         {[]pillion.Policy{timeout.Config{}, retry.Config{}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				circuit, err := breaker.New(breaker.Config{Threshold: breaker.Never, Period: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				u, err := pillion.New("recipes", append(test.policies, circuit)...)
				if err != nil {
					t.Fatal(err)
				}
				client := &http.Client{Transport: u.Transport(hangs(test.open)), Timeout: time.Second}
				for range calls {
					info := visitHanging(t, client)
					if info.Flags() != envoy.UT || info.Detail() != envoy.ResponseTimeout {
						t.Fatalf("got %v %v, want UT response_timeout", info.Flags(), info.Detail())
					}
				}
				if got, want := circuit.Status(), (breaker.Status{Timeout: calls}); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			})
		})
	}
}

// visitHanging makes a call that the client's timeout ends.
func visitHanging(t *testing.T, client *http.Client) *pillion.Info {
	t.Helper()
	ctx, info := pillion.WithInfo(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://recipes.test/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	if took := time.Since(began); took != time.Second {
		t.Errorf("the call took %v, want 1s", took)
	}
	synctest.Wait()
	return info
}

// hangs is a server in memory that never ends its response, and begins it if open is set.
func hangs(open bool) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if !open {
			<-req.Context().Done()
			return nil, context.Cause(req.Context())
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: silence{req.Context()}, Request: req}, nil
	})
}

// silence is a body without an end.
type silence struct{ ctx context.Context }

func (s silence) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func (silence) Close() error { return nil }
