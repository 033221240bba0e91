package hedge_test

import (
	"context"
	"fmt"
	"log"
	"sync/atomic"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/hedge"
)

// The first attempt does not return. After 20ms a hedge runs the function again, and its result is
// returned.
func ExampleConfig() {
	recipes, err := pillion.New("recipes", hedge.Config{Delay: 20 * time.Millisecond})
	if err != nil {
		log.Fatal(err)
	}
	var attempts atomic.Int32
	cook := func(ctx context.Context) (string, error) {
		if attempts.Add(1) == 1 {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "soup", nil
	}
	ctx := pillion.WithIdempotent(context.Background()) // the function may run twice
	soup, err := pillion.Do(ctx, recipes, cook)
	fmt.Println(soup, err, attempts.Load())
	// Output:
	// soup <nil> 2
}

// Calls that take longer than 99% of the upstream's calls are hedged, but at most 2 of every 100
// calls.
func ExampleConfig_percentile() {
	recipes, err := pillion.New("recipes", hedge.Config{Percentile: 99, Budget: &hedge.Budget{Percent: 2}})
	if err != nil {
		log.Fatal(err)
	}
	soup, err := pillion.Do(context.Background(), recipes, func(context.Context) (string, error) { return "soup", nil })
	fmt.Println(soup, err)
	// Output:
	// soup <nil>
}
