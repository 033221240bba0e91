package metrics

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pillion-go/pillion/internal/raceflag"
)

// costly holds filters that take seconds for a hundred clusters, although their text and their
// program are within the bounds.
var costly = []string{
	"(.{0,30}){30}Z",
	"(?:(?:a?){30}){30}(?:.?){30}!",
	"(.*.*.*.*.*.*.*.*.*.*){40}Z",
	"(?i)([a-z_.]{0,30}){30}Z",
	"((.|.){1,20}){20}Z$",
}

// TestFilter_costs checks that costly filters are refused in each format, and that pages without a
// filter or with a simple one are still served.
func TestFilter_costs(t *testing.T) {
	r := crowd(t, 300)
	patterns := costly
	if raceflag.Enabled { // the race detector is many times slower
		patterns = costly[:2]
	}
	paths := []string{"/stats?", "/stats?format=json&", "/stats/prometheus?", "/stats?usedonly&type=Counters&"}
	for i, pattern := range patterns {
		path := paths[i%len(paths)]
		w := get(r, http.MethodGet, path+"filter="+url.QueryEscape(pattern))
		if want := errFilterCosts.Error() + "\n"; w.Code != http.StatusBadRequest || w.Body.String() != want {
			t.Errorf("%s, %s: got %d, %.100q; want 400, %q", path, pattern, w.Code, w.Body, want)
		}
	}
	few := crowd(t, 30) // no time limits the work of a simple filter for so many names
	if text := page(t, few, "/stats?filter=upstream_rq_total$"); strings.Count(text, "\n") != 30 {
		t.Errorf("a simple filter: got %d lines, want 30", strings.Count(text, "\n"))
	}
}

// TestFilter_concurrent requests costly filters concurrently. Each is refused, and pages without a
// filter or with a simple one do not wait for them.
func TestFilter_concurrent(t *testing.T) {
	r, small := crowd(t, 300), crowd(t, 3)
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			w := get(r, http.MethodGet, "/stats?filter="+url.QueryEscape(costly[i%len(costly)]))
			if w.Code != http.StatusBadRequest && w.Code != http.StatusServiceUnavailable {
				t.Errorf("got %d, want 400 or 503", w.Code)
			}
		})
	}
	page(t, r, "/stats")
	for range 5 {
		page(t, small, "/stats?filter=upstream_rq_total$")
	}
	all.Wait()
}

// TestFilter_busy checks that a filter waits for its turn for a bounded time.
func TestFilter_busy(t *testing.T) {
	const simple = "cluster-1"
	r := crowd(t, 300)
	for _, tc := range []struct {
		name    string
		busy    turns
		pattern string
		ask     func(context.Context) (context.Context, context.CancelFunc)
		want    int
	}{
		{"a canceled request", little, simple, leaving, http.StatusServiceUnavailable},
		{"a request that waits", little, simple, context.WithCancel, http.StatusServiceUnavailable},
		{"a costly filter", much, costly[0], leaving, http.StatusServiceUnavailable},
		{"a simple filter during a costly one", much, simple, context.WithCancel, http.StatusOK},
	} {
		tc.busy <- struct{}{}
		ctx, cancel := tc.ask(t.Context())
		w := httptest.NewRecorder()
		Handler(r).ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/stats?filter="+url.QueryEscape(tc.pattern), http.NoBody))
		cancel()
		<-tc.busy
		if w.Code != tc.want {
			t.Errorf("%s: got %d %.100q, want %d", tc.name, w.Code, w.Body, tc.want)
		}
		if w.Code != http.StatusOK && (w.Header().Get("Retry-After") != "1" || strings.Count(w.Body.String(), "\n") != 1) {
			t.Errorf("%s: got Retry-After %q, %q; want 1 and a line", tc.name, w.Header().Get("Retry-After"), w.Body)
		}
	}
	page(t, r, "/stats")
}

// leaving returns a context that is canceled soon.
func leaving(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 50*time.Millisecond)
}

// TestFilter_bounds checks that the time of a filter is limited only after much work, and that one
// name that takes too much work is refused.
func TestFilter_bounds(t *testing.T) {
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	few := []entry{{row: row{name: "cluster.a.upstream_rq_total"}}}
	var many []entry
	for i := range 2000 {
		many = append(many, entry{row: row{name: fmt.Sprint("cluster.a.upstream_rq_", i)}, index: i})
	}
	long := []entry{{row: row{name: strings.Repeat("a", maxSteps/100)}}}
	for _, tc := range []struct {
		name, pattern string
		entries       []entry
		until         time.Time
		want          error
	}{
		{"little work", "total", few, past, nil},
		{"little work per name, many names", "total", many, past, nil},
		{"much work in time", costly[0], many[:150], future, nil},
		{"much work, too late", costly[0], many, past, errFilterCosts},
		{"one long name", costly[0], long, future, errFilterCosts},
		{"one long name, a simple filter", "b", long, past, nil},
	} {
		f, err := parseFilter(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.match(tc.entries, tc.until); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
}

// FuzzFilter compares the entries that a filter selects with those that package regexp matches.
func FuzzFilter(f *testing.F) {
	for _, pattern := range append(costly[:1:1], "", "total$", `\.upstream_rq_(200|5xx)$`, "(?i)RECIPES", "(", "[[:alpha:]]+", `\pL`, "^$") {
		f.Add(pattern)
	}
	r := registry(f, Settings{})
	called(r, "recipes")
	called(r, "odd.name")
	entries := r.layout().entries
	f.Fuzz(func(t *testing.T, pattern string) {
		found, err := parseFilter(pattern)
		re, bad := regexp.Compile(pattern)
		switch {
		case err != nil:
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 100 {
				t.Errorf("%q: got error %q, want a short line", pattern, err)
			}
			if bad == nil && len(pattern) <= maxFilter && !strings.Contains(err.Error(), "too complex") {
				t.Errorf("%q: got %v, want a filter", pattern, err)
			}
			return
		case bad != nil:
			t.Fatalf("%q: got a filter, want %v", pattern, bad)
		case found.size > maxProgram:
			t.Errorf("%q: got %d instructions, want at most %d", pattern, found.size, maxProgram)
		}
		if err := found.match(entries, time.Now().Add(time.Hour)); err != nil {
			t.Fatalf("%q: %v", pattern, err)
		}
		for i := range entries {
			if e := &entries[i]; found.has(e) != re.MatchString(e.name) {
				t.Errorf("%q: %s: got %v, want %v", pattern, e.name, found.has(e), !found.has(e))
			}
		}
	})
}
