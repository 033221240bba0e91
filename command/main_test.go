package command

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

// TestMain keeps what the tests panic with out of their log.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}
