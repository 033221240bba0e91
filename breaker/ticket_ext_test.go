package breaker_test

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/pillion-go/pillion/breaker"
)

// TestTicket_doneTwice checks that only the first Done counts.
func TestTicket_doneTwice(t *testing.T) {
	all := []breaker.Result{breaker.Success, breaker.Failure, breaker.Timeout, breaker.Ignored}
	for _, first := range all {
		for _, second := range all {
			b := newBreaker(t, breaker.Config{})
			once, err := b.Admit()
			if err != nil {
				t.Fatal(err)
			}
			once.Done(first, errBoom)
			want := b.Status()
			once.Done(second, errBoom)
			once.Done(second, nil)
			wantStatus(t, b, want)
		}
	}
}

// TestTicket_doneTwiceOfATrial checks that a second Done neither closes the circuit nor counts.
func TestTicket_doneTwiceOfATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(t, breaker.Config{NonBreakCount: 1})
		open(t, b, 1)
		time.Sleep(time.Second + 1)
		failed, err := b.Admit()
		if err != nil || !failed.Trial() {
			t.Fatalf("got trial %t and error %v, want a trial", failed.Trial(), err)
		}
		failed.Done(breaker.Failure, errBoom)
		failed.Done(breaker.Success, nil)
		wantState(t, b, breaker.Open)
		wantStatus(t, b, breaker.Status{Failure: 2})
	})
}

// TestTicket_doneConcurrently ends one call from many goroutines.
func TestTicket_doneConcurrently(t *testing.T) {
	b := newBreaker(t, breaker.Config{})
	ticket, err := b.Admit()
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() { ticket.Done(breaker.Failure, errBoom) })
	}
	group.Wait()
	wantStatus(t, b, breaker.Status{Failure: 1})
}

// TestTicket_refused checks that the ticket of a refused call counts nothing.
func TestTicket_refused(t *testing.T) {
	b := newBreaker(t, breaker.Config{NonBreakCount: 1})
	open(t, b, 1)
	ticket, err := b.Admit()
	if !errors.Is(err, breaker.ErrOpen) || ticket.Trial() {
		t.Fatalf("got trial %t and error %v, want a refusal", ticket.Trial(), err)
	}
	ticket.Done(breaker.Success, nil)
	wantState(t, b, breaker.Open)
	wantStatus(t, b, breaker.Status{Failure: 1})
}

// TestTicket_ofAGobreaker checks that a second Done does not reach a two-step gobreaker.
func TestTicket_ofAGobreaker(t *testing.T) {
	cb := gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{})
	b, err := breaker.FromGobreaker[any](cb)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := b.Admit()
	if err != nil {
		t.Fatal(err)
	}
	ticket.Done(breaker.Success, nil)
	ticket.Done(breaker.Failure, errBoom)
	if got := cb.Counts(); got.TotalSuccesses != 1 || got.TotalFailures != 0 {
		t.Errorf("got %+v, want one success", got)
	}
	wantStatus(t, b, breaker.Status{Success: 1})
}

// TestAdmitsByHand checks which breakers can admit calls and which refuse all calls.
func TestAdmitsByHand(t *testing.T) {
	plain, err := breaker.FromGobreaker[any](gobreaker.NewCircuitBreaker[any](gobreaker.Settings{}))
	if err != nil {
		t.Fatal(err)
	}
	twoStep, err := breaker.FromGobreaker[any](gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{}))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		breaker *breaker.Breaker
		want    bool
	}{
		"made by New": {newBreaker(t, breaker.Config{}), true},
		"two-step":    {twoStep, true},
		"plain":       {plain, false},
		"zero":        {&breaker.Breaker{}, false},
		"nil":         {nil, false},
	} {
		ticket, err := tt.breaker.Admit()
		if got := tt.breaker.AdmitsByHand(); got != tt.want || (err == nil) != tt.want {
			t.Errorf("%s: got %t and error %v from Admit, want %t", name, got, err, tt.want)
		}
		ticket.Done(breaker.Success, nil)
	}
}

// TestNotMade_byHand checks that a Breaker not made by a constructor refuses calls and does nothing
// else.
func TestNotMade_byHand(t *testing.T) {
	for name, b := range map[string]*breaker.Breaker{"nil": nil, "zero": {}} {
		_, err := b.Admit()
		if want := "breaker: circuit open: breaker: a *Breaker was not made by New or FromGobreaker"; err == nil || err.Error() != want {
			t.Errorf("%s: got error %v, want %s", name, err, want)
		}
		b.Record(breaker.Failure)
		b.ResetStatus()
		wantStatus(t, b, breaker.Status{})
		wantState(t, b, breaker.Closed)
	}
	for name, g := range map[string]*breaker.Group{"nil": nil, "zero": {}} {
		for range g.All() {
			t.Errorf("%s: got a breaker of a group not made by NewGroup, want none", name)
		}
		func() {
			defer func() {
				err, _ := recover().(error)
				if want := "breaker: a *Group was not made by NewGroup"; err == nil || err.Error() != want {
					t.Errorf("%s: got panic %v, want %s", name, err, want)
				}
			}()
			g.Get("a")
		}()
	}
}
