package resolve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

// script is a [Config.Lookup] for IPv4 that plays the results in found's notation, the last one
// for ever. It notes when it was called, in seconds.
type script struct {
	steps map[string][]string
	takes time.Duration

	mu    sync.Mutex
	begin time.Time
	calls map[string][]float64
}

func newScript(steps map[string][]string) *script {
	return &script{steps: steps, begin: time.Now(), calls: map[string][]float64{}}
}

func (s *script) lookup(_ context.Context, network, name string) ([]Record, error) {
	if network != "ip4" {
		return nil, nil
	}
	s.mu.Lock()
	steps := s.steps[name]
	r := found(steps[min(len(s.calls[name]), len(steps)-1)])
	s.calls[name] = append(s.calls[name], time.Since(s.begin).Seconds())
	s.mu.Unlock()
	if s.takes > 0 {
		time.Sleep(s.takes)
	}
	return r.records, r.err
}

func (s *script) at(name string) []float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls[name])
}

// record is an OnUpdate that notes the lists, and an OnFailure that notes the names.
type record struct {
	mu       sync.Mutex
	lists    []string
	failures []string
}

func (r *record) update(hosts []Host) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists = append(r.lists, listed(hosts))
}

func (r *record) failure(t Target, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, t.Name+": "+err.Error())
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lists)
}

// listed shows hosts by the index of their target and the letter of their address.
func listed(hosts []Host) string {
	words := make([]string, 0, len(hosts))
	for _, h := range hosts {
		words = append(words, fmt.Sprintf("%d%s", h.Target, names([]netip.Addr{h.Addr.Addr()})))
	}
	return strings.Join(words, " ")
}

// start makes and starts a resolver of names a.test, b.test, … that ends with the test.
func start(t *testing.T, c Config) *Resolver {
	t.Helper()
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.Start()
	return r
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestResolver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(map[string][]string{
			"a.test": {"a b", "b a", "!", "", "c a", "c"},
			"b.test": {"!", "!", "b", "b"},
		})
		var seen record
		r := start(t, Config{
			Targets: []Target{{"a.test", 80}, {"b.test", 81}}, Family: V4Only, RefreshRate: 10 * time.Second,
			Lookup: s.lookup, OnUpdate: seen.update, OnFailure: seen.failure,
		})
		synctest.Wait()
		if got := listed(r.Hosts()); got != "0a 0b" || !isClosed(r.Ready()) {
			t.Errorf("got hosts %q, ready %v, want a and b, true", got, isClosed(r.Ready()))
		}
		if err := r.Err(); err == nil || err.Error() != "resolve: b.test: server failure" || !errors.Is(err, errServer) {
			t.Errorf("got %v, want the failure of b.test", err)
		}
		time.Sleep(55 * time.Second)
		synctest.Wait()
		want := []string{"0a 0b", "0b 0a 1b", "0c 0a 1b", "0c 1b"}
		if diff := cmp.Diff(want, seen.all()); diff != "" {
			t.Errorf("lists (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"b.test: resolve: b.test: server failure", "b.test: resolve: b.test: server failure", "a.test: resolve: a.test: server failure"}, seen.failures); diff != "" {
			t.Errorf("failures (-want +got):\n%s", diff)
		}
		if got, want := r.Hosts()[1].Addr, netip.MustParseAddrPort("10.0.0.2:81"); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		// a.test: a change, another order, a failure, nothing, two changes. b.test: two failures, a change, three times the same.
		if got, want := r.Stats(), (Stats{UpdateAttempt: 12, UpdateSuccess: 9, UpdateFailure: 3, UpdateEmpty: 1, UpdateNoRebuild: 5}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := r.Err(); err != nil {
			t.Errorf("got %v, want no failure any more", err)
		}
		r.Close()
		time.Sleep(time.Minute)
		if got := r.Stats().UpdateAttempt; got != 12 {
			t.Errorf("got %d attempts after Close, want 12", got)
		}
		if got := listed(r.Hosts()); got != "0c 1b" {
			t.Errorf("got hosts %q after Close, want the last ones", got)
		}
	})
}

func TestRefreshTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config Config
		takes  time.Duration
		steps  []string
		want   []float64
	}{
		{"5s by default", Config{}, 0, []string{"a"}, []float64{0, 5, 10, 15}},
		{"from the end of a lookup", Config{RefreshRate: time.Second}, 2 * time.Second, []string{"a"}, []float64{0, 3, 6, 9, 12, 15}},
		{"a failure waits as long", Config{}, 0, []string{"a", "!", "a"}, []float64{0, 5, 10, 15}},
		{"ttl", Config{RespectTTL: true}, 0, []string{"a/3", "a/9", "!", "a/1"}, []float64{0, 3, 12, 17}},
		{"backoff", Config{FailureBase: 4 * time.Second, FailureMax: 6 * time.Second, Rand: func() uint64 { return 5000 }}, 0, []string{"!", "!", "!", "a", "!"}, []float64{0, 1, 6, 11, 16, 17}},
		{"jitter", Config{Jitter: 2 * time.Second, Rand: func() uint64 { return 1500 }}, 0, []string{"a", "a", "!"}, []float64{0, 6.5, 13}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScript(map[string][]string{"a.test": c.steps})
				s.takes = c.takes
				c.config.Targets, c.config.Family, c.config.Lookup = []Target{{Name: "a.test"}}, V4Only, s.lookup
				r := start(t, c.config)
				time.Sleep(17500 * time.Millisecond)
				r.Close()
				if diff := cmp.Diff(c.want, s.at("a.test")); diff != "" {
					t.Errorf("lookups at (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestLogical(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(map[string][]string{"a.test": {"a b", "a b", "b a", "", "!", "c"}})
		var more []string
		r := start(t, Config{
			Targets: []Target{{"a.test", 80}}, Logical: true, Family: V4Only, Lookup: s.lookup,
			OnUpdate: func(hosts []Host) {
				if len(hosts) != 1 {
					t.Errorf("got hosts %v, want one", hosts)
				}
				more = append(more, fmt.Sprint(listed(hosts), len(hosts[0].More)))
			},
		})
		time.Sleep(26 * time.Second)
		r.Close()
		if diff := cmp.Diff([]string{"0a1", "0b1", "0c0"}, more); diff != "" {
			t.Errorf("hosts and how many further addresses (-want +got):\n%s", diff)
		}
		if got, want := r.Stats(), (Stats{UpdateAttempt: 6, UpdateSuccess: 4, UpdateFailure: 2, UpdateNoRebuild: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

func TestWaitReady(t *testing.T) {
	t.Parallel()
	wait := func(t *testing.T, r *Resolver, d time.Duration) (time.Duration, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		begin := time.Now()
		err := r.WaitReady(ctx)
		return time.Since(begin), err
	}
	for _, c := range []struct {
		name  string
		steps map[string][]string
		want  string // part of the error
		is    error
		took  time.Duration
	}{
		{"each name has hosts", map[string][]string{"a.test": {"a"}, "b.test": {"b"}}, "", nil, time.Second},
		{"one name has hosts", map[string][]string{"a.test": {"!"}, "b.test": {"b"}}, "", nil, time.Second},
		{"later", map[string][]string{"a.test": {"", "!", "a"}, "b.test": {"!"}}, "", nil, 13 * time.Second},
		{"never", map[string][]string{"a.test": {""}, "b.test": {"!"}}, "resolve: no hosts: context deadline exceeded\nresolve: b.test: server failure", ErrNoHosts, 30 * time.Second},
		{"no names", map[string][]string{}, "resolve: no hosts: context deadline exceeded", ErrNoHosts, 30 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newScript(c.steps)
				s.takes = time.Second
				config := Config{Family: V4Only, Lookup: s.lookup}
				for name := range c.steps {
					config.Targets = append(config.Targets, Target{Name: name})
				}
				took, err := wait(t, start(t, config), 30*time.Second)
				if (err == nil) != (c.want == "") || err != nil && (err.Error() != c.want || !errors.Is(err, c.is) || !errors.Is(err, context.DeadlineExceeded)) {
					t.Errorf("got %v, want %q", err, c.want)
				}
				if took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
			})
		})
	}
	t.Run("a lookup hangs", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := start(t, Config{Targets: []Target{{Name: "a.test"}}, Lookup: func(ctx context.Context, _, _ string) ([]Record, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}})
			if _, err := wait(t, r, time.Second); err == nil || err.Error() != "resolve: not ready: context deadline exceeded" {
				t.Errorf("got %v, want not ready", err)
			}
		})
	})
	t.Run("close", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newScript(map[string][]string{"a.test": {"!"}})
			s.takes = time.Second
			r := start(t, Config{Targets: []Target{{Name: "a.test"}}, Family: V4Only, Lookup: s.lookup})
			time.AfterFunc(10*time.Second, r.Close)
			if took, err := wait(t, r, time.Minute); !errors.Is(err, ErrClosed) || took != 10*time.Second {
				t.Errorf("got %v after %v, want ErrClosed after 10s", err, took)
			}
			if !isClosed(r.Ready()) {
				t.Error("Ready is open after Close")
			}
		})
	})
}

