package breaker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
)

func newGroup(t *testing.T, cfg breaker.GroupConfig) *breaker.Group {
	t.Helper()
	g, err := breaker.NewGroup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// getURL makes a call to url.
func getURL(t *testing.T, u *pillion.Upstream, url string, base http.RoundTripper) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := u.Transport(base).RoundTrip(req)
	if err != nil {
		return err
	}
	readAll(resp, nil)
	return nil
}

// keys lists the group's keys in its order.
func keys(g *breaker.Group) []string {
	var all []string
	for key := range g.All() {
		all = append(all, key)
	}
	return all
}

func wantKeys(t *testing.T, g *breaker.Group, want ...string) {
	t.Helper()
	if got := keys(g); !slices.Equal(got, want) {
		t.Errorf("got keys %q, want %q", got, want)
	}
}

func TestGroup_keysAreApart(t *testing.T) {
	path := func(c *policy.Call) string { return c.Request().Path }
	tests := map[string]struct {
		key        func(*policy.Call) string
		bad, other string // URLs
		want       []string
		same       string // a URL of bad's key
		named      string
	}{
		"by authority": {nil, "http://a/1", "http://b:80/1", []string{"a", "b:80"}, "http://a/2", "recipes/a"},
		"by name":      {breaker.ByAuthority, "http://a:1/1", "http://a:2/1", []string{"a:1", "a:2"}, "http://a:1/2", "recipes/a:1"},
		"by path":      {path, "http://a/1", "http://a/2", []string{"/1", "/2"}, "http://b/1", "recipes//1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, breaker.GroupConfig{Breaker: breaker.Config{Name: "recipes", NonBreakCount: 1}, Key: tt.key})
			u := newUpstream(t, g)
			if err := getURL(t, u, tt.bad, text(http.StatusBadGateway)); err != nil {
				t.Fatal(err)
			}
			if err := getURL(t, u, tt.other, text(http.StatusOK)); err != nil {
				t.Errorf("got error %v for another key, want none", err)
			}
			refusal, ok := errors.AsType[*breaker.OpenError](getURL(t, u, tt.same, text(http.StatusOK)))
			if !ok || refusal.Name != tt.named {
				t.Errorf("got refusal %v, want one of %s", refusal, tt.named)
			}
			slices.Sort(tt.want)
			if got := slices.Sorted(slices.Values(keys(g))); !slices.Equal(got, tt.want) {
				t.Errorf("got keys %q, want %q", got, tt.want)
			}
			wantStatus(t, g.Get(tt.want[0]), breaker.Status{Failure: 1, Break: 1})
			wantStatus(t, g.Get(tt.want[1]), breaker.Status{Success: 1})
		})
	}
}

// TestGroup_judgesAtTheEnd checks that a broken body is counted for its key.
func TestGroup_judgesAtTheEnd(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{})
	u := newUpstream(t, g)
	resp := begin(t.Context(), t, u, stream(http.StatusOK, brokenReader(errBoom)))
	if err := getURL(t, u, "http://other/", text(http.StatusOK)); err != nil {
		t.Fatal(err)
	}
	readAll(resp, nil)
	wantStatus(t, g.Get("recipes"), breaker.Status{Failure: 1})
	wantStatus(t, g.Get("other"), breaker.Status{Success: 1})
}

func TestGroup_panicPassesThrough(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{})
	func() {
		defer func() {
			if got := recover(); got != any(errBoom) {
				t.Errorf("got panic %v, want %v", got, errBoom)
			}
		}()
		_ = get(t, newUpstream(t, g), roundTrip(func(*http.Request) (*http.Response, error) { panic(errBoom) }))
	}()
	wantStatus(t, g.Get("recipes"), breaker.Status{Failure: 1})
}

// TestGroupConfig_ownState checks that each upstream has separate breakers, named after it.
func TestGroupConfig_ownState(t *testing.T) {
	cfg := breaker.GroupConfig{Breaker: breaker.Config{NonBreakCount: 1}}
	bad, good := newUpstream(t, cfg), newUpstream(t, cfg)
	_ = get(t, bad, broken(errBoom))
	refusal, ok := errors.AsType[*breaker.OpenError](get(t, bad, answer(http.StatusOK)))
	if !ok || refusal.Name != "recipes/recipes" {
		t.Errorf("got refusal %v, want one of recipes/recipes", refusal)
	}
	if err := get(t, good, answer(http.StatusOK)); err != nil {
		t.Errorf("got error %v from the other upstream, want none", err)
	}
}

