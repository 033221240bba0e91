package resolve

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

var errServer = errors.New("server failure")

// found is the result of a lookup in tests: "a/5" is the address 10.0.0.1 with a TTL of 5s,
// "b" 10.0.0.2, "A" 2001:db8::1 and so on; "!" is a failure, "!4" and "!6" that of a family.
func found(s string) (r result) {
	for w := range strings.FieldsSeq(s) {
		name, ttl, _ := strings.Cut(w, "/")
		switch name {
		case "!":
			r.err = errServer
		case "!4":
			r.lost4 = true
		case "!6":
			r.lost6 = true
		default:
			var seconds int
			fmt.Sscan(ttl, &seconds)
			r.records = append(r.records, Record{address(name[0]), time.Duration(seconds) * time.Second})
		}
	}
	return r
}

func address(name byte) netip.Addr {
	if name < 'a' {
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: name - 'A' + 1})
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, name - 'a' + 1})
}

// names is the reverse of found for addresses.
func names(addrs []netip.Addr) string {
	var b strings.Builder
	for _, a := range addrs {
		c := byte('a')
		if a.Is6() {
			c = 'A'
		}
		b.WriteByte(c + a.AsSlice()[a.BitLen()/8-1] - 1)
	}
	return b.String()
}

func TestSettle(t *testing.T) {
	t.Parallel()
	// Rates are 5s after success. A step is a result, and the addresses, the verdict's flags
	// (failed, empty, changed) and the wait in seconds after it.
	for _, c := range []struct {
		name   string
		config Config
		steps  [][2]string
	}{
		{"same set in another order", Config{}, [][2]string{{"a b", "ab c 5"}, {"b a", "ba - 5"}, {"b a c", "bac c 5"}, {"c", "c c 5"}}},
		{"twice in a response", Config{}, [][2]string{{"a a b a", "ab c 5"}, {"b a", "ba - 5"}}},
		{"failure keeps", Config{}, [][2]string{{"a b", "ab c 5"}, {"!", "ab f 5"}, {"!", "ab f 5"}, {"a b", "ab - 5"}}},
		{"empty keeps", Config{}, [][2]string{{"a b", "ab c 5"}, {"", "ab e 5"}, {"", "ab e 5"}, {"c", "c c 5"}}},
		{"empty from the start", Config{}, [][2]string{{"", " - 5"}, {"", " - 5"}, {"a", "a c 5"}}},
		{"logical: empty is a failure", Config{Logical: true}, [][2]string{{"a b", "ab c 5"}, {"", "ab f 5"}, {"b", "b c 5"}}},
		{"logical: the order matters", Config{Logical: true}, [][2]string{{"a b c", "abc c 5"}, {"a c b", "acb c 5"}, {"a c b", "acb - 5"}}},
		{"ttl is not asked for", Config{}, [][2]string{{"a/1", "a c 5"}}},
		{"ttl: the smallest", Config{RespectTTL: true}, [][2]string{{"a/9 b/7 c/8", "abc c 7"}}},
		{"ttl: that of the first if logical", Config{RespectTTL: true, Logical: true}, [][2]string{{"a/9 b/7 c/8", "abc c 9"}}},
		{"ttl: none", Config{RespectTTL: true}, [][2]string{{"a/9 b", "ab c 5"}}},
		{"ttl: after an empty response", Config{RespectTTL: true}, [][2]string{{"a/9", "a c 9"}, {"", "a e 5"}}},
		{"ttl: after a failure", Config{RespectTTL: true}, [][2]string{{"a/9", "a c 9"}, {"!", "a f 5"}}},
		{"ttl: too short", Config{RespectTTL: true, MinRefreshRate: 3 * time.Second}, [][2]string{{"a/1", "a c 3"}, {"a/4", "a - 4"}, {"a", "a - 5"}}},
		{"ttl: too long", Config{RespectTTL: true}, [][2]string{{"a/9999999", "a c 86400"}}},
		{"all: a lost family stays", Config{Family: All}, [][2]string{{"a b A B", "abAB c 5"}, {"b a !6", "baAB - 5"}, {"c !6", "cAB c 5"}, {"C !4", "Cc c 5"}, {"a", "a c 5"}}},
		{"all: a lost family was not there", Config{Family: All}, [][2]string{{"a !6", "a c 5"}, {"a A", "aA c 5"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.config.Targets = make([]Target, 1)
			c.config.Targets[0].Name = "recipes.test"
			config, err := c.config.normal()
			if err != nil {
				t.Fatal(err)
			}
			var k known
			for i, step := range c.steps {
				v := k.settle(&config, found(step[0]))
				var flags strings.Builder
				for _, f := range []struct {
					is   bool
					name string
				}{{v.failed, "f"}, {v.empty, "e"}, {v.changed, "c"}} {
					if f.is {
						flags.WriteString(f.name)
					}
				}
				got := fmt.Sprintf("%s %s %v", names(k.addrs), cmp.Or(flags.String(), "-"), v.wait.Seconds())
				if got != step[1] {
					t.Errorf("step %d, %q: got %q, want %q", i, step[0], got, step[1])
				}
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	const drawn = 123_456_789
	for _, c := range []struct {
		name      string
		base, max time.Duration
		bounds    []time.Duration
	}{
		{"doubles to 10 times the base", time.Second, 0, []time.Duration{1e9, 2e9, 4e9, 8e9, 10e9, 10e9}},
		{"doubles to a bound", time.Second, 3 * time.Second, []time.Duration{1e9, 2e9, 3e9, 3e9}},
		{"does not grow", time.Second, time.Second, []time.Duration{1e9, 1e9}},
		{"least", time.Millisecond, time.Millisecond, []time.Duration{1e6, 1e6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config, err := Config{FailureBase: c.base, FailureMax: c.max, Rand: func() uint64 { return drawn }}.normal()
			if err != nil {
				t.Fatal(err)
			}
			var k known
			for range 2 {
				for i, bound := range c.bounds {
					want := max(time.Millisecond, time.Duration(drawn%bound.Milliseconds())*time.Millisecond)
					if got := k.settle(&config, found("!")).wait; got != want {
						t.Errorf("failure %d: got %v, want %v", i+1, got, want)
					}
				}
				k.settle(&config, found("a")) // begins anew
			}
		})
	}
}

func TestJitter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		config Config
		want   time.Duration
	}{
		{Config{Jitter: time.Second, Rand: func() uint64 { return 7345 }}, 5345 * time.Millisecond},
		{Config{Jitter: time.Second, Rand: func() uint64 { return 999 }}, 5999 * time.Millisecond},
		{Config{Jitter: time.Microsecond, Rand: func() uint64 { return 7345 }}, 5 * time.Second},
		{Config{Jitter: math.MaxInt64, RefreshRate: math.MaxInt64, Rand: func() uint64 { return 7345 }}, math.MaxInt64},
	} {
		config, err := c.config.normal()
		if err != nil {
			t.Fatal(err)
		}
		var k known
		if got := k.settle(&config, found("a")).wait; got != c.want {
			t.Errorf("jitter %v: got %v, want %v", c.config.Jitter, got, c.want)
		}
		if got := k.settle(&config, found("")).wait; got != c.want {
			t.Errorf("jitter %v, empty: got %v, want %v", c.config.Jitter, got, c.want)
		}
		if got := k.settle(&config, found("!")).wait; got != config.RefreshRate {
			t.Errorf("jitter %v, failure: got %v, want %v", c.config.Jitter, got, config.RefreshRate)
		}
	}
}

// model says what is known of a target in the slowest way: by all results since the start.
type model struct {
	config  Config
	results []result
}

// addrs returns the addresses after the first n results.
func (m *model) addrs(n int) []netip.Addr {
	if n == 0 {
		return nil
	}
	r := m.results[n-1]
	if r.err != nil || len(r.records) == 0 {
		return m.addrs(n - 1)
	}
	var addrs []netip.Addr
	for _, rec := range r.records {
		if !slices.Contains(addrs, rec.Addr) {
			addrs = append(addrs, rec.Addr)
		}
	}
	for _, a := range m.addrs(n - 1) {
		if (a.Is4() && r.lost4 || a.Is6() && r.lost6) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (m *model) failed(n int) bool {
	r := m.results[n-1]
	return r.err != nil || m.config.Logical && len(r.records) == 0
}

// bounds returns the least and the largest wait after the first n results.
func (m *model) bounds(n int) (least, most time.Duration) {
	c, r := &m.config, m.results[n-1]
	if m.failed(n) && c.FailureBase == 0 {
		return c.RefreshRate, c.RefreshRate
	}
	if m.failed(n) {
		bound := c.FailureBase
		for i := n - 1; i > 0 && m.failed(i); i-- {
			bound = min(2*bound, c.FailureMax)
		}
		return time.Millisecond, max(time.Millisecond, bound-time.Millisecond)
	}
	wait := c.RefreshRate
	if len(r.records) > 0 && c.RespectTTL {
		ttls := []time.Duration{r.records[0].TTL}
		for _, rec := range r.records[1:] {
			if !c.Logical {
				ttls = append(ttls, rec.TTL)
			}
		}
		if ttl := slices.Min(ttls); ttl > 0 {
			wait = max(ttl, c.MinRefreshRate)
		}
	}
	return wait, wait + max(0, c.Jitter-time.Millisecond)
}

func sorted(s string) string {
	b := []byte(s)
	slices.Sort(b)
	return string(b)
}

// TestModel compares what settle makes of random results with the model.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		ms := func(n int) time.Duration { return time.Duration(2*(1+rnd.IntN(n))) * time.Millisecond }
		config := Config{
			Targets: []Target{{Name: "recipes.test"}}, Logical: rnd.IntN(3) == 0, RespectTTL: rnd.IntN(2) == 0,
			RefreshRate: ms(5000), Jitter: ms(100), MinRefreshRate: ms(2000), Rand: rnd.Uint64,
		}
		if rnd.IntN(2) == 0 {
			config.FailureBase = ms(100)
			config.FailureMax = config.FailureBase * time.Duration(1+rnd.IntN(20))
		}
		config, err := config.normal()
		if err != nil {
			t.Fatal(err)
		}
		m := model{config: config}
		var k known
		for n := 1; n <= 40; n++ {
			var words []string
			for range rnd.IntN(5) {
				words = append(words, fmt.Sprintf("%c/%d", "abcABC"[rnd.IntN(6)], rnd.IntN(6)))
			}
			switch rnd.IntN(6) {
			case 0:
				words = []string{"!"}
			case 1:
				words = append(words, []string{"!4", "!6"}[rnd.IntN(2)])
			}
			r := found(strings.Join(words, " "))
			if len(r.records) == 0 { // then the lookup as a whole failed or was empty
				r.lost4, r.lost6 = false, false
			}
			m.results = append(m.results, r)
			v := k.settle(&config, r)

			before, after := names(m.addrs(n-1)), names(m.addrs(n))
			if got := names(k.addrs); got != after {
				t.Fatalf("seed %d: after %v: got addresses %s, want %s", seed, words, got, after)
			}
			changed := sorted(before) != sorted(after) || config.Logical && before != after
			if v.changed != changed || v.failed != m.failed(n) || v.empty != (!v.failed && len(r.records) == 0 && before != "") {
				t.Fatalf("seed %d: after %v, from %s to %s: got %+v", seed, words, before, after, v)
			}
			if least, most := m.bounds(n); v.wait < least || v.wait > most {
				t.Fatalf("seed %d: after %v: got a wait of %v, want %v to %v", seed, words, v.wait, least, most)
			}
		}
	}
}

func TestSameSet(t *testing.T) {
	t.Parallel()
	for range 2000 {
		a, b := rand.Perm(rand.IntN(6)), rand.Perm(rand.IntN(6))
		addrs := func(ns []int) (as []netip.Addr) {
			for _, n := range ns {
				as = append(as, address("abcABC"[n]))
			}
			return as
		}
		before := addrs(a)
		kept := slices.Clone(before)
		if got, want := sameSet(before, addrs(b)), len(a) == len(b); got != want {
			t.Fatalf("%v and %v: got %v, want %v", a, b, got, want)
		}
		if !slices.Equal(before, kept) {
			t.Fatal("sameSet reorders its arguments")
		}
	}
}

func TestHostsOf(t *testing.T) {
	t.Parallel()
	at := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	targets := []Target{{Name: "a.test", Port: 80}, {Name: "b.test", Port: 8080}}
	addrs := distinct(found("a B").records)
	strict := Config{Targets: targets}
	want := []Host{{Target: 1, Addr: at("10.0.0.1:8080")}, {Target: 1, Addr: at("[2001:db8::2]:8080")}}
	if diff := gocmp.Diff(want, strict.hostsOf(1, addrs), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("strict (-want +got):\n%s", diff)
	}
	logical := Config{Targets: targets[:1], Logical: true}
	want = []Host{{Target: 0, Addr: at("10.0.0.1:80"), More: []netip.AddrPort{at("[2001:db8::2]:80")}}}
	if diff := gocmp.Diff(want, logical.hostsOf(0, addrs), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("logical (-want +got):\n%s", diff)
	}
	if got := logical.hostsOf(0, nil); len(got) != 0 {
		t.Errorf("logical without addresses: got %v, want none", got)
	}
}

func TestDistinct(t *testing.T) {
	t.Parallel()
	mapped := netip.MustParseAddr("::ffff:10.0.0.1")
	got := distinct([]Record{{Addr: mapped}, {Addr: netip.Addr{}}, {Addr: address('a')}, {Addr: address('b')}})
	if names(got) != "ab" {
		t.Errorf("got %v, want 10.0.0.1 and 10.0.0.2, once each", got)
	}
}
