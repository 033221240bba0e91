package tracing

import (
	"context"
	"fmt"
	"net/http"
)

// check returns an error if a field has no usable Tracer.
func (t *Tracer) check(field string) error {
	switch {
	case t == nil:
		return fmt.Errorf("tracing: %s: it is nil; set it to the Tracer that New returned", field)
	case t.emitter == nil:
		return fmt.Errorf("tracing: %s: it was not made by New; set it to the Tracer that New returned", field)
	}
	return nil
}

// mustBeMade panics if t was not made by New.
func (t *Tracer) mustBeMade(method string) {
	if t == nil || t.emitter == nil {
		panic(t.check("Tracer." + method).Error())
	}
}

// canWait returns an error if method cannot wait for t.
func (t *Tracer) canWait(ctx context.Context, method string) error {
	if err := t.check("Tracer." + method); err != nil {
		return err
	}
	if ctx == nil {
		return fmt.Errorf("tracing: Tracer.%s: ctx is nil; use context.Background()", method)
	}
	return nil
}

// mustHave panics if ctx is nil.
func mustHave(ctx context.Context, function string) {
	if ctx == nil {
		panic("tracing: " + function + ": ctx is nil; use context.Background()")
	}
}

// mustBeWhole panics if a handler cannot serve r.
func mustBeWhole(w http.ResponseWriter, r *http.Request) {
	switch {
	case w == nil:
		panic("tracing: Tracer.Handler: the ResponseWriter is nil")
	case r == nil:
		panic("tracing: Tracer.Handler: the request is nil")
	}
}
