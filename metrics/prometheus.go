package metrics

import "strconv"

// boundTexts holds the bounds as labels.
//
//nolint:gochecknoglobals // read-only table
var boundTexts = func() (texts [len(bounds)]string) {
	for i, b := range bounds {
		texts[i] = `le="` + strconv.FormatFloat(b, 'f', -1, 64) + `"} `
	}
	return texts
}()

// prometheusPage writes the page of /stats/prometheus, with types and without help, as Envoy does.
func (w *writer) prometheusPage(p *plan, q *query) {
	for i := range p.families {
		if !w.family(&p.families[i], q) {
			break
		}
	}
	w.flush()
}

// family writes all series of one name. It reports whether the page can continue.
func (w *writer) family(f *family, q *query) bool {
	if err := w.ctx.Err(); err != nil && w.err == nil {
		w.err = err
	}
	begun := false
	for _, e := range f.members {
		if !q.wants(e) {
			continue
		}
		n, ok := w.number(e)
		if !ok {
			continue
		}
		if !begun {
			w.typeLine(f, q)
			begun = true
		}
		w.series(f, e, n, q)
		if !w.ok() {
			break
		}
	}
	return w.err == nil
}

func (w *writer) typeLine(f *family, q *query) {
	w.text("# TYPE ")
	w.text(f.name)
	w.text(" ")
	if f.kind == histogramKind && q.buckets == summary {
		w.text("summary\n")
		return
	}
	w.text(f.kind.String())
	w.text("\n")
}

// series writes an entry. n is the value of a counter or gauge.
func (w *writer) series(f *family, e *entry, n uint64, q *query) {
	switch {
	case e.kind != histogramKind:
		w.sample(f.name, "", e)
		w.uint(n)
		w.text("\n")
	case q.buckets == summary:
		w.quantileSeries(f.name, e)
	default:
		w.bucketSeries(f.name, e)
	}
}

// sample writes a series up to its value.
func (w *writer) sample(name, suffix string, e *entry) {
	w.text(name)
	w.text(suffix)
	w.text("{")
	w.text(e.labels.text)
	w.text("} ")
}

// bounded writes a series up to its last label.
func (w *writer) bounded(name, suffix string, e *entry) {
	w.text(name)
	w.text(suffix)
	w.text("{")
	w.text(e.labels.text)
	if e.labels.text != "" {
		w.text(",")
	}
}

func (w *writer) bucketSeries(name string, e *entry) {
	bins := w.read(e)
	n := count(bins)
	for i, below := range cumulate(bins) {
		w.bounded(name, "_bucket", e)
		w.text(boundTexts[i])
		w.uint(below)
		w.text("\n")
	}
	w.bounded(name, "_bucket", e)
	w.text(`le="+Inf"} `)
	w.uint(n)
	w.text("\n")
	w.sumAndCount(name, e, bins)
}

func (w *writer) quantileSeries(name string, e *entry) {
	bins := w.read(e)
	for _, q := range quantiles {
		w.bounded(name, "", e)
		w.text(`quantile="`)
		w.short(q)
		w.text(`"} `)
		w.long(quantile(bins, q))
		w.text("\n")
	}
	w.sumAndCount(name, e, bins)
}

func (w *writer) sumAndCount(name string, e *entry, bins []bin) {
	w.sample(name, "_sum", e)
	w.long(sum(bins))
	w.text("\n")
	w.sample(name, "_count", e)
	w.uint(count(bins))
	w.text("\n")
}
