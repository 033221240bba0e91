package main

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

// TestRun runs the three services and compares the tree of their trace.
func TestRun(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), nil, &out); err != nil {
		t.Fatal(err)
	}
	if untidy := page.Untidy(out.String()); len(untidy) > 0 {
		t.Errorf("lines that are too wide or untidy: %q", untidy)
	}
	got := regexp.MustCompile(`\d+\.\dms`).ReplaceAllString(out.String(), "…")
	got = regexp.MustCompile(`1-[0-9a-f]{8}-[0-9a-f]{24}`).ReplaceAllString(got, "1-…")
	want := `GET /menu → 200 OK "soup for two"

trace 1-…
■ front GET 200 …
└─ recipe GET 200 attempts=2 …
   ├─ recipe (remote) GET 503 attempt=1 FAULT …
   │  └─ ■ recipe GET 503 FAULT …
   └─ recipe (remote) GET 200 attempt=2 …
      └─ ■ recipe GET 200 …
         ├─ user GET 200 …
         │  └─ user (remote) GET 200 attempt=1 …
         │     └─ ■ user GET 200 …
         └─ choose dish=soup …
` + legend
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}
