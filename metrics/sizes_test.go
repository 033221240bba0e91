package metrics

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/retry"
)

// chunked hides from net/http how much a reader has.
type chunked struct{ io.Reader }

// TestSizes makes calls whose sizes Envoy 1.40.0 recorded. The lists are the lowest values of the
// bins that were used, once for each value, in the order of names: headers_count, headers_size and
// body_size of requests, then of responses.
func TestSizes(t *testing.T) {
	ok := func(_ *http.Request, _ int) (*http.Response, error) {
		return sized(http.StatusOK, strings.Repeat("x", 100)), nil
	}
	for _, test := range []struct {
		name   string
		method string
		body   io.Reader
		serve  func(req *http.Request, attempt int) (*http.Response, error)
		want   [6][]float64
	}{
		{"a GET", http.MethodGet, nil, ok, [6][]float64{{9}, {180}, {0}, {3}, {31}, {100}}},
		{"a POST", http.MethodPost, strings.NewReader(strings.Repeat("p", 200)), ok, [6][]float64{{10}, {200}, {200}, {3}, {31}, {100}}},
		{"a POST of unknown length", http.MethodPost, chunked{strings.NewReader(strings.Repeat("p", 200))}, ok, [6][]float64{{9}, {180}, {200}, {3}, {31}, {100}}},
		{"retried", http.MethodGet, nil, func(_ *http.Request, attempt int) (*http.Response, error) {
			if attempt == 1 {
				return sized(http.StatusServiceUnavailable, strings.Repeat("y", 50)), nil
			}
			return sized(http.StatusOK, strings.Repeat("x", 100)), nil
		}, [6][]float64{{9, 9}, {180, 180}, {0, 0}, {3, 3}, {30, 31}, {0, 100}}},
		{"without a response", http.MethodPost, chunked{strings.NewReader(strings.Repeat("p", 200))}, func(*http.Request, int) (*http.Response, error) {
			return nil, errors.New("soup")
		}, [6][]float64{{9}, {180}, {200}, nil, nil, nil}},
		{"a HEAD", http.MethodHead, nil, func(*http.Request, int) (*http.Response, error) {
			resp := sized(http.StatusOK, "")
			resp.Header.Set("Content-Length", "777")
			return resp, nil
		}, [6][]float64{{9}, {180}, {0}, {3}, {31}, {0}}},
		{"broken off", http.MethodGet, nil, func(*http.Request, int) (*http.Response, error) {
			resp := sized(http.StatusOK, "")
			resp.Header.Set("Content-Length", "300")
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("q", 30)), failing{io.ErrUnexpectedEOF}))
			return resp, nil
		}, [6][]float64{{9}, {180}, {0}, {3}, {31}, {30}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := registry(t, Settings{})
			u := upstream(t, Config{Registry: r, RequestResponseSizes: true}, retry.Config{On: "5xx", NumRetries: 1, BaseInterval: time.Millisecond, MaxInterval: time.Millisecond})
			attempts := 0
			rt := u.Transport(responding(func(req *http.Request) (*http.Response, error) {
				attempts++
				if req.Body != nil {
					_, _ = io.Copy(io.Discard, req.Body)
					_ = req.Body.Close()
				}
				return test.serve(req, attempts)
			}))
			exchange(t, rt, test.method, test.body)
			if diff := cmp.Diff(test.want, recorded(r.Cluster("recipes"))); diff != "" {
				t.Errorf("bins (-want +got):\n%s", diff)
			}
		})
	}
}

// sized returns a response as the recorded upstream sent it.
func sized(code int, body string) *http.Response {
	return &http.Response{
		StatusCode: code, ProtoMajor: 1, Body: io.NopCloser(strings.NewReader(body)),
		Header: http.Header{"Content-Length": {strconv.Itoa(len(body))}, "X-A": {"b"}},
	}
}

// exchange makes a call with the header that the recorded Envoy sent, and reads the response.
func exchange(t *testing.T, rt http.RoundTripper, method string, body io.Reader) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:18102/ok", body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Accept-Encoding": "identity", "X-Key": "1", "X-Forwarded-Proto": "http",
		"X-Request-Id": "9244de6e-d7a9-4450-9097-cabbf3983457", "X-Envoy-Expected-Rq-Timeout-Ms": "300",
	} {
		req.Header.Set(name, value)
	}
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// recorded returns the lowest values of the bins of all sizes.
func recorded(c *ClusterStats) (all [6][]float64) {
	for i, name := range []string{
		"upstream_rq_headers_count", "upstream_rq_headers_size", "upstream_rq_body_size",
		"upstream_rs_headers_count", "upstream_rs_headers_size", "upstream_rs_body_size",
	} {
		for _, b := range (histograms{c.Histogram(name)}).bins(nil) {
			for range b.count {
				all[i] = append(all[i], b.low)
			}
		}
	}
	return all
}

// TestSizes_off checks that a Config without sizes shows none, and has the adapter measure nothing.
func TestSizes_off(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r})
	exchange(t, u.Transport(responding(func(*http.Request) (*http.Response, error) { return sized(200, "soup"), nil })), http.MethodGet, nil)
	if got := page(t, r, "/stats"); strings.Contains(got, "_size") || strings.Contains(got, "headers_count") {
		t.Errorf("got statistics of sizes, want none:\n%s", got)
	}
}

// TestSizes_func checks that a function under a Config with sizes has none.
func TestSizes_func(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r, RequestResponseSizes: true})
	if _, err := pillion.Do(t.Context(), u, func(context.Context) (int, error) { return 1, nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([6][]float64{}, recorded(r.Cluster("recipes"))); diff != "" {
		t.Errorf("sizes (-want +got):\n%s", diff)
	}
}

// TestSizes_text checks the forms of a page of sizes: as those of all histograms.
func TestSizes_text(t *testing.T) {
	r := registry(t, Settings{})
	u := upstream(t, Config{Registry: r, RequestResponseSizes: true})
	rt := u.Transport(responding(func(*http.Request) (*http.Response, error) { return sized(200, "soup"), nil }))
	exchange(t, rt, http.MethodGet, nil)
	if got, want := page(t, r, "/stats?filter=rs_body_size"), "cluster.recipes.upstream_rs_body_size: P0(nan,4.05) P25(nan,4.05)"; !strings.HasPrefix(got, want) {
		t.Errorf("text: got %q, want prefix %q", got, want)
	}
	got := page(t, r, "/stats/prometheus?filter=rq_headers_size")
	for _, want := range []string{
		"# TYPE envoy_cluster_upstream_rq_headers_size histogram\n",
		`envoy_cluster_upstream_rq_headers_size_bucket{envoy_cluster_name="recipes",le="250"} 1` + "\n",
		`envoy_cluster_upstream_rq_headers_size_count{envoy_cluster_name="recipes"} 1` + "\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("Prometheus: got\n%s, want a part %q", got, want)
		}
	}
}
