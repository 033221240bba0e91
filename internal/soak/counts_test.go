package soak

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/policy"
)

// statistics reads a page of the round's registry.
func (r *round) statistics(kind string) map[string]uint64 {
	w := httptest.NewRecorder()
	metrics.Handler(r.registry).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/stats?type="+kind, nil))
	page := map[string]uint64{}
	for line := range strings.Lines(w.Body.String()) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if value, err := strconv.ParseUint(text, 10, 64); err == nil {
			page[name] = value
		}
	}
	if len(page) == 0 {
		r.Fatalf("the page of %s has no rows: %d %q", kind, w.Code, w.Body)
	}
	return page
}

// gauges is a check: all gauges are 0, but those of remaining slots.
func (r *round) gauges() (wrong []string) {
	for name, value := range r.statistics("Gauges") {
		if value != 0 && !strings.Contains(name, ".remaining_") {
			wrong = append(wrong, fmt.Sprintf("%s: %d, want 0", name, value))
		}
	}
	return wrong
}

// totals is a check: the counters of u agree with the events that the ledger received.
func (r *round) totals(u *guarded) func() []string {
	return func() (wrong []string) {
		page, prefix := r.statistics("Counters"), "cluster."+u.Name()+"."
		r.ledger.mu.Lock()
		t := *r.ledger.of(u.Name())
		r.ledger.mu.Unlock()
		for name, want := range map[string]uint64{
			"upstream_rq_retry":                t.kinds[policy.EventRetry],
			"upstream_rq_retry_success":        t.kinds[policy.EventRetrySuccess],
			"upstream_rq_retry_limit_exceeded": t.kinds[policy.EventRetryLimitExceeded],
			"upstream_rq_retry_overflow":       t.kinds[policy.EventRetryOverflow],
			"upstream_rq_active_overflow":      t.overflow,
			"upstream_rq_breaker_open":         t.broke,
		} {
			if got := page[prefix+name]; got != want {
				wrong = append(wrong, fmt.Sprintf("%s%s: %d, want %d", prefix, name, got, want))
			}
		}
		if got, most := page[prefix+"upstream_rq_total"], t.kinds[policy.EventAttempt]; got > most {
			wrong = append(wrong, fmt.Sprintf("%supstream_rq_total: %d, but only %d attempts", prefix, got, most))
		}
		return append(wrong, connections(page, prefix)...)
	}
}

// connections is the part of totals about connections: all are counted as destroyed.
func connections(page map[string]uint64, prefix string) []string {
	made, destroyed := page[prefix+"upstream_cx_total"], page[prefix+"upstream_cx_destroy"]
	local, remote := page[prefix+"upstream_cx_destroy_local"], page[prefix+"upstream_cx_destroy_remote"]
	if made != destroyed || destroyed != local+remote {
		return []string{fmt.Sprintf("%supstream_cx: %d made, %d destroyed, %d locally and %d remotely", prefix, made, destroyed, local, remote)}
	}
	return nil
}

// methods is a check: each gRPC call is at most once in the statistics of its method. Calls
// whose response broke off are not in them.
func (r *round) methods(u *guarded) func() []string {
	return func() (wrong []string) {
		if u.shuffled {
			return nil // inside retry, metrics.GRPC counts attempts
		}
		page, prefix := r.statistics("Counters"), "cluster."+u.Name()+".grpc."
		var total uint64
		for name, value := range page {
			method, ok := strings.CutSuffix(name, ".total")
			if !ok || !strings.HasPrefix(name, prefix) {
				continue
			}
			total += value
			if sum := page[method+".success"] + page[method+".failure"]; sum != value {
				wrong = append(wrong, fmt.Sprintf("%s: %d in total, but %d successes and failures", method, value, sum))
			}
		}
		r.ledger.mu.Lock()
		calls := r.ledger.of(u.Name()).grpc
		r.ledger.mu.Unlock()
		if total > calls {
			wrong = append(wrong, fmt.Sprintf("%s: %d calls, want at most %d", prefix, total, calls))
		}
		return wrong
	}
}