// TestReadyAfterUpdate: OnUpdate has returned when Ready is closed and when WaitReady returns.
func TestReadyAfterUpdate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(map[string][]string{"a.test": {"a"}})
		updated := false
		r := start(t, Config{Targets: []Target{{Name: "a.test"}}, Family: V4Only, Lookup: s.lookup, OnUpdate: func([]Host) {
			time.Sleep(time.Second)
			updated = true
		}})
		<-r.Ready()
		if err := r.WaitReady(t.Context()); err != nil || !updated {
			t.Errorf("got %v, updated %v, want nil, true", err, updated)
		}
	})
}

func TestCloseBeforeStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newScript(map[string][]string{"a.test": {"a"}})
		r, err := New(Config{Targets: []Target{{Name: "a.test"}}, Family: V4Only, Lookup: s.lookup})
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		r.Close()
		r.Start()
		time.Sleep(time.Minute)
		if got := s.at("a.test"); len(got) != 0 || !isClosed(r.Ready()) {
			t.Errorf("got lookups at %v, ready %v, want none, true", got, isClosed(r.Ready()))
		}
	})
}

// TestCloseDuringLookup: Close ends a lookup that waits for a DNS server, counts nothing for
// it, and leaves no goroutine (the bubble would say so).
func TestCloseDuringLookup(t *testing.T) {
	t.Parallel()
	for _, tcp := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			silent := newServer(func(query) [][]byte { return nil })
			var seen record
			r := start(t, Config{
				Targets: []Target{{Name: "a.test"}, {Name: "b.test"}}, Family: All, Dial: silent.dial, UseTCP: tcp, NoSearch: true,
				OnFailure: seen.failure,
			})
			time.Sleep(time.Second)
			begin := time.Now()
			r.Close()
			if took := time.Since(begin); took != 0 {
				t.Errorf("Close took %v, want 0", took)
			}
			if got, want := r.Stats(), (Stats{UpdateAttempt: 2}); got != want || len(seen.failures) > 0 {
				t.Errorf("got %+v and failures %v, want %+v and none", got, seen.failures, want)
			}
		})
	}
}

