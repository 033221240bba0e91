package docs_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/limits"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

func Example_fallback() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: time.Second},
		retry.Config{NumRetries: 2},
		breaker.Config{},
	)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503, 503, 503))}

	menu, err := get(client, "http://recipes/menu") // in get, a status other than 200 is an error
	if err != nil {
		fmt.Println("because of", err)
		menu = "yesterday's menu"
	}
	fmt.Println(menu)
	// Output:
	// because of http://recipes/menu: status 503
	// yesterday's menu
}

func Example_hosts() {
	shops, err := pillion.New("shops",
		timeout.Config{Total: time.Second},
		retry.Config{},
		breaker.GroupConfig{Breaker: breaker.Config{NonBreakCount: 4}}, // one for each host and port
	)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: shops.Transport(down("leeks.example"))}

	for _, host := range []string{"leeks.example", "leeks.example", "leeks.example", "onions.example"} {
		text, err := get(client, "http://"+host)
		fmt.Println(host, text, errors.Is(err, breaker.ErrOpen))
	}
	// Output:
	// leeks.example Service Unavailable false
	// leeks.example Service Unavailable false
	// leeks.example  true
	// onions.example soup false
}

func Example_cluster() {
	addresses := hosts(503, 200) // two of one service; the first one fails
	kitchens, err := cluster.New(cluster.Config{
		Endpoints: cluster.Addresses(addresses...),
		Outlier:   &cluster.Outlier{Consecutive5xx: 3, MaxEjectionPercent: 50},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer kitchens.Close()
	recipes, err := pillion.New("recipes", timeout.Config{Total: time.Second}, retry.Config{}, kitchens)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(nil)} // the cluster makes the connections

	for range 10 {
		if _, err := get(client, "http://recipes.internal/menu"); err != nil {
			fmt.Println(err)
		}
	}
	for _, h := range kitchens.Hosts() {
		fmt.Println(h.Health, h.Flags)
	}
	// Output:
	// UNHEALTHY /failed_outlier_check
	// HEALTHY healthy
}

func Example_hostLimits() {
	const most = 1000
	var mu sync.Mutex
	transports := map[string]http.RoundTripper{} // guarded by mu
	registry := metrics.Default()
	statName := func(host string) string { return strings.ReplaceAll(host, ".", "_") }
	base := down("leeks.example") // a program has one *http.Transport for all hosts
	transportOf := func(host string) (http.RoundTripper, error) {
		mu.Lock()
		defer mu.Unlock()
		if t := transports[host]; t != nil {
			return t, nil
		}
		shop, err := pillion.New(host,
			metrics.Config{StatName: statName(host), Registry: registry},
			timeout.Config{Total: time.Second},
			retry.Config{},
			limits.Config{MaxRequests: 1},
			breaker.Config{},
		)
		if err != nil {
			return nil, err
		}
		for old := range transports { // any one; a cache would forget the one used least recently
			if len(transports) < most {
				break
			}
			delete(transports, old)
			registry.Remove(statName(old))
		}
		transports[host] = shop.Transport(base)
		return transports[host], nil
	}
	client := &http.Client{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		t, err := transportOf(req.URL.Host)
		if err != nil { // the host is empty
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		return t.RoundTrip(req)
	})}

	resp, err := client.Get("http://onions.example") // holds the one slot of its host
	if err != nil {
		log.Fatal(err)
	}
	_, err = get(client, "http://onions.example")
	fmt.Println(err)
	_, err = get(client, "http://leeks.example")
	fmt.Println(err)
	_ = resp.Body.Close()
	page := httptest.NewRecorder()
	metrics.Handler(registry).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/stats?usedonly&filter=overflow", http.NoBody))
	fmt.Print(page.Body)
	// Output:
	// Get "http://onions.example": limits: onions.example: max_requests of 1 reached; is the body of every response closed?
	// http://leeks.example: status 503
	// cluster.onions_example.upstream_rq_active_overflow: 1
}

