package metrics

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/pillion-go/pillion/internal/memhttp"
)

// odd holds names that have a special meaning in some format of the page.
var odd = []string{
	"plain", "a.b", "a.b.c", ".", "..", "a.", ".a", "a:b", "http://a:80/", "a|b", "a#b", "a b", " ", "a\nb", "a\r\nb: 5",
	"a\tb", "a\x00b", "a\x7fb", "a\u2028b", "a\u0085b", "a\xffb", "ünïcode", "日本", `a"b`, `a\b`, `a\nb`, `a\"} 1`, "a{b}", "a,b=c", "a,b",
	"a;b=c", "{", "}", "# TYPE x counter", "a\n# TYPE x counter\nx 1", `a"} 5` + "\nenvoy_up 1", "retry", "plain.retry", "plain.internal",
	"a-b.c", "a_b.c", "x.a-b", "x.a_b", "x.a.b", "upstream_rq_200", "a.upstream_rq_time", "a_rq_200", "0", "le", "<b>", "%s%n", "a\x1b[31mb",
	strings.Repeat("long", 1000),
}

// called counts one call of each kind.
func called(r *Registry, name string) {
	c := r.Cluster(name)
	rec := newRecorder(c, Config{})
	rec.answers.Count(200)
	rec.answers.Time(44)
	rec.again.Count(503)
	rec.sent.Add(2)
	rec.active.Add(1)
}

// TestOddNames parses pages of clusters with odd names, as clients of such pages do, each cluster
// alone and all together.
func TestOddNames(t *testing.T) {
	all := registry(t, Settings{})
	for _, name := range odd {
		called(all, name)
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
			r := registry(t, Settings{Tags: []Tag{{Name: "service.node", Value: name + "!"}}})
			called(r, name)
			if n := validText(t, page(t, r, "/stats")); n == 0 {
				t.Error("got no line, want some")
			}
			validJSON(t, page(t, r, "/stats?format=json"))
			families := validPrometheus(t, page(t, r, "/stats/prometheus"))
			total := 0.0
			for name, f := range families {
				if strings.HasSuffix(name, "upstream_rq_total") {
					total += f.GetMetric()[0].GetCounter().GetValue()
				}
			}
			if total != 2 {
				t.Errorf("got a total of %v, want 2", total)
			}
		})
	}
	t.Run("all", func(t *testing.T) {
		validText(t, page(t, all, "/stats"))
		validJSON(t, page(t, all, "/stats?format=json"))
		families := validPrometheus(t, page(t, all, "/stats/prometheus"))
		var total float64
		for name, f := range families {
			for _, m := range f.GetMetric() {
				if strings.HasSuffix(name, "upstream_rq_total") {
					total += m.GetCounter().GetValue()
				}
			}
		}
		if want := float64(2 * len(odd)); total != want {
			t.Errorf("got a total of %v over all clusters, want %v", total, want)
		}
	})
}

// textLine matches every line of the text.
var textLine = regexp.MustCompile(`^cluster\..*\.[a-z0-9_.]+: (\d+|No recorded values|P0\(nan,.*\))$`)

// validText checks each line and their order.
func validText(t *testing.T, text string) (lines int) {
	t.Helper()
	var numbers []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSuffix(line, "\n"); !textLine.MatchString(line) {
			t.Errorf("got line %q, want one that matches textLine", line)
		}
		if name, _, _ := strings.Cut(line, ": "); !strings.Contains(line, "(") {
			numbers = append(numbers, name)
		}
		lines++
	}
	if !slices.IsSorted(numbers) {
		t.Error("got unsorted lines, want sorted ones")
	}
	if n := len(slices.Compact(slices.Clone(numbers))); n != len(numbers) {
		t.Errorf("got %d duplicate names, want none", len(numbers)-n)
	}
	return lines
}

func validJSON(t *testing.T, text string) map[string]uint64 {
	t.Helper()
	var p struct {
		Stats []struct {
			Name       string          `json:"name"`
			Value      uint64          `json:"value"`
			Histograms json.RawMessage `json:"histograms"`
		} `json:"stats"`
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatalf("JSON: %v in %.300s", err, text)
	}
	values := map[string]uint64{}
	for _, s := range p.Stats {
		values[s.Name] = s.Value
	}
	return values
}

// validPrometheus parses a page with Prometheus's client library.
func validPrometheus(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("Prometheus: %v in %.2000s", err, text)
	}
	for name, f := range families {
		seen := map[string]bool{}
		for _, m := range f.GetMetric() {
			labels := fmt.Sprint(m.GetLabel())
			if seen[labels] {
				t.Errorf("%s: got series %s twice, want it once", name, labels)
			}
			seen[labels] = true
		}
	}
	return families
}

