package metrics

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// patience is how long a reader may take nothing of a page before it is given up.
const patience = 30 * time.Second

// Handler serves a registry's statistics as Envoy's admin page does. Nil stands for
// [Default]. It belongs at /stats and below:
//
//	http.Handle("/stats", metrics.Handler(nil))
//	http.Handle("/stats/", metrics.Handler(nil)) // for /stats/prometheus
//
// A path that ends in /prometheus, and format=prometheus, give Prometheus's text form.
// All else is a line for each statistic, or JSON with format=json. Further words in the
// query string: filter=<regular expression> on whole names, type=Counters, Gauges or
// Histograms, usedonly, histogram_buckets=cumulative, disjoint, detailed or summary.
//
// A page is written as it is read, in constant memory, and holds no lock while it is
// sent. A reader that takes nothing for 30 seconds is cut off.
//
// A filter has 512 bytes at most, and, where it is much work, 200 ms for all names. Filters of
// several pages run one after the other, those of little work apart from the others. One that
// is too costly is answered with 400, one whose turn does not come within 3 s with 503.
func Handler(r *Registry) http.Handler {
	return http.HandlerFunc(r.orDefault().serve)
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	head := w.Header()
	head.Set("Cache-Control", "no-cache, max-age=0")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Type", "text/plain; charset=UTF-8")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		head.Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f := textForm
	if strings.HasSuffix(strings.TrimSuffix(req.URL.Path, "/"), "/prometheus") {
		f = prometheusForm
	}
	p := r.layout()
	q, err := parseQuery(req.URL.Query(), f)
	if err == nil {
		err = q.run(req.Context(), p)
	}
	if err != nil {
		reject(w, err)
		return
	}
	if q.form == jsonForm {
		head.Set("Content-Type", "application/json")
	}
	if req.Method == http.MethodHead {
		return
	}
	control := http.NewResponseController(w)
	page := newWriter(req.Context(), patient{w, control})
	page.write(p, &q)
	// All must be out before the deadline goes, or the rest could hang. It goes because
	// the next request on the connection may be anybody's. What has none cannot be asked to.
	_ = control.Flush()
	_ = control.SetWriteDeadline(time.Time{})
}

// reject answers a query that cannot be served.
func reject(w http.ResponseWriter, err error) {
	code := http.StatusBadRequest
	if errors.Is(err, errFilterBusy) {
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, err.Error(), code)
}

// write writes the page that q asks for.
func (w *writer) write(p *plan, q *query) {
	switch q.form {
	case jsonForm:
		w.jsonPage(p, q)
	case prometheusForm:
		w.prometheusPage(p, q)
	default:
		w.textPage(p, q)
	}
}

// patient sends each piece of a page in bounded time.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write sends a piece.
func (p patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(patience)) // where there is no such thing, others must bound it
	return p.ResponseWriter.Write(b)
}
