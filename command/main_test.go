package command

import (
	"log/slog"
	"testing"

	"go.uber.org/goleak"
)

// TestMain keeps the panics of the tests out of their log.
func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	goleak.VerifyTestMain(m)
}
