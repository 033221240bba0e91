package respwriter

import (
	"io"
	"net/http"
)

//go:generate go run generate.go

// ability is a set of abilities that handlers detect by a type assertion.
type ability uint8

const (
	flushes ability = 1 << iota
	hijacks
	pushes
	sends
	notifies
)

// abilities returns the abilities of w.
func abilities(w http.ResponseWriter) (a ability) {
	if _, ok := w.(http.Flusher); ok {
		a |= flushes
	}
	if _, ok := w.(http.Hijacker); ok {
		a |= hijacks
	}
	if _, ok := w.(http.Pusher); ok {
		a |= pushes
	}
	if _, ok := w.(io.ReaderFrom); ok {
		a |= sends
	}
	if _, ok := w.(http.CloseNotifier); ok { //nolint:staticcheck // frameworks still use it
		a |= notifies
	}
	return a
}

// Shaped returns the [http.ResponseWriter] for the handler. It has exactly the abilities of the
// wrapped writer. It costs one allocation.
func (w *Writer) Shaped() http.ResponseWriter { return shapes[abilities(w.wrapped)]((*view)(w)) }
