package health_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

// A session receives verdicts, and returns the instant of the next check.
func ExampleSession() {
	checker, err := health.New(health.Config{
		Timeout: time.Second, Interval: 5 * time.Second, UnhealthyInterval: time.Second, UnhealthyThreshold: 2, HealthyThreshold: 2,
	}, rand.Uint64)
	if err != nil {
		fmt.Println(err)
		return
	}
	checker.Traffic() // else NoTrafficInterval applies
	http := health.HTTPConfig{Path: "/healthz", RetriableStatuses: []health.StatusRange{{Start: 500, End: 600}}}
	session := checker.Session(health.NewHost())
	now := session.Start(time.Unix(0, 0))
	for _, status := range []int{200, 500, 500, 200, 200} {
		attempt, _ := session.Begin(now)
		step, _ := attempt.Done(http.Judge(status, nil, nil), now)
		fmt.Println(now.Unix(), status, step.Status)
		now = step.Next
	}
	// Output:
	// 0 200 healthy
	// 5 500 healthy
	// 6 500 /failed_active_hc
	// 7 200 /failed_active_hc
	// 12 200 healthy
}

// Judge looks at headers too.
func ExampleHTTPConfig_Judge() {
	v := health.HTTPConfig{Path: "/healthz"}.Judge(http.StatusServiceUnavailable, http.Header{"X-Envoy-Immediate-Health-Check-Fail": {"true"}}, nil)
	fmt.Println(v.Result == health.Failed, v.Failure, v.Exclude, v.Err)
	// Output: true ACTIVE true unexpected status 503
}