// TestQueries requests pages with valid and invalid queries.
func TestQueries(t *testing.T) {
	r := registry(t, Settings{})
	called(r, "recipes")
	r.Cluster("spare").Counter("upstream_rq_total")
	for _, tc := range []struct {
		url  string
		code int
		want string // in the response
		not  string
	}{
		{"/stats?usedonly", 200, "cluster.recipes.upstream_rq_total: 2", "spare"},
		{"/stats?usedonly=false", 200, "cluster.recipes.upstream_rq_total: 2", "spare"},
		{"/stats?filter=spare", 200, "cluster.spare.upstream_rq_total: 0", "recipes"},
		{"/stats?filter=SPARE", 200, "", "spare"},
		{"/stats?filter=(?i)SPARE", 200, "spare", "recipes"},
		{"/stats?filter=nothing&format=json", 200, `{"stats":[]}`, "recipes"},
		{"/stats?filter=nothing", 200, "", "recipes"},
		{"/stats/prometheus?filter=nothing", 200, "", "TYPE"},
		{"/stats?type=Gauges", 200, "upstream_rq_active: 1", "upstream_rq_total"},
		{"/stats?type=Histograms", 200, "upstream_rq_time", "upstream_rq_total"},
		{"/stats?type=TextReadouts", 200, "", "recipes"},
		{"/stats?type=All", 200, "upstream_rq_active", "nothing"},
		{"/stats/prometheus?type=Counters", 200, "counter", "gauge"},
		{"/stats/prometheus?histogram_buckets=summary", 200, `quantile="0.5"} 44.5`, "_bucket"},
		{"/stats/prometheus/", 200, "# TYPE", "cluster.recipes"},
		{"/stats?format=text", 200, "cluster.recipes", "# TYPE"},
		{"/stats?format=", 200, "cluster.recipes", "# TYPE"},
		{"/stats?unknown=1;2&%zz&=&&&", 200, "cluster.recipes", "# TYPE"},
		{"/stats?type=counters", 400, "usage: ", ""},
		{"/stats?format=html", 400, "usage: ", ""},
		{"/stats?format=json&format=text", 200, `{"stats"`, ""},
		{"/stats?histogram_buckets=x", 400, "usage: ", ""},
		{"/stats/prometheus?histogram_buckets=disjoint", 400, "usage: ", ""},
		{"/stats?filter=(", 400, "filter: ", ""},
		{"/stats?filter=%28%0Ainjected%3A+1", 400, "filter: ", "\ninjected"},
		{"/stats?filter=%ff", 400, "filter: ", "\xff"},
		{"/stats?filter=" + strings.Repeat("a", maxFilter+1), 400, "longer", "aaaa"},
		{"/stats?filter=((((a%7B10%7D)%7B10%7D)%7B10%7D)%7B10%7D)", 400, "filter: ", ""},
		{"/stats?filter=" + strings.Repeat("(aaaaaaaaaa)%7B1000%7D", 20), 400, "too complex", ""},
		{"/stats?filter=" + strings.Repeat("(", 500), 400, "filter: ", ""},
		{"/stats?" + strings.Repeat("filter=x&", 10000), 200, "", ""},
	} {
		t.Run(fmt.Sprintf("%.60s", tc.url), func(t *testing.T) {
			w := get(r, http.MethodGet, tc.url)
			body := w.Body.String()
			if w.Code != tc.code || !strings.Contains(body, tc.want) || (tc.not != "" && strings.Contains(body, tc.not)) {
				t.Errorf("got %d %.300q, want %d with %q and without %q", w.Code, body, tc.code, tc.want, tc.not)
			}
			if w.Code == 400 && (strings.Count(body, "\n") != 1 || len(body) > 300) {
				t.Errorf("got error %q, want one short line", body)
			}
			if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("got X-Content-Type-Options %q, want nosniff", got)
			}
		})
	}
}

// FuzzQuery sends arbitrary query strings. The response is a valid page, or an error of one line.
func FuzzQuery(f *testing.F) {
	f.Add("usedonly&filter=x&type=Counters")
	f.Add("format=json&histogram_buckets=detailed")
	f.Add("format=prometheus&histogram_buckets=summary&filter=(a|b)*")
	f.Add("filter=%28%0a")
	r := registry(f, Settings{})
	called(r, "recipes")
	called(r, "odd.name")
	f.Fuzz(func(t *testing.T, query string) {
		req := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/stats", RawQuery: query}}
		w := newRecording()
		Handler(r).ServeHTTP(w, req.WithContext(t.Context()))
		if w.code == http.StatusBadRequest {
			if n := strings.Count(w.body.String(), "\n"); n != 1 {
				t.Errorf("%q: got an error of %d lines, want one: %q", query, n, w.body.String())
			}
			return
		}
		values, _ := url.ParseQuery(query)
		switch values.Get("format") {
		case "json":
			validJSON(t, w.body.String())
		case "prometheus":
			validPrometheus(t, w.body.String())
		default:
			if values.Get("histogram_buckets") == "" {
				validText(t, w.body.String())
			}
		}
	})
}

// recording is a bare ResponseWriter, without deadlines and flushing.
type recording struct {
	head http.Header
	code int
	body strings.Builder
}

func newRecording() *recording { return &recording{head: http.Header{}, code: http.StatusOK} }

