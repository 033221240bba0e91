package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
)

// fetch gets a URL and prints the status or body.
func fetch(client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil { // the call ends with its body
		return err
	}
	fmt.Println(resp.StatusCode)
	return nil
}

// An upstream refuses calls once too many have failed.
func ExampleConfig() {
	recipes, err := pillion.New("recipes", breaker.Config{NonBreakCount: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(text(http.StatusServiceUnavailable))}
	for range 4 {
		if err := fetch(client, "http://recipes/1"); errors.Is(err, breaker.ErrOpen) {
			fmt.Println("refused")
		} else if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 503
	// 503
	// 503
	// refused
}

// OnStateChange is called for each opening and closing. It may use the breaker, here to close
// it immediately.
func ExampleConfig_onStateChange() {
	var b *breaker.Breaker
	b, err := breaker.New(breaker.Config{
		Name:          "recipes",
		NonBreakCount: 1,
		OnStateChange: func(c breaker.Change) {
			fmt.Printf("%s: %v to %v, last failures %v\n", c.Name, c.From, c.To, c.Last)
			if c.To == breaker.Open {
				b.ResetStatus()
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket, err := b.Admit()
	if err != nil {
		fmt.Println(err)
		return
	}
	ticket.Done(breaker.Failure, errors.New("no route to host"))
	if _, err := b.Admit(); errors.Is(err, breaker.ErrOpen) {
		fmt.Println("refused")
	}
	// Output:
	// recipes: closed to open, last failures [no route to host]
	// recipes: open to closed, last failures []
	// refused
}

// New returns a breaker whose counters can be read. Upstreams that use the same breaker share
// its state.
func ExampleNew() {
	b, err := breaker.New(breaker.Config{Name: "kitchen"})
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", b)
	if err != nil {
		fmt.Println(err)
		return
	}
	menus, err := pillion.New("menus", b)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(text(http.StatusServiceUnavailable))}
	if err = fetch(client, "http://recipes/1"); err != nil {
		fmt.Println(err)
	}
	menu, err := pillion.Do(context.Background(), menus, func(context.Context) (string, error) {
		return "soup", nil
	})
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(menu)
	fmt.Printf("%v %+v\n", b.State(), b.Status())
	// Output:
	// 503
	// soup
	// closed {Success:1 Failure:1 Rejection:0 Timeout:0 Break:0 Dependency:0}
}

// The error lists each invalid field of a configuration.
func ExampleNew_errors() {
	_, err := breaker.New(breaker.Config{Threshold: 50, Period: 3})
	fmt.Println(err)
	// Output:
	// breaker: Config.Threshold: 50 is above 1; write a ratio such as 0.5, or breaker.Never for a circuit that never opens
	// breaker: Config.Period: 3ns is below 1ms; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 10s
}

// A breaker can guard work that is not a call of an upstream.
func ExampleBreaker_Admit() {
	b, err := breaker.New(breaker.Config{Name: "printer", NonBreakCount: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	printOut := func(work func() error) error {
		ticket, err := b.Admit()
		if err != nil {
			b.Record(breaker.Break) // Admit does not count its refusals
			return err
		}
		result := breaker.Failure // in case work panics
		defer func() { ticket.Done(result, err) }()
		if err = work(); err == nil {
			result = breaker.Success
		}
		return err
	}
	for range 3 {
		err := printOut(func() error { return errors.New("out of paper") })
		fmt.Println(errors.Is(err, breaker.ErrOpen), b.State())
	}
	fmt.Printf("%+v\n", b.Status())
	// Output:
	// false closed
	// false closed
	// true open
	// {Success:0 Failure:2 Rejection:0 Timeout:0 Break:1 Dependency:0}
}

// Record counts a result that the program learned in another way. The next call checks the
// counters.
func ExampleBreaker_Record() {
	b, err := breaker.New(breaker.Config{NonBreakCount: 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		b.Record(breaker.Timeout)
	}
	fmt.Println(b.State())
	if _, err := b.Admit(); errors.Is(err, breaker.ErrOpen) {
		fmt.Println(b.State())
	}
	// Output:
	// closed
	// open
}

// A program that knows that an upstream has recovered need not wait for a trial.
func ExampleBreaker_ResetStatus() {
	b, err := breaker.New(breaker.Config{NonBreakCount: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	b.Record(breaker.Failure)
	if _, err := b.Admit(); err != nil {
		fmt.Println(b.State())
	}
	b.ResetStatus()
	fmt.Printf("%v %+v\n", b.State(), b.Status())
	// Output:
	// open
	// closed {Success:0 Failure:0 Rejection:0 Timeout:0 Break:0 Dependency:0}
}

// The error of a refused call names the breaker, until when it refuses, and why.
func ExampleOpenError() {
	recipes, err := pillion.New("recipes", breaker.Config{NonBreakCount: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	statuses := []int{http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusOK}
	client := &http.Client{Transport: recipes.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		status := statuses[0]
		statuses = statuses[1:]
		return text(status)(req)
	}))}
	for range 3 {
		err = fetch(client, "http://recipes/1")
	}
	if refused, ok := errors.AsType[*breaker.OpenError](err); ok { // through the *url.Error of the client
		fmt.Println(refused.Name, "refuses until its sleep is over:", !refused.Until.IsZero())
		fmt.Println(refused.Status.Failure, "failures, newest first:", refused.Last)
	}
	// Output:
	// 502
	// 503
	// recipes refuses until its sleep is over: true
	// 2 failures, newest first: [status 503 status 502]
}

// A custom Classify can leave most outcomes to the default.
func ExampleClassify() {
	b, err := breaker.New(breaker.Config{Classify: func(o *policy.Outcome) breaker.Result {
		if o.Code == http.StatusTooManyRequests {
			return breaker.Rejection // at its limit: neither a success nor a failure
		}
		return breaker.Classify(o)
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", b)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(text(http.StatusTooManyRequests))}
	if err := fetch(client, "http://recipes/1"); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%+v\n", b.Status())
	// Output:
	// 429
	// {Success:0 Failure:0 Rejection:1 Timeout:0 Break:0 Dependency:0}
}

// Each host has a separate breaker: a host that is down does not affect the others.
func ExampleGroupConfig() {
	kitchens, err := pillion.New("kitchens", breaker.GroupConfig{
		Breaker: breaker.Config{NonBreakCount: 1},
		Key:     breaker.ByAuthority, // the default
		MaxKeys: 100,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: kitchens.Transport(roundTrip(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == "east" {
			return text(http.StatusServiceUnavailable)(req)
		}
		return text(http.StatusOK)(req)
	}))}
	for _, url := range []string{"http://east/1", "http://west/1", "http://east/2", "http://west/2"} {
		if err := fetch(client, url); errors.Is(err, breaker.ErrOpen) {
			fmt.Println("refused")
		} else if err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// 503
	// 200
	// refused
	// 200
}

// NewGroup returns a group whose breakers can be read, here one for each method.
func ExampleNewGroup() {
	group, err := breaker.NewGroup(breaker.GroupConfig{
		Breaker: breaker.Config{Name: "recipes"},
		Key:     func(c *policy.Call) string { return c.Request().Method },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", group)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(text(http.StatusOK))}
	if err := fetch(client, "http://recipes/1"); err != nil {
		fmt.Println(err)
	}
	group.Get(http.MethodPut).Record(breaker.Failure)
	for method, b := range group.All() {
		status := b.Status()
		fmt.Println(method, b.State(), status.Success, status.Failure)
	}
	// Output:
	// 200
	// PUT closed 0 1
	// GET closed 1 0
}

// A program can keep its own gobreaker and its settings. A two-step gobreaker counts a response
// when its body ends.
func ExampleFromGobreaker() {
	cb := gobreaker.NewTwoStepCircuitBreaker[*http.Response](gobreaker.Settings{
		Name:        "recipes",
		ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures == 2 },
		IsExcluded:  breaker.Excluded, // without it canceled calls open the gobreaker
	})
	b, err := breaker.FromGobreaker[*http.Response](cb)
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", b)
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(text(http.StatusServiceUnavailable))}
	for range 3 {
		if err := fetch(client, "http://recipes/1"); err != nil {
			fmt.Println(errors.Is(err, breaker.ErrOpen), errors.Is(err, gobreaker.ErrOpenState))
		}
	}
	fmt.Println(b.State(), b.Status().Failure)
	// Output:
	// 503
	// 503
	// true true
	// open 2
}

// GobreakerSettings returns the gobreaker settings that are closest to a Config.
func ExampleGobreakerSettings() {
	settings, err := breaker.GobreakerSettings(breaker.Config{Name: "recipes", Threshold: 0.25, NonBreakCount: 4})
	if err != nil {
		fmt.Println(err)
		return
	}
	settings.OnStateChange = func(name string, from, to gobreaker.State) {
		fmt.Printf("%s: %v to %v\n", name, from, to)
	}
	b, err := breaker.FromGobreaker[string](gobreaker.NewCircuitBreaker[string](settings))
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", b)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 4 {
		soup, err := pillion.Do(context.Background(), recipes, func(context.Context) (string, error) {
			if i == 3 {
				return "", errors.New("burnt")
			}
			return "soup", nil
		})
		fmt.Println(soup, err)
	}
	// Output:
	// soup <nil>
	// soup <nil>
	// soup <nil>
	// recipes: closed to open
	//  burnt
}

// Excluded can be part of a custom rule.
func ExampleExcluded() {
	errNotFound := errors.New("not found")
	settings := gobreaker.Settings{IsExcluded: func(err error) bool {
		return breaker.Excluded(err) || errors.Is(err, errNotFound)
	}}
	for _, err := range []error{context.Canceled, errNotFound, errors.New("burnt")} {
		fmt.Println(err, settings.IsExcluded(err))
	}
	// Output:
	// context canceled true
	// not found true
	// burnt false
}