// TestGroup_names checks the breaker names of a group without a name.
func TestGroup_names(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{Breaker: breaker.Config{NonBreakCount: 1}, MaxKeys: 1})
	if got := open(t, g.Get("a"), 1).Name; got != "a" {
		t.Errorf("got name %q, want the key", got)
	}
	if got := open(t, g.Get("b"), 1).Name; got != "(others)" {
		t.Errorf("got name %q of a shared breaker, want (others)", got)
	}
}

func TestGroup_order(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{})
	a, b := g.Get("a"), g.Get("b")
	g.Get("c")
	if g.Get("a") != a || g.Get("b") != b || a == b {
		t.Error("got another breaker for an existing key, want the same")
	}
	wantKeys(t, g, "b", "a", "c")
	for key, first := range g.All() {
		if key != "b" || first != b {
			t.Errorf("got %q first, want b", key)
		}
		g.Get("d") // All does not hold the group's lock
		break
	}
	wantKeys(t, g, "d", "b", "a", "c")
}

// TestGroup_forgets fills groups with keys in various states, and uses one more key.
func TestGroup_forgets(t *testing.T) {
	type state func(*testing.T, *breaker.Breaker)
	clean := func(*testing.T, *breaker.Breaker) {}
	record := func(r breaker.Result) state {
		return func(_ *testing.T, b *breaker.Breaker) { b.Record(r) }
	}
	failed, timedOut := record(breaker.Failure), record(breaker.Timeout)
	opened := func(t *testing.T, b *breaker.Breaker) {
		t.Helper()
		open(t, b, 3)
	}
	wasOpen := func(t *testing.T, b *breaker.Breaker) {
		t.Helper()
		open(t, b, 3)
		b.ResetStatus()
	}
	aged := func(_ *testing.T, b *breaker.Breaker) {
		b.Record(breaker.Failure)
		time.Sleep(breaker.DefaultPeriod)
	}
	type members []state // named a, b and c; used in that order
	tests := map[string]struct {
		members members
		want    []string // the keys after d was used
	}{
		"the least recently used":             {members{clean, clean, clean}, []string{"d", "c", "b"}},
		"without a failure first":             {members{failed, clean, clean}, []string{"d", "c", "a"}},
		"a timeout is a failure":              {members{timedOut, failed, clean}, []string{"d", "b", "a"}},
		"a rejection is not":                  {members{failed, record(breaker.Rejection), clean}, []string{"d", "c", "a"}},
		"a success and a break are not":       {members{failed, record(breaker.Success), record(breaker.Break)}, []string{"d", "c", "a"}},
		"all with failures":                   {members{failed, timedOut, failed}, []string{"d", "c", "b"}},
		"failures no longer in the window":    {members{failed, clean, aged}, []string{"d", "c", "b"}},
		"never an open one":                   {members{opened, failed, opened}, []string{"d", "c", "a"}},
		"one that was open":                   {members{failed, wasOpen, failed}, []string{"d", "c", "a"}},
		"all open: d gets the shared breaker": {members{opened, opened, opened}, []string{"c", "b", "a"}},
		"all but one open":                    {members{opened, opened, failed}, []string{"d", "b", "a"}},
		"one key below the limit":             {members{opened, clean}, []string{"d", "b", "a"}},
		"a clean one before open ones":        {members{clean, opened, opened}, []string{"d", "c", "b"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, breaker.GroupConfig{Breaker: breaker.Config{NonBreakCount: 3}, MaxKeys: 3})
				for i, state := range tt.members {
					state(t, g.Get(string(rune('a'+i))))
				}
				g.Get("d")
				wantKeys(t, g, tt.want...)
			})
		})
	}
}

