package page_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion/examples/internal/page"
)

func TestTable(t *testing.T) {
	var b strings.Builder
	err := page.Table(&b, []page.Row{
		{"", "plain", "µs"},
		{"calls", "4000", "4", ""},
		{},
		{"a longer name", "1"},
	})
	want := "" +
		"               plain  µs\n" +
		"calls           4000   4\n" +
		"\n" +
		"a longer name      1\n"
	if diff := cmp.Diff(want, b.String()); diff != "" || err != nil {
		t.Errorf("error %v, table (-want +got):\n%s", err, diff)
	}
}

func TestTable_error(t *testing.T) {
	if err := page.Table(broken{}, []page.Row{{"a"}}); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want the writer's error", err)
	}
}

func TestPercent(t *testing.T) {
	for want, n := range map[string][2]int{"33.3 %": {1, 3}, "100.0 %": {4, 4}, "0.0 %": {0, 4}, "-": {0, 0}} {
		if got := page.Percent(n[0], n[1]); got != want {
			t.Errorf("%d of %d: got %q, want %q", n[0], n[1], got, want)
		}
	}
}

var errBroken = errors.New("broken")

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

func TestUntidy(t *testing.T) {
	wide := strings.Repeat("µ", 80)
	got := page.Untidy("fine\n" + wide + "\n\n" + wide + "µ\nends in a space \na\ttab\n\r\033[Kcleared\n")
	want := []string{wide + "µ", "ends in a space ", "a\ttab", "\r\033[Kcleared"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
