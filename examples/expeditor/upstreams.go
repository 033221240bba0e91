package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"
)

// upstreams are the five services behind the site, each a real server on a loopback
// port.
type upstreams struct {
	recipes, authors, reviews, related, prices *httptest.Server

	broken   atomic.Bool // reviews fail
	requests atomic.Int64
	client   *http.Client
}

func startUpstreams() *upstreams {
	u := &upstreams{client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}}
	u.recipes = httptest.NewServer(respond("braised leeks"))
	u.authors = httptest.NewServer(respond("Ann"))
	u.reviews = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u.broken.Load() {
			http.Error(w, "the database does not respond", http.StatusServiceUnavailable)
			return
		}
		respond("4.5 stars")(w, r)
	}))
	u.related = httptest.NewServer(oneIn(4, &atomic.Int64{}, stall, respond("leek pie")))
	u.prices = httptest.NewServer(oneIn(3, &atomic.Int64{}, fail, respond("3.80")))
	return u
}

func (u *upstreams) close() {
	u.client.CloseIdleConnections()
	for _, s := range []*httptest.Server{u.recipes, u.authors, u.reviews, u.related, u.prices} {
		s.Close()
	}
}

func respond(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func fail(w http.ResponseWriter, _ *http.Request) { http.Error(w, "try again", http.StatusBadGateway) }

// stall does not respond before the caller gives up.
func stall(_ http.ResponseWriter, r *http.Request) { pause(r.Context(), 5*time.Second) }

// oneIn passes one in every requests to bad, and the others to good.
func oneIn(every int64, requests *atomic.Int64, bad, good http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1)%every == 0 {
			bad(w, r)
			return
		}
		good(w, r)
	}
}

// statusError is a response with another status than 200.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.text) }

// get calls one of the upstreams. It reads the body, since the context ends with the
// command's work.
func (u *upstreams) get(ctx context.Context, s *httptest.Server) (string, error) {
	u.requests.Add(1)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it has been read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", &statusError{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return string(text), nil
}
