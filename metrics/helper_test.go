package metrics

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry makes a registry.
func registry(tb testing.TB, s Settings) *Registry {
	tb.Helper()
	r, err := NewRegistry(s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// page gets a page and checks for status 200.
func page(tb testing.TB, r *Registry, url string) string {
	tb.Helper()
	w := get(r, http.MethodGet, url)
	if w.Code != http.StatusOK {
		tb.Fatalf("%s: got %d: %s", url, w.Code, w.Body)
	}
	return w.Body.String()
}

func get(r *Registry, method, url string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	Handler(r).ServeHTTP(w, httptest.NewRequest(method, url, http.NoBody))
	return w
}
