package report_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/pillion-go/pillion/internal/report"
)

func TestPanic(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(before)
	func() {
		defer func() { report.Panic("the test's own function", recover()) }()
		panic("soup")
	}()
	for _, want := range []string{"level=ERROR", `"recovered from a panic in the test's own function"`, "panic=soup", "report_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("got %q, want it to contain %q", log.String(), want)
		}
	}
}