func Example_tooManyRequests() {
	recipes, err := pillion.New("recipes",
		timeout.Config{Total: 5 * time.Second},
		retry.Config{
			On:                   "default,idempotent,retriable-status-codes",
			RetriableStatusCodes: []int{http.StatusTooManyRequests},
		},
		pillion.Listener(func(_ context.Context, e policy.Event) {
			if e.Kind == policy.EventRetryScheduled {
				fmt.Println("status", e.Outcome.Code, "asks for a wait:", e.BackOff.RateLimited)
			}
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(429))} // with Retry-After: 1

	text, err := get(client, "http://recipes/soup")
	fmt.Println(text, err)
	// Output:
	// status 429 asks for a wait: true
	// soup <nil>
}

func Example_logging() {
	logger := withoutTime() // a *slog.Logger
	recipes, err := pillion.New("recipes",
		pillion.Log(logger),
		retry.Config{},
	)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(503))}

	text, err := get(client, "http://recipes/soup")
	fmt.Println(text, err)
	// Output:
	// level=INFO msg="call end" upstream_cluster=recipes method=GET path=/soup upstream_request_attempt_count=2 response_code=200 response_flags=- response_code_details=via_upstream
	// soup <nil>
}

func Example_health() {
	circuit, err := breaker.New(breaker.Config{Name: "recipes"})
	if err != nil {
		log.Fatal(err)
	}
	recipes, err := pillion.New("recipes", metrics.Config{}, timeout.Config{}, circuit)
	if err != nil {
		log.Fatal(err)
	}
	client := &http.Client{Transport: recipes.Transport(kitchen(200, 503))}

	http.Handle("/stats", metrics.Handler(nil))
	http.HandleFunc("/upstreams", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"name": recipes.Name(), "circuit": circuit.State().String(), "last 10s": circuit.Status(),
		})
	})

	_, _ = get(client, "http://recipes/soup")
	_, _ = get(client, "http://recipes/soup")
	page := httptest.NewRecorder()
	http.DefaultServeMux.ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/upstreams", http.NoBody))
	fmt.Print(page.Body)
	// Output:
	// {"circuit":"closed","last 10s":{"success":1,"failure":1,"rejection":0,"timeout":0,"break":0,"dependency":0},"name":"recipes"}
}

func TestClient_givesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recipes, err := pillion.New("recipes", // in the bubble
			timeout.Config{Total: 10 * time.Second, PerTry: 4 * time.Second},
			retry.Config{NumRetries: 5},
		)
		if err != nil {
			t.Fatal(err)
		}
		silent := roundTripper(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})
		client := &http.Client{Transport: recipes.Transport(silent)}

		began := time.Now()
		_, err = get(client, "http://recipes/soup")
		limit, ok := errors.AsType[*timeout.Error](err)
		if took := time.Since(began); !ok || limit.Scope != timeout.Total || took != 10*time.Second {
			t.Errorf("got %v after %v, want the total timeout after 10s", err, took)
		}
	})
}

func Example_database() {
	db := sql.OpenDB(driverOf(&menus{})) // its first query fails: "deadlock found"
	defer func() { _ = db.Close() }()
	menu, err := pillion.New("menu",
		timeout.Config{Total: time.Second},
		retry.Config{On: "default,idempotent", When: func(o *policy.Outcome) bool { return errors.Is(o.Err, errDeadlock) }},
		limits.Config{MaxRequests: 20},
		breaker.Config{},
	)
	if err != nil {
		log.Fatal(err)
	}

	ctx := pillion.WithIdempotent(context.Background()) // this query may run twice
	dish, err := pillion.Do(ctx, menu, func(ctx context.Context) (dish string, err error) {
		err = db.QueryRowContext(ctx, "SELECT name FROM dishes LIMIT 1").Scan(&dish)
		return dish, err
	})
	fmt.Println(dish, err)
	// Output: leek soup <nil>
}

func Example_reverseProxy() {
	recipes, err := pillion.New("recipes",
		pillion.Options{LocalReplies: true, ReplayBuffer: 64 << 10},
		timeout.Config{Total: 5 * time.Second},
		retry.Config{},
		breaker.Config{Threshold: breaker.Zero, NonBreakCount: 1}, // opens after any result
	)
	if err != nil {
		log.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: "recipes"}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: recipes.Transport(kitchen()),
	}

	for range 2 {
		page := httptest.NewRecorder()
		proxy.ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/soup", http.NoBody))
		fmt.Println(page.Code, page.Body)
	}
	// Output:
	// 200 soup
	// 503 upstream connect error or disconnect/reset before headers. reset reason: overflow
}
