package metrics

import (
	"math"
	"strconv"
)

// jsonPage writes the page of /stats?format=json: the numbers, and at the end one object with all
// histograms.
func (w *writer) jsonPage(p *plan, q *query) {
	w.text(`{"stats":[`)
	j := jsonWriter{w: w, form: q.buckets}
	if w.each(p.entries, q, j.show) {
		j.close()
		w.text("]}")
	}
	w.flush()
}

// jsonWriter tracks commas and open objects.
type jsonWriter struct {
	w          *writer
	form       buckets
	begun      bool // the list is not empty
	histograms bool // the object of histograms is open
}

func (j *jsonWriter) show(e *entry) {
	if e.kind == histogramKind {
		j.histogram(e)
		return
	}
	n, ok := j.w.number(e)
	if !ok {
		return
	}
	j.comma(&j.begun)
	j.w.text(`{"name":`)
	j.w.quote(e.name)
	j.w.text(`,"value":`)
	j.w.uint(n)
	j.w.text("}")
}

func (j *jsonWriter) comma(begun *bool) {
	if *begun {
		j.w.text(",")
	}
	*begun = true
}

// histogram writes a histogram. Before the first one it opens the enclosing object.
func (j *jsonWriter) histogram(e *entry) {
	if j.histograms {
		j.w.text(",")
	} else {
		j.comma(&j.begun)
		j.open()
	}
	j.histograms = true
	j.w.text(`{"name":`)
	j.w.quote(e.name)
	bins := j.w.read(e)
	switch j.form {
	case cumulative, disjoint:
		j.bounds(bins)
	case detailed:
		j.details(bins)
	default:
		j.quantiles(bins)
	}
	j.w.text("}")
}

func (j *jsonWriter) open() {
	switch j.form {
	case cumulative, disjoint:
		j.w.text(`{"histograms":[`)
	case detailed:
		j.supported("percentiles")
		j.w.text(`,"details":[`)
	default:
		j.supported("quantiles")
		j.w.text(`,"computed_quantiles":[`)
	}
}

func (j *jsonWriter) supported(word string) {
	j.w.text(`{"histograms":{"supported_` + word + `":[`)
	for i, q := range quantiles {
		if i > 0 {
			j.w.text(",")
		}
		j.w.json(q * 100)
	}
	j.w.text("]")
}

// close ends the object of histograms.
func (j *jsonWriter) close() {
	switch {
	case !j.histograms:
	case j.form == cumulative || j.form == disjoint:
		j.w.text("]}")
	default:
		j.w.text("]}}")
	}
}

func (j *jsonWriter) quantiles(bins []bin) {
	j.w.text(`,"values":[`)
	for i, q := range quantiles {
		if i > 0 {
			j.w.text(",")
		}
		j.w.text(`{"cumulative":`)
		j.w.json(quantile(bins, q))
		j.w.text(`,"interval":null}`)
	}
	j.w.text("]")
}

func (j *jsonWriter) bounds(bins []bin) {
	below, last := cumulate(bins), uint64(0)
	j.w.text(`,"buckets":[`)
	for i, bound := range bounds {
		if i > 0 {
			j.w.text(",")
		}
		j.w.text(`{"upper_bound":`)
		j.w.json(bound)
		j.w.text(`,"interval":0,"cumulative":`)
		j.w.uint(below[i] - last)
		j.w.text("}")
		if j.form == disjoint {
			last = below[i]
		}
	}
	j.w.text("]")
}

func (j *jsonWriter) details(bins []bin) {
	j.w.text(`,"totals":[`)
	for i, b := range bins {
		if i > 0 {
			j.w.text(",")
		}
		j.w.text(`{"lower_bound":`)
		j.w.json(b.low)
		j.w.text(`,"width":`)
		j.w.json(b.width)
		j.w.text(`,"count":`)
		j.w.uint(b.count)
		j.w.text("}")
	}
	j.w.text(`],"intervals":[],"percentiles":[`)
	for i, q := range quantiles {
		if i > 0 {
			j.w.text(",")
		}
		j.w.text(`{"cumulative":`)
		j.w.json(quantile(bins, q))
		j.w.text(`,"interval":null}`)
	}
	j.w.text("]")
}

// json writes a number in as few characters as possible, as Envoy does: 3e+05, but 60000.
func (w *writer) json(f float64) {
	if math.IsNaN(f) {
		w.text("null")
		return
	}
	var a, b [32]byte
	plain, power := strconv.AppendFloat(a[:0], f, 'f', -1, 64), strconv.AppendFloat(b[:0], f, 'e', -1, 64)
	if len(power) < len(plain) {
		plain = power
	}
	w.buf = append(w.buf, plain...)
}

// quote writes a JSON string. Names have no control characters.
func (w *writer) quote(s string) {
	w.text(`"`)
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			w.buf = append(w.buf, '\\')
		}
		w.buf = append(w.buf, s[i])
	}
	w.text(`"`)
}
