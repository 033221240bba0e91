package metrics

import (
	"context"
	"io"
	"math"
	"strconv"
)

// chunk is the size of the buffer, in bytes, at which a part of a page is sent.
const chunk = 32 << 10

// writer sends a page in chunks, so that a large page needs no more memory. After an error it
// discards the rest; ok reports that.
type writer struct {
	ctx  context.Context //nolint:containedctx // of the request, for the duration of a page
	to   io.Writer
	buf  []byte
	bins []bin // buffer for reading histograms
	err  error
}

func newWriter(ctx context.Context, to io.Writer) *writer {
	return &writer{ctx: ctx, to: to, buf: make([]byte, 0, chunk+4<<10)}
}

// ok ends a line: it sends the buffer if it is full enough, and reports whether the page can
// continue.
func (w *writer) ok() bool {
	if len(w.buf) >= chunk {
		w.flush()
	}
	return w.err == nil
}

func (w *writer) flush() {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err == nil && len(w.buf) != 0 {
		_, w.err = w.to.Write(w.buf)
	}
	w.buf = w.buf[:0]
}

// each calls show for the entries that q selects, and reports whether the page can continue. It
// ends when the request is canceled, even if no entry is selected.
func (w *writer) each(entries []entry, q *query, show func(*entry)) bool {
	for i := range entries {
		if i%256 == 0 && w.err == nil {
			w.err = w.ctx.Err()
		}
		if w.err != nil {
			return false
		}
		if e := &entries[i]; q.wants(e) {
			show(e)
			w.ok()
		}
	}
	return w.err == nil
}

// number returns the value of a counter or gauge. It is not ok if the value cannot be read.
func (w *writer) number(e *entry) (n uint64, ok bool) {
	if e.kind == histogramKind {
		return 0, true
	}
	return e.read()
}

// read returns the bins of a histogram. The next call overwrites them.
func (w *writer) read(e *entry) []bin {
	w.bins = e.bins.bins(w.bins[:0])
	return w.bins
}

func (w *writer) text(s string) { w.buf = append(w.buf, s...) }

func (w *writer) uint(n uint64) { w.buf = strconv.AppendUint(w.buf, n, 10) }

// float writes a number as Envoy's text does: with the shortest digits that represent it, or
// "nan".
func (w *writer) float(f float64) {
	if math.IsNaN(f) {
		w.text("nan")
		return
	}
	if f != 0 && (math.Abs(f) < 1e-4 || math.Abs(f) >= 1e16) {
		w.buf = strconv.AppendFloat(w.buf, f, 'e', -1, 64)
		return
	}
	w.buf = strconv.AppendFloat(w.buf, f, 'f', -1, 64)
}

// short writes a number as C's %g does, with six digits.
func (w *writer) short(f float64) { w.buf = strconv.AppendFloat(w.buf, f, 'g', 6, 64) }

// long writes a number as C's %.32g does, which is all of its digits.
func (w *writer) long(f float64) { w.buf = strconv.AppendFloat(w.buf, f, 'g', 32, 64) }
