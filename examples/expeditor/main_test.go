package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-pages", "24", "-every", "10ms"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"page 24", "braised leeks by Ann", "4.5 stars", "for 3.80",
		"(fallback: status 503: the database is away)", "(fallback: refused, the circuit is open)",
		"(fallback: took longer than 20ms)", "(after 2 attempts)", "reviews OPEN",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got no %q in\n%s", want, text)
		}
	}
	if n := strings.Count(text, "\npage "); n != 24 && n != 23 {
		t.Errorf("got %d pages, want 24", n)
	}
	_, last, _ := strings.Cut(text, "in all")
	if !strings.Contains(last, "reviews closed") {
		t.Errorf("got %s, want the circuit to have closed again", last)
	}
}

func TestRun_badFlags(t *testing.T) {
	for _, args := range [][]string{{"-pages", "2"}, {"-every", "0"}, {"-nonsense"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%v: got no error", args)
		}
	}
}

func TestRun_interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, nil, io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the interruption", err)
	}
}
