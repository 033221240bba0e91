package command_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
)

// The examples of the gem's README come first, in its order, then those of its methods and
// options. docs/expeditor.md shows each beside its Ruby form.

func ExampleCommand_Start() {
	ctx := context.Background()
	command1 := command.New(command.Config{}, func(context.Context) (string, error) {
		return "one", nil
	})
	command2 := command.New(command.Config{}, func(context.Context) (int, error) {
		return 2, nil
	})

	if err := errors.Join(
		command1.Start(ctx), // non blocking
		command2.Start(ctx), // non blocking
	); err != nil {
		fmt.Println(err)
	}

	fmt.Println(command1.Get(ctx)) // waits until command1 has ended
	fmt.Println(command2.Get(ctx)) // waits until command2 has ended
	// Output:
	// one <nil>
	// 2 <nil>
}

func ExampleNew2() {
	ctx := context.Background()
	command1 := command.New(command.Config{}, func(context.Context) (string, error) {
		return "answer", nil
	})
	command2 := command.New(command.Config{}, func(context.Context) (int, error) {
		return 42, nil
	})
	command3 := command.New2(command.Config{}, command1, command2,
		func(_ context.Context, val1 string, val2 int) (string, error) {
			return fmt.Sprint(val1, ": ", val2), nil
		})

	// command1 and command2 are started and run at the same time, command3 waits for both.
	if err := command3.Start(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(command3.Get(ctx))
	// Output: answer: 42 <nil>
}

func ExampleCommand_SetFallback() {
	ctx := context.Background()
	c := command.New(command.Config{}, func(context.Context) (string, error) {
		return "", errors.New("something failed")
	})
	if err := c.SetFallback(func(_ context.Context, err error) (string, error) {
		fmt.Println("log:", err)
		return "default", nil
	}); err != nil {
		fmt.Println(err)
	}

	if err := c.Start(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(c.Get(ctx))
	// Output:
	// log: something failed
	// default <nil>
}

func ExampleService_SetFallbackEnabled() {
	ctx := context.Background()
	service, err := command.NewService(command.ServiceConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	service.SetFallbackEnabled(false) // in a test: Get returns the failures

	c := command.New(command.Config{Service: service}, func(context.Context) (string, error) {
		return "", errors.New("something failed")
	})
	_ = c.SetFallback(func(context.Context, error) (string, error) { return "default", nil })
	_ = c.Start(ctx)
	_, err = c.Get(ctx)
	fmt.Println(err)
	// Output: something failed
}

func ExampleConfig_timeout() {
	ctx := context.Background()
	c := command.Start(ctx, command.Config{Timeout: time.Millisecond},
		func(ctx context.Context) (string, error) {
			<-ctx.Done() // a slow upstream
			return "", ctx.Err()
		})

	_, err := c.Get(ctx)
	var limit *command.TimeoutError
	fmt.Println(errors.As(err, &limit), errors.Is(err, context.DeadlineExceeded))
	// Output: true true
}

func ExampleCommand_StartWithRetry() {
	ctx := context.Background()
	attempts := 0
	c := command.New(command.Config{}, func(context.Context) (string, error) {
		if attempts++; attempts < 3 {
			return "", errors.New("not yet")
		}
		return "done", nil
	})

	if err := c.StartWithRetry(ctx, retry.Retryable{
		Tries: 3,
		Sleep: time.Millisecond,
		On:    []retry.Match{func(err error) bool { return err.Error() == "not yet" }},
	}); err != nil {
		fmt.Println(err)
	}
	v, err := c.Get(ctx)
	fmt.Println(v, err, "after", attempts, "attempts")
	// Output: done <nil> after 3 attempts
}

func ExampleNewService() {
	ctx := context.Background()
	executor, err := command.NewPool(command.PoolConfig{
		MaxThreads: 5,
		MaxQueue:   100,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	service, err := command.NewService(command.ServiceConfig{Executor: executor})
	if err != nil {
		fmt.Println(err)
		return
	}

	c := command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) {
		return 1, nil
	})
	if err := c.Wait(ctx); err != nil {
		fmt.Println(err)
	}

	fmt.Printf("%+v\n", service.Status())
	service.ResetStatus() // resets the counters, and closes the circuit
	fmt.Printf("%+v\n", service.Status())
	// Output:
	// {Success:1 Failure:0 Rejection:0 Timeout:0 Break:0 Dependency:0}
	// {Success:0 Failure:0 Rejection:0 Timeout:0 Break:0 Dependency:0}
}

func ExampleServiceConfig() {
	ctx := context.Background()
	service, err := command.NewService(command.ServiceConfig{
		Threshold:     0.5,              // opens at this ratio of failures or above it
		Sleep:         time.Second,      // then admits no call for this long, and one each time after
		NonBreakCount: 20,               // needs this many results to open
		Period:        10 * time.Second, // only results of the last ten seconds count
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	for range 20 {
		_, _ = command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) {
			return 0, errors.New("down")
		}).Get(ctx)
	}
	_, err = command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) {
		return 1, nil
	}).Get(ctx)
	var open *command.CircuitBreakError
	fmt.Println(errors.As(err, &open), service.Breaking(), service.Status().Break)
	// Output: true true 1
}

func ExampleCommand_Run() {
	ctx := context.Background()
	command1 := command.New(command.Config{}, func(context.Context) (string, error) {
		fmt.Println("working")
		return "one", nil
	})

	if err := command1.Run(ctx); err != nil { // blocking
		fmt.Println(err)
	}
	fmt.Println("started")
	fmt.Println(command1.Get(ctx))
	// Output:
	// working
	// started
	// one <nil>
}

// The gem's examples/example.rb, with milliseconds for its tenths of seconds.
func Example() {
	ctx := context.Background()
	executor, err := command.NewPool(command.PoolConfig{MaxThreads: 5})
	if err != nil {
		fmt.Println(err)
		return
	}
	service, err := command.NewService(command.ServiceConfig{
		Executor:      executor,
		NonBreakCount: 10,
		Threshold:     0.5,
	})
	if err != nil {
		fmt.Println(err)
		return
	}

	command1 := command.New(command.Config{Service: service}, func(context.Context) (string, error) {
		return "command1", nil
	})
	command2 := command.New(command.Config{Service: service, Timeout: 5 * time.Millisecond},
		func(ctx context.Context) (string, error) {
			<-ctx.Done() // too slow
			return "command2", nil
		})
	command3 := command.New2(command.Config{Service: service}, command1, command2,
		func(_ context.Context, v1, v2 string) (string, error) {
			return v1 + ", " + v2, nil
		})
	command4 := command.New2(command.Config{Service: service, Timeout: time.Minute}, command2, command3,
		func(_ context.Context, v2, v3 string) (string, error) {
			return v2 + ", " + v3, nil
		})
	if err := errors.Join(
		command2.SetFallback(func(context.Context, error) (string, error) { return "command2 fallback", nil }),
		command4.SetFallback(func(context.Context, error) (string, error) { return "command4 fallback", nil }),
		command4.Start(ctx), // starts the others too; it does not wait
	); err != nil {
		fmt.Println(err)
	}

	fmt.Println(command1.Get(ctx))
	fmt.Println(command2.Get(ctx))
	fmt.Println(command4.Get(ctx))
	fmt.Println(command3.Get(ctx))
	fmt.Println(service.Shutdown(ctx))
	// Output:
	// command1 <nil>
	// command2 fallback <nil>
	// command2 fallback, command1, command2 fallback <nil>
	// command1, command2 fallback <nil>
	// <nil>
}

func ExampleStart() {
	ctx := context.Background()
	c := command.Start(ctx, command.Config{}, func(context.Context) (int, error) { return 1, nil })
	fmt.Println(c.Started())
	fmt.Println(c.Get(ctx))
	// Output:
	// true
	// 1 <nil>
}

func ExampleConst() {
	ctx := context.Background()
	c := command.Const(5)
	fmt.Println(c.Started())
	fmt.Println(c.Get(ctx))
	// Output:
	// true
	// 5 <nil>
}

func ExampleChain() {
	ctx := context.Background()
	recipe := command.New(command.Config{}, func(context.Context) (string, error) { return "leeks", nil })
	author := command.Chain(command.Config{}, recipe, func(_ context.Context, recipe string) (string, error) {
		return "the author of " + recipe, nil
	})
	if err := author.Start(ctx); err != nil { // starts recipe too
		fmt.Println(err)
	}
	fmt.Println(author.Get(ctx))
	// Output: the author of leeks <nil>
}

func ExampleNew3() {
	ctx := context.Background()
	page := command.New3(command.Config{}, command.Const("leeks"), command.Const(4), command.Const(true),
		func(_ context.Context, recipe string, servings int, vegan bool) (string, error) {
			return fmt.Sprint(recipe, " for ", servings, ", vegan: ", vegan), nil
		})
	if err := page.Run(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(page.Get(ctx))
	// Output: leeks for 4, vegan: true <nil>
}

func ExampleNewAll() {
	ctx := context.Background()
	var prices []*command.Command[int]
	for _, price := range []int{3, 4, 5} {
		prices = append(prices, command.New(command.Config{}, func(context.Context) (int, error) { return price, nil }))
	}
	total := command.NewAll(command.Config{}, prices, func(_ context.Context, prices []int) (int, error) {
		sum := 0
		for _, p := range prices {
			sum += p
		}
		return sum, nil
	})
	if err := total.Start(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(total.Get(ctx))
	// Output: 12 <nil>
}

func ExampleCommand_After() {
	ctx := context.Background()
	recipe, servings := command.Const("leeks"), command.New(command.Config{}, func(context.Context) (int, error) {
		return 4, nil
	})
	author, vegan := command.Const("Ann"), command.Const(true)
	page := command.New(command.Config{}, func(ctx context.Context) (string, error) {
		n, err := servings.Get(ctx) // it has ended successfully
		if err != nil {
			return "", err
		}
		name, err := author.Get(ctx)
		return fmt.Sprintf("%d servings by %s", n, name), err
	})
	if err := page.After(recipe, servings, author, vegan); err != nil {
		fmt.Println(err)
	}
	fmt.Println(servings.After(page))
	if err := page.Start(ctx); err != nil {
		fmt.Println(err)
	}
	fmt.Println(page.Get(ctx))
	// Output:
	// command: a cycle of 2 commands that wait for each other
	// 4 servings by Ann <nil>
}

func ExampleCommand_OnComplete() {
	ctx := context.Background()
	c := command.New(command.Config{}, func(context.Context) (int, error) { return 42, nil })
	if err := errors.Join(
		c.OnComplete(func(value int, err error) { fmt.Println("complete:", err == nil, value, err) }),
		c.OnSuccess(func(value int) { fmt.Println("success:", value) }),
		c.OnFailure(func(err error) { fmt.Println("failure:", err) }),
		c.Run(ctx),
	); err != nil {
		fmt.Println(err)
	}
	// Output:
	// complete: true 42 <nil>
	// success: 42
}

func ExampleCommand_OnFailure() {
	ctx := context.Background()
	c := command.New(command.Config{}, func(context.Context) (int, error) { return 0, errors.New("down") })
	if err := errors.Join(
		c.OnFailure(func(err error) { fmt.Println("failure:", err) }),
		c.OnSuccess(func(value int) { fmt.Println("success:", value) }),
		c.Run(ctx),
	); err != nil {
		fmt.Println(err)
	}
	// Output: failure: down
}

func ExampleCommand_OnSuccess() {
	ctx := context.Background()
	c := command.Const(42)
	if err := c.OnSuccess(func(value int) { fmt.Println("success:", value) }); err != nil { // immediately
		fmt.Println(err)
	}
	fmt.Println(c.Wait(ctx))
	// Output:
	// success: 42
	// <nil>
}

func ExampleConfig_hookPanic() {
	ctx := context.Background()
	c := command.New(command.Config{
		HookPanic: func(p *command.PanicError) { fmt.Println("a hook panicked:", p.Value) },
	}, func(context.Context) (int, error) { return 42, nil })
	if err := errors.Join(
		c.OnSuccess(func(int) { panic("oh") }),
		c.Run(ctx),
	); err != nil {
		fmt.Println(err)
	}
	fmt.Println(c.Get(ctx))
	// Output:
	// a hook panicked: oh
	// 42 <nil>
}

func ExampleAllow() {
	service, err := command.NewService(command.ServiceConfig{NonBreakCount: 2})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(command.Allow(service, func() (int, error) { return 3, nil }))

	service.Record(breaker.Failure) // Ruby: service.failure
	service.Record(breaker.Failure)
	_, err = command.Allow(service, func() (int, error) { return 3, nil })
	fmt.Println(errors.Is(err, breaker.ErrOpen), service.Breaking(), service.Status().Break)
	// Output:
	// 3 <nil>
	// true true 0
}

func ExampleCommand_RunWithRetry() {
	ctx := context.Background()
	errTimeout, errDeleted := errors.New("temporary: no response"), errors.New("deleted")
	results := []error{errTimeout, errTimeout, errDeleted}
	c := command.New(command.Config{}, func(context.Context) (int, error) {
		err := results[0]
		results = results[1:]
		return 0, err
	})
	err := c.RunWithRetry(ctx, retry.Retryable{
		Tries: retry.Unlimited,
		SleepFunc: func(retry int) time.Duration { // a function of the retry's number, from zero
			return time.Duration(retry+1) * time.Microsecond
		},
		On:       []retry.Match{retry.Is(errTimeout), retry.As[*http.MaxBytesError]()},
		Not:      []retry.Match{retry.Is(breaker.ErrOpen)}, // do not retry when the circuit is open
		Matching: []retry.Pattern{retry.Substring("temporary"), regexp.MustCompile("^try again")},
		ExceptionCB: func(err error) { // after the wait
			fmt.Println("retrying after", err)
		},
		LogMethod: func(retries int, _ error) { fmt.Println("retry", retries) },
		Ensure:    func(retries int) { fmt.Println("retries in all:", retries) },
	})
	if err != nil {
		fmt.Println(err)
	}
	_, err = c.Get(ctx)
	fmt.Println(err)
	// Output:
	// retrying after temporary: no response
	// retry 1
	// retrying after temporary: no response
	// retry 2
	// retries in all: 2
	// deleted
}

func ExampleParseRetry() {
	options, err := command.ParseRetry(map[string]any{ // as from a YAML file
		"tries": 3, "sleep": 0.5, "matching": []any{"timeout", "reset"},
	})
	fmt.Println(options.Tries, options.Sleep, err)

	_, err = command.ParseRetry(map[string]any{"tires": 3})
	fmt.Println(err)
	// Output:
	// 3 500ms <nil>
	// command: invalid: retry option "tires" is unknown
}

func ExampleCommand_Get_errors() {
	ctx := context.Background()
	c := command.Start(ctx, command.Config{}, func(context.Context) (int, error) { panic("oh") })
	_, err := c.Get(ctx)

	var (
		dependency *command.DependencyError
		rejected   *command.RejectedError
		open       *command.CircuitBreakError
		limit      *command.TimeoutError
		panicked   *command.PanicError
	)
	switch {
	case errors.As(err, &dependency): // first: it wraps the error of the dependency
		fmt.Println("a dependency failed:", dependency.Err)
	case errors.As(err, &rejected):
		fmt.Println("not even queued:", rejected.Reason)
	case errors.As(err, &open):
		fmt.Println("the circuit is open until", open.Until)
	case errors.As(err, &limit):
		fmt.Println("took longer than", limit.Limit)
	case errors.As(err, &panicked):
		fmt.Println("panicked:", panicked.Value)
	case errors.Is(err, command.ErrNotStarted), errors.Is(err, command.ErrInvalid):
		fmt.Println("my own mistake:", err)
	}
	// Output: panicked: oh
}

func ExampleNewPool() {
	ctx := context.Background()
	pool, err := command.NewPool(command.PoolConfig{MaxThreads: 1, MaxQueue: command.Zero, Overflow: command.Abort})
	if err != nil {
		fmt.Println(err)
		return
	}
	service, err := command.NewService(command.ServiceConfig{Name: "recipes", Executor: pool})
	if err != nil {
		fmt.Println(err)
		return
	}
	finish := make(chan struct{})
	first := command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) {
		<-finish
		return 1, nil
	})
	_, err = command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) {
		return 2, nil
	}).Get(ctx)
	fmt.Println(err)
	close(finish)
	fmt.Println(first.Get(ctx))
	// Output:
	// command: recipes: rejected: the pool is full
	// 1 <nil>
}