// TestGroup_forgotten checks that an evicted key gets a new breaker, while an earlier call ends
// with the breaker that admitted it.
func TestGroup_forgotten(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{MaxKeys: 1})
	u := newUpstream(t, g)
	before := g.Get("recipes")
	resp := begin(t.Context(), t, u, stream(http.StatusOK, brokenReader(errBoom)))
	g.Get("other")
	readAll(resp, nil)
	wantStatus(t, before, breaker.Status{Failure: 1})
	again := g.Get("recipes")
	if again == before {
		t.Error("got the evicted breaker, want a new one")
	}
	wantStatus(t, again, breaker.Status{})
	wantKeys(t, g, "recipes")
}

// TestGroup_shared fills a group with open breakers: new keys share one until there is room.
func TestGroup_shared(t *testing.T) {
	g := newGroup(t, breaker.GroupConfig{
		Breaker: breaker.Config{Name: "recipes", NonBreakCount: 1}, MaxKeys: 2,
	})
	u := newUpstream(t, g)
	for _, url := range []string{"http://a/", "http://b/"} {
		_ = getURL(t, u, url, broken(errBoom))
		if err := getURL(t, u, url, answer(http.StatusOK)); !errors.Is(err, breaker.ErrOpen) {
			t.Fatalf("got error %v, want one that is ErrOpen", err)
		}
	}
	if g.Get("c") != g.Get("d") {
		t.Error("got two breakers for keys that find no room, want one")
	}
	_ = getURL(t, u, "http://c/", broken(errBoom))
	refusal, ok := errors.AsType[*breaker.OpenError](getURL(t, u, "http://d/", answer(http.StatusOK)))
	if !ok || refusal.Name != "recipes/(others)" {
		t.Errorf("got refusal %v, want one of recipes/(others)", refusal)
	}
	wantKeys(t, g, "b", "a")
	g.Get("b").ResetStatus()
	if err := getURL(t, u, "http://d/", answer(http.StatusOK)); err != nil {
		t.Errorf("got error %v when there is room, want none", err)
	}
	wantKeys(t, g, "d", "a")
}

// TestGroup_bound checks the default limit, and a limit of one key.
func TestGroup_bound(t *testing.T) {
	for bound, want := range map[int]int{0: breaker.DefaultMaxKeys, 1: 1} {
		g := newGroup(t, breaker.GroupConfig{MaxKeys: bound})
		for i := range want + 10 {
			g.Get(strconv.Itoa(i)).Record(breaker.Failure)
		}
		if got := len(keys(g)); got != want {
			t.Errorf("MaxKeys %d: got %d keys, want %d", bound, got, want)
		}
	}
}

// TestGroup_concurrent uses many more keys than the limit.
func TestGroup_concurrent(t *testing.T) {
	const workers, most = 32, 20
	var told sync.Map
	g := newGroup(t, breaker.GroupConfig{
		Breaker: breaker.Config{NonBreakCount: 5, OnStateChange: func(c breaker.Change) { told.Store(c.Name, true) }},
		Key:     func(c *policy.Call) string { return c.RequestHeader("Key") },
		MaxKeys: most,
	})
	u := newUpstream(t, g)
	stop := make(chan struct{})
	var watch, work sync.WaitGroup
	watch.Go(func() {
		for {
			if got := len(keys(g)); got > most {
				t.Errorf("got %d keys, want at most %d", got, most)
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for worker := range workers {
		work.Go(func() {
			for i := range 200 {
				req := newRequest(context.Background(), t)
				key := (worker*7 + i*13) % 100
				req.Header.Set("Key", fmt.Sprint("key ", key))
				base := text(http.StatusOK)
				if key < 5 {
					base = text(http.StatusBadGateway)
				}
				if resp, err := u.Transport(base).RoundTrip(req); err == nil {
					readAll(resp, nil)
				}
			}
		})
	}
	work.Wait()
	close(stop)
	watch.Wait()
	if got := len(keys(g)); got != most {
		t.Errorf("got %d keys, want %d", got, most)
	}
	for i := range 5 { // the bad ones
		key := fmt.Sprint("key ", i)
		if _, ok := told.Load(key); !ok || !slices.Contains(keys(g), key) {
			t.Errorf("%s: got opened %t, among the keys %t, want both", key, ok, slices.Contains(keys(g), key))
		}
	}
}
