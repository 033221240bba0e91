package metrics

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// patience is how long a client may accept no bytes of a page before its connection is cut.
const patience = 30 * time.Second

// Handler returns a handler that serves a registry's statistics as Envoy's admin page does. Nil
// means [Default]. Register it for /stats and the paths below:
//
//	http.Handle("/stats", metrics.Handler(nil))
//	http.Handle("/stats/", metrics.Handler(nil)) // for /stats/prometheus
//
// A path that ends in /prometheus, or format=prometheus, selects Prometheus's text format. Other
// paths have one line per statistic, or JSON with format=json. More query parameters:
// filter=<regular expression>, which searches whole names; type=Counters, Gauges or Histograms;
// usedonly; histogram_buckets=cumulative, disjoint, detailed or summary.
//
// A page uses constant memory, and holds no lock while it is sent. The connection of a client that
// accepts no bytes for 30s is cut.
//
// A filter may have at most 512 bytes. A costly filter may take at most 200ms for all names. Filters
// of concurrent pages run one after the other; cheap ones do not wait for costly ones. The response
// to a filter that is too costly is 400, and to one that waits longer than 3s for its turn, 503.
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
	// Flush before clearing the deadline, or sending the rest could hang. The deadline must not
	// apply to the next request on the connection. A writer without deadlines returns an error.
	_ = control.Flush()
	_ = control.SetWriteDeadline(time.Time{})
}

// reject responds to a query that cannot be served.
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

// patient sends each chunk of a page in bounded time.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
}

// Write sends a chunk.
func (p patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(patience)) // a writer without deadlines returns an error: the server must bound it
	return p.ResponseWriter.Write(b)
}
