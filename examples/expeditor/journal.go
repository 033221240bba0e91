package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/pillion-go/pillion/command"
)

// journal records what the commands of one page did. The hooks that write to it run
// in the commands' goroutines.
type journal struct {
	ended    sync.WaitGroup // Get may return before the hooks have run
	mu       sync.Mutex
	attempts map[string]int    // guarded by mu
	causes   map[string]string // of fallbacks; guarded by mu
	failures map[string]string // guarded by mu
}

func newJournal() *journal {
	return &journal{attempts: map[string]int{}, causes: map[string]string{}, failures: map[string]string{}}
}

func (j *journal) attempt(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.attempts[name]++
}

// watch records how a command ends.
func (j *journal) watch(name string, c *command.Command[string]) error {
	j.ended.Add(1)
	return c.OnComplete(func(_ string, err error) {
		defer j.ended.Done()
		j.mu.Lock()
		defer j.mu.Unlock()
		if err != nil {
			j.failures[name] = reason(err)
		}
	})
}

// fallback gives a command a value to use when it fails, and records why it was used.
func (j *journal) fallback(name string, c *command.Command[string], value string) error {
	return c.SetFallback(func(_ context.Context, err error) (string, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.causes[name] = reason(err)
		return value, nil
	})
}

// reason is an error in one word.
func reason(err error) string {
	var open *command.CircuitBreakError
	var limit *command.TimeoutError
	var status *statusError
	switch {
	case errors.As(err, &open):
		return "refused"
	case errors.As(err, &limit):
		return "timeout"
	case errors.As(err, &status):
		return strconv.Itoa(status.status)
	}
	return "failed"
}

// word says what a command did: ok, or why it failed, with a star if its fallback's
// value was used.
func (j *journal) word(name string) string {
	j.ended.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.causes[name] != "":
		return j.causes[name] + "*"
	case j.failures[name] != "":
		return j.failures[name]
	case j.attempts[name] > 1:
		return fmt.Sprintf("ok, %d attempts", j.attempts[name])
	}
	return "ok"
}

// commands are those of a page, in the order of the columns.
var commands = []string{"recipe", "author", "reviews", "related", "price"}

const columns = "%4v  %8v  %-7v %-7v %-9v %-9v %-15v %v\n"

// header is the line above the pages.
func header() string {
	return fmt.Sprintf(columns, "page", "took", commands[0], commands[1], commands[2], commands[3], commands[4], "circuit")
}

// line is the line of page n.
func (j *journal) line(n int, took time.Duration, circuit string) string {
	cells := []any{n, took.Round(100 * time.Microsecond)}
	for _, name := range commands {
		cells = append(cells, j.word(name))
	}
	return fmt.Sprintf(columns, append(cells, circuit)...)
}

// legend says what the words mean.
const legend = `503*      status 503; the value of the fallback was used
timeout*  no response within the timeout; the value of the fallback was used
refused*  not called, the circuit is open; the value of the fallback was used
circuit   the state of the reviews' circuit after the page
`
