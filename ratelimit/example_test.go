package ratelimit_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/ratelimit"
)

// A burst of two calls is admitted, and then one call each second.
func ExampleConfig() {
	database, err := pillion.New("database",
		ratelimit.Config{TokenBucket: ratelimit.TokenBucket{MaxTokens: 2, FillInterval: time.Second}},
	)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		_, err := pillion.Do(context.Background(), database, func(context.Context) (int, error) { return 42, nil })
		fmt.Println(err)
	}
	// Output:
	// <nil>
	// <nil>
	// ratelimit: database: too many calls
}

// A server limits each tenant separately.
func ExampleConfig_key() {
	front, err := pillion.New("front", ratelimit.Config{
		TokenBucket: ratelimit.TokenBucket{MaxTokens: 1, FillInterval: time.Minute},
		Key:         func(_ context.Context, c *policy.Call) string { return c.RequestHeader("X-Tenant") },
	})
	if err != nil {
		log.Fatal(err)
	}
	handler, err := front.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	if err != nil {
		log.Fatal(err)
	}
	for _, tenant := range []string{"a", "a", "b"} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Tenant", tenant)
		handler.ServeHTTP(w, r)
		fmt.Println(tenant, w.Code)
	}
	// Output:
	// a 200
	// a 429
	// b 200
}

// Two upstreams take tokens from one bucket.
func ExampleNew() {
	quota, err := ratelimit.New(ratelimit.Config{TokenBucket: ratelimit.TokenBucket{MaxTokens: 1, FillInterval: time.Minute}})
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range []string{"recipes", "users"} {
		u, err := pillion.New(name, quota)
		if err != nil {
			log.Fatal(err)
		}
		_, err = pillion.Do(context.Background(), u, func(context.Context) (int, error) { return 42, nil })
		fmt.Println(name, errors.Is(err, ratelimit.ErrLimited))
	}
	// Output:
	// recipes false
	// users true
}

// The error names the key.
func ExampleError() {
	err := error(&ratelimit.Error{Upstream: "recipes", Key: "shop"})
	if limited, ok := errors.AsType[*ratelimit.Error](err); ok {
		fmt.Println(limited.Key, limited)
	}
	// Output:
	// shop ratelimit: recipes: too many calls of "shop"
}
