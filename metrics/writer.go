package metrics

import (
	"context"
	"io"
	"math"
	"strconv"
)

// chunk is how much of a page is held before it is sent.
const chunk = 32 << 10

// writer sends a page in pieces, so that its size costs no memory. After an error
// it swallows the rest; ok tells.
type writer struct {
	ctx  context.Context //nolint:containedctx // of the reader, for the length of a page
	to   io.Writer
	buf  []byte
	bins []bin // for reading histograms into
	err  error
}

func newWriter(ctx context.Context, to io.Writer) *writer {
	return &writer{ctx: ctx, to: to, buf: make([]byte, 0, chunk+4<<10)}
}

// ok ends a line: it sends what has gathered, if it is enough, and reports whether
// it makes sense to go on.
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

// each calls show with what q asks for, and reports whether the reader is still
// there. A reader who has gone ends it even where a filter lets nothing through.
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

// number reads a counter or gauge. It is not ok where there is nothing to show.
func (w *writer) number(e *entry) (n uint64, ok bool) {
	if e.kind == histogramKind {
		return 0, true
	}
	return e.read()
}

// read reads a histogram.
func (w *writer) read(e *entry) []bin {
	w.bins = e.bins.bins(w.bins[:0])
	return w.bins
}

func (w *writer) text(s string) { w.buf = append(w.buf, s...) }

func (w *writer) uint(n uint64) { w.buf = strconv.AppendUint(w.buf, n, 10) }

// float writes a number as Envoy's text does: the shortest digits that say it,
// "nan" for none.
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
