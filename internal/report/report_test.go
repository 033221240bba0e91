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
		defer func() { report.Panic("a function of the test", recover()) }()
		panic("soup")
	}()
	for _, want := range []string{"level=ERROR", `"recovered from a panic in a function of the test"`, "panic=soup", "report_test.go"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("got %q, want it to contain %q", log.String(), want)
		}
	}
}
