package metrics

import (
	"errors"
	"net/url"
)

// query is what a reader of the page asks for.
type query struct {
	form    form
	pattern string  // of names; "" for all
	filter  *filter // of the pattern; nil for all
	used    bool    // only what was ever used
	only    []kind  // nil for all
	buckets buckets
}

// form is that of the page.
type form uint8

const (
	textForm form = iota
	jsonForm
	prometheusForm
)

// buckets says how histograms are shown.
type buckets uint8

const (
	summary    buckets = iota // their quantiles
	cumulative                // how many values lie at each bound or below
	disjoint                  // how many lie between a bound and the one before
	detailed                  // their bins, and the quantiles
)

// parseQuery reads the query string of a page. Words that it does not know mean
// nothing, as in Envoy.
func parseQuery(values url.Values, f form) (query, error) {
	q := query{form: f, used: values.Has("usedonly"), pattern: values.Get("filter")}
	var bad [3]error
	if f != prometheusForm {
		q.form, bad[0] = parseForm(values.Get("format"))
	}
	q.only, bad[1] = parseType(values.Get("type"))
	q.buckets, bad[2] = parseBuckets(values, q.form)
	for _, err := range bad {
		if err != nil {
			return query{}, err
		}
	}
	return q, nil
}

func parseForm(word string) (form, error) {
	switch word {
	case "", "text":
		return textForm, nil
	case "json":
		return jsonForm, nil
	case "prometheus":
		return prometheusForm, nil
	}
	return 0, errors.New("usage: /stats?format=(json|prometheus|text)")
}

func parseType(word string) ([]kind, error) {
	switch word {
	case "", "All":
		return nil, nil
	case "Counters":
		return []kind{counterKind}, nil
	case "Gauges":
		return []kind{gaugeKind}, nil
	case "Histograms":
		return []kind{histogramKind}, nil
	case "TextReadouts": // there are none here
		return []kind{}, nil
	}
	return nil, errors.New("usage: /stats?type=(All|Counters|Gauges|Histograms|TextReadouts)")
}

func parseBuckets(values url.Values, f form) (buckets, error) {
	word := values.Get("histogram_buckets")
	if f == prometheusForm {
		switch word {
		case "", "none", "cumulative":
			return cumulative, nil
		case "summary":
			return summary, nil
		}
		return 0, errors.New("usage: /stats/prometheus?histogram_buckets=(cumulative|summary)")
	}
	switch word {
	case "", "none", "summary":
		return summary, nil
	case "cumulative":
		return cumulative, nil
	case "disjoint":
		return disjoint, nil
	case "detailed":
		return detailed, nil
	}
	return 0, errors.New("usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)")
}

// wants reports whether the reader asked for e.
func (q *query) wants(e *entry) bool {
	if q.only != nil && (len(q.only) == 0 || q.only[0] != e.kind) {
		return false
	}
	if q.used && !e.used() {
		return false
	}
	return q.filter == nil || q.filter.has(e)
}
