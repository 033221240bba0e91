package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-go/pillion/command"
	"github.com/pillion-go/pillion/examples/internal/page"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-pages", "24", "-every", "10ms"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if untidy := page.Untidy(text); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	for _, want := range []string{
		"braised leeks by Ann", "4.5 stars", "for 3.80", "not yet reviewed",
		"  503*  ", "  refused*  ", "  timeout*  ", "  ok, 2 attempts  ", "  OPEN\n",
		"--- the upstream of the reviews goes down ---", "--- the upstream of the reviews recovers ---",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got no %q in\n%s", want, text)
		}
	}
	_, last, _ := strings.Cut(text, "results since")
	if !strings.Contains(last, "reviews  closed") {
		t.Errorf("got %s, want the circuit to have closed again", last)
	}
}

// TestRun_lines has one line for each page, with the words that the journal knows.
func TestRun_lines(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-pages", "24", "-every", "10ms"}, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	_, lines, ok := strings.Cut(out.String(), "\npage      took  recipe  author  reviews   related   price           circuit\n")
	if !ok {
		t.Fatalf("got no header in\n%s", out.String())
	}
	lines, _, _ = strings.Cut(lines, "\n\n")
	line := regexp.MustCompile(`^ *(\d+) +[\d.]+(µs|ms|s)  ` +
		`(ok|\w+) +(ok|\w+) +(ok|503\*|refused\*|timeout\*) +(ok|timeout\*) +(ok|ok, [23] attempts|\w+) +(closed|OPEN)$`)
	pages := 0
	for text := range strings.SplitSeq(lines, "\n") {
		if strings.HasPrefix(text, "---") {
			continue
		}
		pages++
		if m := line.FindStringSubmatch(text); m == nil || m[1] != strconv.Itoa(pages) {
			t.Errorf("got %q, want the line of page %d", text, pages)
		}
	}
	if pages != 24 {
		t.Errorf("got %d pages, want 24", pages)
	}
}

func TestReason(t *testing.T) {
	for want, err := range map[string]error{
		"refused": &command.CircuitBreakError{},
		"timeout": &command.TimeoutError{Limit: time.Second},
		"502":     fmt.Errorf("price: %w", &statusError{status: 502}),
		"failed":  io.ErrUnexpectedEOF,
	} {
		if got := reason(err); got != want {
			t.Errorf("%v: got %q, want %q", err, got, want)
		}
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
