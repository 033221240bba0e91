package metrics

import (
	"errors"
	"net/url"
)

// query is a parsed query string of a page.
type query struct {
	form    form
	pattern string  // for names; "" for all
	filter  *filter // made from pattern; nil for all
	used    bool    // only statistics that were used
	only    []kind  // nil for all
	buckets buckets
}

// form is the format of a page.
type form uint8

const (
	textForm form = iota
	jsonForm
	prometheusForm
)

// buckets is the format of histograms.
type buckets uint8

const (
	summary    buckets = iota // quantiles
	cumulative                // number of values not above each bound
	disjoint                  // number of values between each bound and the previous one
	detailed                  // bins and quantiles
)

// parseQuery parses the query string of a page. As in Envoy it ignores unknown parameters.
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
	case "TextReadouts": // this package has none
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

// wants reports whether the query selects e.
func (q *query) wants(e *entry) bool {
	if q.only != nil && (len(q.only) == 0 || q.only[0] != e.kind) {
		return false
	}
	if q.used && !e.used() {
		return false
	}
	return q.filter == nil || q.filter.has(e)
}
