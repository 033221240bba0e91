package outlier_test

import (
	"fmt"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/outlier"
)

// A caller reports each result, and calls Tick at the instants that it is asked to.
func ExampleDetector() {
	config := outlier.Defaults()
	config.MaxEjectionPercent = 50
	now := time.Unix(0, 0)
	detector, err := outlier.New[string](config, func() uint64 { return 0 }, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	detector.Update([]string{"10.0.0.1:80", "10.0.0.2:80"}, nil)

	var tick time.Time
	took := func(step outlier.Step[string]) {
		for _, e := range step.Events {
			fmt.Println(now.Unix(), e.Host, e.Action, e.Kind)
		}
		if !step.Next.IsZero() {
			tick = step.Next // or a timer
		}
	}
	for range 5 {
		took(detector.Report("10.0.0.1:80", outlier.Response(500), now))
	}
	for !tick.IsZero() {
		now, tick = tick, time.Time{}
		took(detector.Tick(now))
	}
	// Output:
	// 0 10.0.0.1:80 EJECT CONSECUTIVE_5XX
	// 30 10.0.0.1:80 UNEJECT CONSECUTIVE_5XX
}