func (w *recording) Header() http.Header         { return w.head }
func (w *recording) WriteHeader(code int)        { w.code = code }
func (w *recording) Write(p []byte) (int, error) { return w.body.Write(p) }

func TestMethods(t *testing.T) {
	r := registry(t, Settings{})
	called(r, "recipes")
	for method, code := range map[string]int{
		http.MethodGet: 200, http.MethodHead: 200, http.MethodPost: 405, http.MethodDelete: 405, "ODD": 405,
	} {
		w := get(r, method, "/stats")
		if w.Code != code {
			t.Errorf("%s: got %d, want %d", method, w.Code, code)
		}
		if code == 405 && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: got Allow %q", method, w.Header().Get("Allow"))
		}
		if method == http.MethodHead && w.Body.Len() != 0 {
			t.Errorf("HEAD: got a body of %d bytes", w.Body.Len())
		}
	}
}

func TestContentTypes(t *testing.T) {
	r := registry(t, Settings{})
	for url, want := range map[string]string{
		"/stats":                   "text/plain; charset=UTF-8",
		"/stats?format=json":       "application/json",
		"/stats?format=prometheus": "text/plain; charset=UTF-8",
		"/stats/prometheus":        "text/plain; charset=UTF-8",
	} {
		if got := get(r, http.MethodGet, url).Header().Get("Content-Type"); got != want {
			t.Errorf("%s: got %q, want %q", url, got, want)
		}
	}
}

// TestHangingScrape requests a large page and reads only its first line. The connection is cut, and
// until then no other request waits for it.
func TestHangingScrape(t *testing.T) {
	r := crowd(t, 2000)
	synctest.Test(t, func(t *testing.T) {
		served := make(chan struct{})
		server := memhttp.Serve(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			Handler(r).ServeHTTP(w, req)
			if req.Header.Get("Hang") != "" {
				close(served)
			}
		}))
		defer server.Close()
		conn, err := server.DialContext(t.Context(), "tcp", "stats:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err = io.WriteString(conn, "GET /stats HTTP/1.1\r\nHost: stats\r\nHang: yes\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err = bufio.NewReaderSize(conn, 16).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		began := time.Now()

		client := &http.Client{Transport: server.Transport}
		called(r, "newcomer")
		resp, err := client.Get("http://stats/stats?filter=newcomer")
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(text), "cluster.newcomer.upstream_rq_total: 2") {
			t.Errorf("during a hanging scrape: got %v and %.100q", err, text)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %v during a hanging scrape, want no wait", waited)
		}
		<-served
		if waited := time.Since(began); waited > patience {
			t.Errorf("the hanging scrape was cut off after %v, want at most %v", waited, patience)
		}
	})
}

// TestDeadlineIsNotLeft makes requests over one connection, with more time between them than a
// client has for one page: the write deadline of the first must not apply to the next.
func TestDeadlineIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := registry(t, Settings{})
		called(r, "recipes")
		mux := http.NewServeMux()
		mux.Handle("/stats", Handler(r))
		mux.HandleFunc("/other", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "other") })
		server := memhttp.Serve(mux)
		defer server.Close()
		var dialled int
		dial := server.DialContext
		server.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled++
			return dial(ctx, network, addr)
		}
		client := &http.Client{Transport: server.Transport}
		for _, path := range []string{"/stats", "/other", "/stats"} {
			resp, err := client.Get("http://x" + path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			resp.Body.Close()
			time.Sleep(2 * patience)
		}
		if dialled != 1 {
			t.Errorf("got %d connections, want 1", dialled)
		}
	})
}

// TestGoneReader cancels a request: the page is not written to its end, and no further names are
// matched.
func TestGoneReader(t *testing.T) {
	r := crowd(t, 1000)
	for _, form := range []form{textForm, jsonForm, prometheusForm} {
		ctx, leave := context.WithCancel(t.Context())
		var to discard
		w := newWriter(ctx, writerFunc(func(p []byte) (int, error) {
			leave()
			return to.Write(p)
		}))
		w.write(r.layout(), &query{form: form, buckets: cumulative})
		if w.err == nil || int(to) > 2*chunk {
			t.Errorf("form %d: got %v after %d bytes, want an error soon", form, w.err, to)
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestTenThousandClusters reads large pages: they are complete, and the memory for reading does not
// grow with them.
func TestTenThousandClusters(t *testing.T) {
	const n = 10000
	r := crowd(t, n)
	p := r.layout()
	for _, form := range []form{textForm, jsonForm, prometheusForm} {
		var to discard
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w := newWriter(t.Context(), &to)
		w.write(p, &query{form: form, buckets: cumulative})
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("form %d: %d bytes were allocated for a page of %d, want less than a MiB", form, got, to)
		}
		if w.err != nil || to < n*1000 {
			t.Errorf("form %d: got %d bytes and %v", form, to, w.err)
		}
	}
	if got := validText(t, page(t, r, "/stats")); got < 30*n {
		t.Errorf("got %d lines, want at least %d", got, 30*n)
	}
}
