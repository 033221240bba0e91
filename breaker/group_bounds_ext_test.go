package breaker_test

import (
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/policy"
)

// TestGroup_openIsForgotten checks that an open breaker is evicted once it would admit a trial
// and its failures have left the window, and not before. So keys that fail once are not kept
// forever, and do not open the shared breaker for other keys.
func TestGroup_openIsForgotten(t *testing.T) {
	const ms = time.Millisecond
	tests := map[string]struct {
		sleep, period time.Duration
		wait          time.Duration // the longest wait after which there is still no room
	}{
		"the sleep is longer":  {300 * ms, 100 * ms, 300 * ms},
		"the period is longer": {100 * ms, 300 * ms, 300*ms - 1},
		"no sleep":             {breaker.Zero, 50 * ms, 50*ms - 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, breaker.GroupConfig{MaxKeys: 3, Breaker: breaker.Config{
					NonBreakCount: 1, Sleep: tt.sleep, Period: tt.period,
				}})
				for i := range 3 {
					open(t, g.Get(fmt.Sprint("bad ", i)), 1)
				}
				shared := g.Get("good")
				time.Sleep(tt.wait)
				if g.Get("better") != shared {
					t.Error("got room too early, want the shared breaker")
				}
				time.Sleep(time.Nanosecond)
				one, other := g.Get("good"), g.Get("better")
				if one == other || one == shared || other == shared {
					t.Error("got no room for two good keys, want a breaker for each")
				}
				wantKeys(t, g, "better", "good", keys(g)[2])
			})
		})
	}
}

// TestGroup_openInUseIsKept checks that a failed trial keeps an open breaker in the group longer.
func TestGroup_openInUseIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, breaker.GroupConfig{MaxKeys: 1, Breaker: breaker.Config{NonBreakCount: 1, Period: time.Minute}})
		b := g.Get("bad")
		open(t, b, 1)
		shared := g.Get("good")
		for range 5 {
			time.Sleep(40 * time.Second)
			ticket, err := b.Admit()
			if err != nil || !ticket.Trial() {
				t.Fatalf("got trial %t and error %v, want a trial", ticket.Trial(), err)
			}
			ticket.Done(breaker.Failure, errBoom)
			if g.Get("good") != shared {
				t.Error("got a new breaker, want the shared one while the open one is needed")
			}
		}
		time.Sleep(time.Minute)
		if g.Get("good") == shared {
			t.Error("got no new breaker, want one in place of the expired one")
		}
	})
}

func TestGroup_longKeys(t *testing.T) {
	long := strings.Repeat("é", 1000)
	g := newGroup(t, breaker.GroupConfig{Breaker: breaker.Config{Name: "recipes", NonBreakCount: 1}})
	one, other := g.Get(long+"1"), g.Get(long+"2")
	if one == other || one != g.Get(long+"1") || other != g.Get(long+"2") {
		t.Error("got one breaker for two long keys, or two for one, want one each")
	}
	if refusal := open(t, one, 1); len(refusal.Name) > 256+len("recipes/") || !strings.HasPrefix(refusal.Name, "recipes/éé") {
		t.Errorf("got name %q of %d bytes, want the beginning of the key in at most 256", refusal.Name, len(refusal.Name))
	}
	exact := strings.Repeat("k", 256)
	g.Get(exact)
	for _, key := range keys(g) {
		if len(key) > 256 {
			t.Errorf("got a key of %d bytes, want at most 256", len(key))
		}
	}
	if got := keys(g)[0]; got != exact {
		t.Errorf("got key %q, want a key of 256 bytes unchanged", got)
	}
}

// TestGroup_memory uses many keys chosen by a client. They are long, or part of a long string,
// and their failures have long texts.
func TestGroup_memory(t *testing.T) {
	const most, size = 200, 100 << 10
	path := func(c *policy.Call) string { return c.Request().Path }
	tests := map[string]struct {
		cfg  breaker.GroupConfig
		host func(i int) string
	}{
		"long hosts": {breaker.GroupConfig{MaxKeys: most}, func(i int) string {
			return strconv.Itoa(i) + strings.Repeat("h", size)
		}},
		"long paths":     {breaker.GroupConfig{MaxKeys: most, Key: path}, func(int) string { return "recipes" }},
		"parts of a URL": {breaker.GroupConfig{MaxKeys: most, Key: func(c *policy.Call) string { return c.Request().Path[:10] }}, func(int) string { return "recipes" }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t, tt.cfg)
			before := heapInUse()
			for i := range most {
				req := newRequest(t.Context(), t)
				req.URL.Host = tt.host(i)
				req.URL.Path = fmt.Sprintf("/%09d%s", i, strings.Repeat("p", size))
				for range 3 {
					_, err := u.Transport(broken(fmt.Errorf("lookup %s%s: no such host", req.URL.Host, req.URL.Path[:5]))).RoundTrip(req)
					if !errors.Is(err, errBoom) && err == nil {
						t.Fatal("got no error from a broken upstream")
					}
				}
			}
			if kept := int64(heapInUse()) - int64(before); kept > 4<<20 {
				t.Errorf("got %d KiB kept of %d keys of %d KiB, want less than 4096", kept>>10, most, size>>10)
			}
			runtime.KeepAlive(u)
		})
	}
}

func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestClassify_panicsAtTheEnd checks that a call is counted if Classify panics at the end of its
// body, in a breaker and in a group, and that the breaker still works.
func TestClassify_panicsAtTheEnd(t *testing.T) {
	judged := 0
	classify := func(*policy.Outcome) breaker.Result {
		if judged++; judged%2 == 0 {
			panic(errBoom)
		}
		return breaker.Success
	}
	cfg := breaker.Config{Classify: classify}
	b, g := newBreaker(t, cfg), newGroup(t, breaker.GroupConfig{Breaker: cfg})
	for name, tt := range map[string]struct {
		policy pillion.Policy
		status func() breaker.Status
	}{
		"breaker": {b, b.Status},
		"group":   {g, func() breaker.Status { return g.Get("recipes").Status() }},
	} {
		judged = 0
		u := newUpstream(t, tt.policy)
		func() {
			defer func() {
				if got := recover(); got != any(errBoom) {
					t.Errorf("%s: got panic %v, want %v to reach the caller", name, got, errBoom)
				}
			}()
			_ = get(t, u, text(http.StatusOK))
		}()
		if got, want := tt.status(), (breaker.Status{Failure: 1}); got != want {
			t.Errorf("%s: got status %+v, want %+v", name, got, want)
		}
	}
}
