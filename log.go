package pillion

import (
	"context"
	"log/slog"

	"github.com/pillion-go/pillion/policy"
)

// Log returns a Listener that writes to logger: the end of each call at level Info, or at Warn if
// the call failed or was refused, and all other events at Debug. The attributes have the names of the
// fields in Envoy's access log. Those that are empty are left out, and for a function the response
// code. A nil logger is silent.
func Log(logger *slog.Logger) Listener {
	if logger == nil {
		return nil
	}
	return func(ctx context.Context, e policy.Event) {
		level := slog.LevelDebug
		if e.Kind == policy.EventEnd {
			level = slog.LevelInfo
			if e.Outcome.Has(policy.Failure | policy.Refused) {
				level = slog.LevelWarn
			}
		}
		if logger.Enabled(ctx, level) {
			logger.LogAttrs(ctx, level, "call "+e.Kind.String(), attributes(e)...)
		}
	}
}

// attributes describes the event with the field names of Envoy's access log.
func attributes(e policy.Event) []slog.Attr {
	r := e.Call.Request()
	attrs := []slog.Attr{slog.String("upstream_cluster", e.Call.Upstream())}
	attrs = appendText(attrs, "method", r.Method)
	attrs = appendText(attrs, "path", r.Path)
	if e.Kind == policy.EventEnd {
		attrs = append(attrs, slog.Int("upstream_request_attempt_count", e.Call.Attempts()))
	} else {
		attrs = append(attrs, slog.Int("attempt", e.Call.Attempt()))
	}
	if e.Kind == policy.EventRetryScheduled || e.Kind == policy.EventRetry || e.Kind == policy.EventDelayed {
		attrs = append(attrs, slog.Duration("back_off", e.BackOff.Wait))
	}
	if e.Kind == policy.EventAttempt {
		return attrs
	}
	if r.Protocol != policy.ProtocolFunc {
		attrs = append(attrs, slog.Int("response_code", e.Outcome.Code))
	}
	attrs = append(attrs, slog.String("response_flags", e.Outcome.Flags.String()))
	attrs = appendText(attrs, "response_code_details", e.Outcome.Detail.String())
	if e.Call.RetryOverflow() {
		attrs = append(attrs, slog.Bool("retry_overflow", true))
	}
	if e.Outcome.Err != nil {
		attrs = append(attrs, slog.Any("error", e.Outcome.Err))
	}
	return attrs
}

// appendText appends an attribute, unless it is empty.
func appendText(attrs []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attrs
	}
	return append(attrs, slog.String(key, value))
}
