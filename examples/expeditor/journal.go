package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/pillion-go/pillion/command"
)

// journal keeps what the commands of one page did. The hooks that write into it run
// in the commands' goroutines.
type journal struct {
	told     sync.WaitGroup // of the ends: Get may return before the hooks have run
	mu       sync.Mutex
	attempts map[string]int    // guarded by mu
	causes   map[string]string // of fallbacks; guarded by mu
	ends     map[string]string // guarded by mu
}

func newJournal() *journal {
	return &journal{attempts: map[string]int{}, causes: map[string]string{}, ends: map[string]string{}}
}

func (j *journal) attempt(name string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.attempts[name]++
}

// watch has the journal told how a command ends.
func (j *journal) watch(name string, c *command.Command[string]) error {
	j.told.Add(1)
	return c.OnComplete(func(value string, err error) {
		defer j.told.Done()
		j.mu.Lock()
		defer j.mu.Unlock()
		j.ends[name] = value
		if err != nil {
			j.ends[name] = "failed: " + reason(err)
		}
	})
}

// fallback gives a command a value for the time that it fails, and has the journal
// told why it was needed.
func (j *journal) fallback(name string, c *command.Command[string], value string) error {
	return c.SetFallback(func(_ context.Context, err error) (string, error) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.causes[name] = reason(err)
		return value, nil
	})
}

// reason is an error in a few words.
func reason(err error) string {
	var open *command.CircuitBreakError
	var limit *command.TimeoutError
	switch {
	case errors.As(err, &open):
		return "refused, the circuit is open"
	case errors.As(err, &limit):
		return fmt.Sprintf("took longer than %v", limit.Limit)
	}
	return err.Error()
}

// lines are a line for each command.
func (j *journal) lines() string {
	j.told.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, name := range []string{"recipe", "author", "reviews", "related", "price"} {
		fmt.Fprintf(&b, "         %-8s %s", name, j.ends[name])
		if n := j.attempts[name]; n > 1 {
			fmt.Fprintf(&b, " (after %d attempts)", n)
		}
		if cause := j.causes[name]; cause != "" {
			fmt.Fprintf(&b, " (fallback: %s)", cause)
		}
		b.WriteString("\n")
	}
	return b.String()
}