// TestManyChanges: lists arrive in order and one at a time, with 20 names whose hosts change
// with each lookup, and the last list is what Hosts returns.
func TestManyChanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		rnd := rand.New(rand.NewPCG(1, 2))
		config := Config{Family: V4Only, RefreshRate: 7 * time.Millisecond, Jitter: 5 * time.Millisecond}
		for i := range 20 {
			config.Targets = append(config.Targets, Target{Name: fmt.Sprintf("%d.test", i), Port: uint16(i)})
		}
		config.Lookup = func(context.Context, string, string) ([]Record, error) {
			mu.Lock()
			defer mu.Unlock()
			return []Record{{Addr: netip.AddrFrom4([4]byte{10, 0, byte(rnd.Uint32()), byte(rnd.Uint32())})}}, nil
		}
		running, calls := false, 0
		var last []Host
		config.OnUpdate = func(hosts []Host) {
			if running {
				t.Error("OnUpdate calls overlap")
			}
			running = true
			time.Sleep(time.Microsecond)
			calls, last, running = calls+1, hosts, false
		}
		r := start(t, config)
		time.Sleep(2 * time.Second)
		r.Close()
		if calls < 1000 {
			t.Errorf("got %d calls, want more than 1000", calls)
		}
		if diff := cmp.Diff(listed(r.Hosts()), listed(last)); diff != "" {
			t.Errorf("last list (-Hosts +OnUpdate):\n%s", diff)
		}
		if s := r.Stats(); s.UpdateAttempt != s.UpdateSuccess || int(s.UpdateSuccess-s.UpdateNoRebuild) != calls {
			t.Errorf("got %+v, want as many changes as calls, %d", s, calls)
		}
	})
}

// TestTenThousand has three names with 10,000 addresses together, over TCP since no packet
// could carry them.
func TestTenThousand(t *testing.T) {
	t.Parallel()
	const each, names = 3334, 3
	s := newServer(func(q query) [][]byte {
		if q.network == "udp" {
			return [][]byte{q.message(func(m *dnsmessage.Message) { m.Truncated = true })}
		}
		var rrs []rr
		for i := range each {
			rrs = append(rrs, rr{ip: netip.AddrFrom4([4]byte{127, q.name[0], byte(i >> 8), byte(i)}).String(), ttl: 60})
		}
		return q.answers(rrs...)
	})
	config := Config{Family: V4Only, NoSearch: true, Servers: []string{s.listen(t)}}
	for i := range names {
		config.Targets = append(config.Targets, Target{Name: string(rune('a'+i)) + ".test", Port: 80})
	}
	r := start(t, config)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	hosts := r.Hosts()
	if len(hosts) != each*names {
		t.Fatalf("got %d hosts, want %d", len(hosts), each*names)
	}
	for i, h := range hosts {
		if want := netip.AddrFrom4([4]byte{127, 'a' + byte(i/each), byte(i % each >> 8), byte(i % each)}); h.Addr.Addr() != want || h.Target != i/each {
			t.Fatalf("host %d: got %v, want %v", i, h, want)
		}
	}
}

// TestDNS plays a name through a DNS server in memory, with TTLs, a change and failures.
func TestDNS(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []float64
		begin := time.Now()
		s := newServer(func(q query) [][]byte {
			at = append(at, time.Since(begin).Seconds())
			switch q.n {
			case 0:
				return q.answers(rr{ip: four, ttl: 3}, rr{ip: four2, ttl: 9})
			case 1:
				return q.answers(rr{alias: "x.test", ttl: 2}, rr{ip: four2, ttl: 9}, rr{ip: four, ttl: 9})
			case 2:
				return q.code(dnsmessage.RCodeNameError)
			default:
				return q.answers(rr{ip: four3, ttl: 0})
			}
		})
		var seen record
		r := start(t, Config{Targets: []Target{{Name: "a.test"}}, Family: V4Only, RespectTTL: true, NoSearch: true, Dial: s.dial, OnUpdate: seen.update})
		time.Sleep(16 * time.Second)
		r.Close()
		if diff := cmp.Diff([]float64{0, 3, 5, 10, 15}, at); diff != "" {
			t.Errorf("queries at (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"0a 0b", "0c"}, seen.all()); diff != "" {
			t.Errorf("lists (-want +got):\n%s", diff)
		}
		if got, want := r.Stats(), (Stats{UpdateAttempt: 5, UpdateSuccess: 5, UpdateEmpty: 1, UpdateNoRebuild: 3}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}
