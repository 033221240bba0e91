package metrics

// textPage writes the page of /stats: one line per statistic.
func (w *writer) textPage(p *plan, q *query) {
	w.each(p.entries, q, func(e *entry) { w.textLine(e, q.buckets) })
	w.flush()
}

func (w *writer) textLine(e *entry, form buckets) {
	n, ok := w.number(e)
	if !ok {
		return
	}
	w.text(e.name)
	w.text(":")
	if e.kind != histogramKind {
		w.text(" ")
		w.uint(n)
	} else {
		w.textHistogram(w.read(e), form)
	}
	w.text("\n")
}

// textHistogram writes pairs of values: for the last interval, which the library does not record
// and shows as empty, and for the lifetime of the process.
func (w *writer) textHistogram(bins []bin, form buckets) {
	if len(bins) == 0 {
		w.text(" No recorded values")
		return
	}
	switch form {
	case cumulative, disjoint:
		w.textBounds(bins, form)
	case detailed:
		w.text("\n  totals=")
		for i, b := range bins {
			if i > 0 {
				w.text(", ")
			}
			w.short(b.low)
			w.text(",")
			w.short(b.width)
			w.text(":")
			w.uint(b.count)
		}
		w.text("\n  intervals=\n  summary=")
		w.textQuantiles(bins)
	default:
		w.text(" ")
		w.textQuantiles(bins)
	}
}

func (w *writer) textQuantiles(bins []bin) {
	for i, q := range quantiles {
		if i > 0 {
			w.text(" ")
		}
		w.text("P")
		w.short(q * 100)
		w.text("(nan,")
		w.float(quantile(bins, q))
		w.text(")")
	}
}

func (w *writer) textBounds(bins []bin, form buckets) {
	below, last := cumulate(bins), uint64(0)
	for i, bound := range bounds {
		w.text(" B")
		w.short(bound)
		w.text("(0,")
		w.uint(below[i] - last)
		w.text(")")
		if form == disjoint {
			last = below[i]
		}
	}
}