func ExampleService_Shutdown() {
	ctx := context.Background()
	service, err := command.NewService(command.ServiceConfig{Name: "recipes"})
	if err != nil {
		fmt.Println(err)
		return
	}
	c := command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) { return 1, nil })

	ending, cancel := context.WithTimeout(ctx, 10*time.Second) // wait at most this long
	defer cancel()
	fmt.Println(service.Shutdown(ending))
	fmt.Println(c.Get(ctx))
	_, err = command.Start(ctx, command.Config{Service: service}, func(context.Context) (int, error) { return 1, nil }).Get(ctx)
	fmt.Println(err)
	// Output:
	// <nil>
	// 1 <nil>
	// command: recipes: rejected: the pool is shut down
}

func ExampleService_Breaker() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "down", http.StatusServiceUnavailable)
	}))
	defer server.Close()
	service, err := command.NewService(command.ServiceConfig{Name: "recipes"})
	if err != nil {
		fmt.Println(err)
		return
	}
	recipes, err := pillion.New("recipes", timeout.Config{Total: time.Minute}, service.Breaker())
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: recipes.Transport(nil)}
	resp, err := client.Get(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()

	fmt.Println(service.Status().Failure)
	// Output: 1
}

func ExampleDefaultService() {
	ctx := context.Background()
	c := command.Start(ctx, command.Config{}, func(context.Context) (int, error) { return 0, errors.New("down") })
	_, err := c.Get(ctx)
	fmt.Println(err, command.DefaultService().Breaking(), command.DefaultService().Status().Failure)
	// Output: down false 0
}

func ExampleClassify() {
	classify := func(err error) breaker.Result {
		if errors.Is(err, http.ErrNoLocation) {
			return breaker.Success // not a failure of the upstream
		}
		return command.Classify(err)
	}
	_, err := command.NewService(command.ServiceConfig{Classify: classify})
	fmt.Println(err, classify(http.ErrNoLocation), classify(context.DeadlineExceeded))
	// Output: <nil> success timeout
}
