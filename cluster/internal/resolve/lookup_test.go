package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"
)

// lookUp looks name up once at a server that responds so, in a bubble.
func lookUp(t *testing.T, c Config, respond func(q query) [][]byte) (r result, s *server, took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s = newServer(respond)
		c.Dial, c.NoSearch, c.RespectTTL = s.dial, true, true
		normal, err := c.normal()
		if err != nil {
			t.Fatal(err)
		}
		l := &lookup{cfg: &normal, name: "recipes.test"}
		begin := time.Now()
		r = l.do(t.Context())
		took = time.Since(begin)
	})
	return r, s, took
}

// shown shows a result in a line.
func shown(r result) string {
	var b strings.Builder
	for _, rec := range r.records {
		fmt.Fprintf(&b, "%v/%v ", rec.Addr, rec.TTL)
	}
	for _, w := range []struct {
		what string
		is   bool
	}{{"lost4", r.lost4}, {"lost6", r.lost6}, {"failed", r.err != nil}, {"empty", r.err == nil && len(r.records) == 0}} {
		if w.is {
			b.WriteString(w.what)
		}
	}
	return strings.TrimSpace(b.String())
}

// Addresses of hosts.
const six, six2, four, four2, four3 = "2001:db8::1", "2001:db8::2", "10.0.0.1", "10.0.0.2", "10.0.0.3"

func TestFamilies(t *testing.T) {
	t.Parallel()
	both := []rr{{ip: four, ttl: 7}, {ip: six, ttl: 5}}
	for _, c := range []struct {
		name   string
		family Family
		v4, v6 any // []rr or a dnsmessage.RCode
		want   string
		asked  string
	}{
		{"auto takes IPv6", Auto, both, both, six + "/5s", "ip6"},
		{"auto falls back on no address", Auto, both, []rr{}, four + "/7s", "ip6 ip4"},
		{"auto falls back on no name", Auto, both, dnsmessage.RCodeNameError, four + "/7s", "ip6 ip4"},
		{"auto falls back on failure", Auto, both, dnsmessage.RCodeServerFailure, four + "/7s", "ip6 ip6 ip4"},
		{"auto finds nothing", Auto, []rr{}, dnsmessage.RCodeNameError, "empty", "ip6 ip4"},
		{"auto: failure and nothing", Auto, []rr{}, dnsmessage.RCodeRefused, "failed", "ip6 ip6 ip4"},
		{"auto: nothing and failure", Auto, dnsmessage.RCodeRefused, []rr{}, "failed", "ip6 ip4 ip4"},
		{"IPv4 only", V4Only, both, both, four + "/7s", "ip4"},
		{"IPv4 only, nothing", V4Only, []rr{}, both, "empty", "ip4"},
		{"IPv6 only", V6Only, both, both, six + "/5s", "ip6"},
		{"IPv6 only, failure", V6Only, both, dnsmessage.RCodeServerFailure, "failed", "ip6 ip6"},
		{"IPv4 preferred", V4Preferred, both, both, four + "/7s", "ip4"},
		{"IPv4 preferred falls back", V4Preferred, []rr{}, both, six + "/5s", "ip4 ip6"},
		{"all", All, both, both, four + "/7s " + six + "/5s", "ip4 ip6"},
		{"all: one is empty", All, both, []rr{}, four + "/7s", "ip4 ip6"},
		{"all: IPv6 fails", All, both, dnsmessage.RCodeServerFailure, four + "/7s lost6", "ip4 ip6 ip6"},
		{"all: IPv4 fails", All, dnsmessage.RCodeServerFailure, both, six + "/5s lost4", "ip4 ip4 ip6"},
		{"all: failure and nothing", All, dnsmessage.RCodeServerFailure, []rr{}, "failed", "ip4 ip4 ip6"},
		{"all: nothing", All, []rr{}, []rr{}, "empty", "ip4 ip6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, s, _ := lookUp(t, Config{Family: c.family}, func(q query) [][]byte {
				v := c.v4
				if q.family == "ip6" {
					v = c.v6
				}
				if code, ok := v.(dnsmessage.RCode); ok {
					return q.code(code)
				}
				return q.answers(v.([]rr)...)
			})
			if got := shown(r); got != c.want {
				t.Errorf("got %s, want %s (%v)", got, c.want, r.err)
			}
			var asked []string
			for _, q := range s.seen() {
				asked = append(asked, q.family)
			}
			if c.family == All { // both run concurrently
				slices.Sort(asked)
			}
			if systemAttempts == 2 && strings.Join(asked, " ") != c.asked {
				t.Errorf("asked %v, want %s", asked, c.asked)
			}
		})
	}
}

func TestOrderAndTTL(t *testing.T) {
	t.Parallel()
	a := func(n byte) string { return netip.AddrFrom4([4]byte{10, 0, 0, n}).String() }
	for _, c := range []struct {
		name string
		rrs  []rr
		want string
	}{
		{"the order of the response", []rr{{ip: a(9), ttl: 1}, {ip: a(1), ttl: 2}, {ip: "127.0.0.1", ttl: 3}, {ip: a(5), ttl: 4}}, "10.0.0.9/1s 10.0.0.1/2s 127.0.0.1/3s 10.0.0.5/4s"},
		{"an alias lives shorter", []rr{{alias: "x.test", ttl: 3}, {ip: a(1), ttl: 9}, {ip: a(2), ttl: 2}}, "10.0.0.1/3s 10.0.0.2/2s"},
		{"two aliases", []rr{{alias: "x.test", ttl: 30}, {alias: "y.test", ttl: 4}, {ip: a(1), ttl: 9}}, "10.0.0.1/4s"},
		{"an alias lives not at all", []rr{{alias: "x.test", ttl: 0}, {ip: a(1), ttl: 9}}, "10.0.0.1/0s"},
		{"an alias that goes nowhere", []rr{{alias: "x.test", ttl: 3}}, "empty"},
		{"aliases in a loop", []rr{{alias: "x.test", ttl: 3}, {alias: "recipes.test", ttl: 3}, {alias: "x.test", ttl: 3}}, "empty"},
		{"zero", []rr{{ip: a(1), ttl: 0}}, "10.0.0.1/0s"},
		{"68 years", []rr{{ip: a(1), ttl: 1<<31 - 1}}, "10.0.0.1/24h0m0s"},
		{"beyond RFC 2181", []rr{{ip: a(1), ttl: 1 << 31}, {ip: a(2), ttl: 1<<32 - 1}}, "10.0.0.1/0s 10.0.0.2/0s"},
		{"twice", []rr{{ip: a(1), ttl: 5}, {ip: a(1), ttl: 3}}, "10.0.0.1/5s 10.0.0.1/3s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, _, _ := lookUp(t, Config{Family: V4Only}, func(q query) [][]byte { return q.answers(c.rrs...) })
			if got := shown(r); got != c.want {
				t.Errorf("got %s, want %s (%v)", got, c.want, r.err)
			}
		})
	}
}

// TestHostileResponses sends what no server should, before or instead of a right response.
func TestHostileResponses(t *testing.T) {
	t.Parallel()
	evil := rr{ip: "6.6.6.6", ttl: 1 << 20}
	right := rr{ip: four, ttl: 3}
	name := func(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }
	for _, c := range []struct {
		name string
		evil func(q query) []byte
	}{
		{"another id", func(q query) []byte { return q.message(func(m *dnsmessage.Message) { m.ID++ }, evil) }},
		{"another name", func(q query) []byte {
			return q.message(func(m *dnsmessage.Message) { m.Questions[0].Name = name("evil.test.") }, evil)
		}},
		{"another type", func(q query) []byte {
			return q.message(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeMX }, evil)
		}},
		{"another class", func(q query) []byte {
			return q.message(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS }, evil)
		}},
		{"no question", func(q query) []byte { return q.message(func(m *dnsmessage.Message) { m.Questions = nil }, evil) }},
		{"a query", func(q query) []byte { return q.message(func(m *dnsmessage.Message) { m.Response = false }, evil) }},
		{"nothing", func(query) []byte { return nil }},
		{"a byte", func(query) []byte { return []byte{1} }},
		{"noise", func(query) []byte { return slices.Repeat([]byte{0xc0, 0xff}, 100) }},
		{"a name that points to itself", func(q query) []byte {
			b := binary.BigEndian.AppendUint16(nil, q.header.ID)
			return append(b, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, _, took := lookUp(t, Config{Family: V4Only}, func(q query) [][]byte {
				return [][]byte{c.evil(q), c.evil(q), q.message(nil, right)}
			})
			if got, want := shown(r), four+"/3s"; got != want || took != 0 {
				t.Errorf("got %s after %v, want %s immediately (%v)", got, took, want, r.err)
			}
			r, _, _ = lookUp(t, Config{Family: V4Only}, func(q query) [][]byte { return [][]byte{c.evil(q)} })
			if got := shown(r); got != "failed" {
				t.Errorf("alone: got %s, want failed", got)
			}
			r, _, _ = lookUp(t, Config{Family: V4Only, UseTCP: true}, func(q query) [][]byte { return [][]byte{c.evil(q)} })
			if got := shown(r); got != "failed" {
				t.Errorf("alone over TCP: got %s, want failed", got)
			}
		})
	}
}

// TestMalformedRecord: what comes before a malformed record counts, as in package net.
func TestMalformedRecord(t *testing.T) {
	t.Parallel()
	for _, cut := range []int{1, 5, 15} {
		r, _, _ := lookUp(t, Config{Family: V4Only}, func(q query) [][]byte {
			m := q.message(nil, rr{ip: four, ttl: 3}, rr{ip: four2, ttl: 1})
			return [][]byte{m[:len(m)-cut]}
		})
		if got, want := shown(r), four+"/3s"; got != want {
			t.Errorf("without the last %d bytes: got %s, want %s (%v)", cut, got, want, r.err)
		}
	}
}

func TestTruncated(t *testing.T) {
	t.Parallel()
	cut := func(m *dnsmessage.Message) { m.Truncated = true }
	t.Run("more over TCP", func(t *testing.T) {
		t.Parallel()
		r, s, _ := lookUp(t, Config{Family: V4Only, Servers: []string{"10.0.0.53", "10.0.0.54"}}, func(q query) [][]byte {
			if q.network == "udp" {
				return [][]byte{q.message(cut, rr{ip: four2, ttl: 1})}
			}
			return q.answers(rr{ip: four, ttl: 3}, rr{ip: four2, ttl: 4})
		})
		if got, want := shown(r), four+"/3s "+four2+"/4s"; got != want {
			t.Errorf("got %s, want %s (%v)", got, want, r.err)
		}
		if q := s.seen(); len(q) != 2 || q[0].server != q[1].server {
			t.Errorf("got queries %v, want two to the same server", q)
		}
	})
	t.Run("over TCP too", func(t *testing.T) {
		t.Parallel()
		r, _, _ := lookUp(t, Config{Family: V4Only}, func(q query) [][]byte {
			return [][]byte{q.message(cut, rr{ip: four, ttl: 3})}
		})
		if got, want := shown(r), four+"/3s"; got != want {
			t.Errorf("got %s, want %s, as package net takes it (%v)", got, want, r.err)
		}
	})
	t.Run("in the middle of a message", func(t *testing.T) {
		t.Parallel()
		r, _, _ := lookUp(t, Config{Family: V4Only, UseTCP: true}, func(q query) [][]byte {
			m := q.message(nil, rr{ip: four, ttl: 3})
			return [][]byte{m[:20]}
		})
		if got := shown(r); got != "failed" {
			t.Errorf("got %s, want failed", got)
		}
	})
}

func TestUseTCP(t *testing.T) {
	t.Parallel()
	r, s, _ := lookUp(t, Config{UseTCP: true}, func(q query) [][]byte { return q.answers(rr{ip: four, ttl: 3}) })
	if got, want := shown(r), four+"/3s"; got != want {
		t.Errorf("got %s, want %s (%v)", got, want, r.err)
	}
	for _, q := range s.seen() {
		if q.network != "tcp" {
			t.Errorf("got a query over %s, want all over tcp", q.network)
		}
	}
}

// TestServers: a server is used until it fails to respond, and the next lookup begins with
// the one that responded last.
func TestServers(t *testing.T) {
	t.Parallel()
	three := []string{"10.0.0.1", "10.0.0.2:5353", "[2001:db8::1]:53"}
	var good atomic.Value
	respond := func(q query) [][]byte {
		if good.Load() != q.server {
			return nil
		}
		return q.answers(rr{ip: four, ttl: 3})
	}
	servers := func(s *server) (got []string) {
		for _, q := range s.seen() {
			got = append(got, q.server)
		}
		return got
	}
	synctest.Test(t, func(t *testing.T) {
		s := newServer(respond)
		c, err := Config{Family: V4Only, Servers: three, NoSearch: true, Dial: s.dial, Timeout: 3 * time.Second}.normal()
		if err != nil {
			t.Fatal(err)
		}
		l := &lookup{cfg: &c, name: "recipes.test"}
		for _, step := range []struct {
			good string
			want []string
			took time.Duration
		}{
			{"10.0.0.1:53", []string{"10.0.0.1:53"}, 0},
			{"10.0.0.2:5353", []string{"10.0.0.1:53", "10.0.0.2:5353"}, time.Second},
			{"10.0.0.2:5353", []string{"10.0.0.2:5353"}, 0},
			{"10.0.0.1:53", []string{"10.0.0.2:5353", "[2001:db8::1]:53", "10.0.0.1:53"}, 2 * time.Second},
			{"", []string{"10.0.0.1:53", "10.0.0.2:5353", "[2001:db8::1]:53"}, 3 * time.Second},
			{"[2001:db8::1]:53", []string{"[2001:db8::1]:53"}, 0},
		} {
			good.Store(step.good)
			before, begin := len(s.seen()), time.Now()
			r := l.do(t.Context())
			if (r.err == nil) != (step.good != "") {
				t.Errorf("%q is good: got error %v", step.good, r.err)
			}
			if diff := cmp.Diff(step.want, servers(s)[before:]); diff != "" {
				t.Errorf("%q is good: servers asked (-want +got):\n%s", step.good, diff)
			}
			if took := time.Since(begin); took != step.took {
				t.Errorf("%q is good: took %v, want %v", step.good, took, step.took)
			}
		}
	})
}

// TestServersFailing: a server that says that it cannot is as bad as one that does not respond;
// that a name does not exist is final.
func TestServersFailing(t *testing.T) {
	t.Parallel()
	for code, want := range map[dnsmessage.RCode]string{
		dnsmessage.RCodeServerFailure: "a b", dnsmessage.RCodeRefused: "a b", dnsmessage.RCodeNotImplemented: "a b", dnsmessage.RCodeFormatError: "a b",
		dnsmessage.RCodeNameError: "a",
	} {
		_, s, _ := lookUp(t, Config{Family: V4Only, Servers: []string{"10.0.0.1", "10.0.0.2"}}, func(q query) [][]byte {
			if q.server == "10.0.0.1:53" {
				return q.code(code)
			}
			return q.answers(rr{ip: four, ttl: 3})
		})
		var got []string
		for _, q := range s.seen() {
			got = append(got, map[string]string{"10.0.0.1:53": "a", "10.0.0.2:53": "b"}[q.server])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%v: asked %v, want %s", code, got, want)
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	for _, tcp := range []bool{false, true} {
		r, _, took := lookUp(t, Config{UseTCP: tcp, Timeout: 4 * time.Second}, func(query) [][]byte { return nil })
		if took > 8*time.Second || took < 4*time.Second {
			t.Errorf("TCP %v: took %v, want at most 4s for each family", tcp, took)
		}
		if dns, ok := errors.AsType[*net.DNSError](r.err); !ok || !dns.IsTimeout {
			t.Errorf("TCP %v: got %v, want a DNSError that is a timeout", tcp, r.err)
		}
	}
}

// TestCancel: the end of the context ends a lookup that waits for a response, and no goroutine
// is left (the bubble would say so).
func TestCancel(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{{}, {UseTCP: true}, {Family: All}} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(func(query) [][]byte { return nil })
			c.Dial, c.NoSearch = s.dial, true
			normal, err := c.normal()
			if err != nil {
				t.Fatal(err)
			}
			l := &lookup{cfg: &normal, name: "recipes.test"}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			if r := l.do(ctx); r.err == nil || time.Since(begin) != time.Second {
				t.Errorf("got %v after %v, want an error after 1s", r.err, time.Since(begin))
			}
		})
	}
}

func TestDialFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("no route")
	c, err := Config{NoSearch: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, broken }}.normal()
	if err != nil {
		t.Fatal(err)
	}
	l := &lookup{cfg: &c, name: "recipes.test"}
	if r := l.do(t.Context()); r.err == nil || !strings.Contains(r.err.Error(), "no route") {
		t.Errorf("got %v, want what Dial returned", r.err)
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	for _, c := range []Config{
		{NoSearch: true, Dial: func(context.Context, string, string) (net.Conn, error) { panic("soup") }},
		{Lookup: func(context.Context, string, string) ([]Record, error) { panic("soup") }},
	} {
		normal, err := c.normal()
		if err != nil {
			t.Fatal(err)
		}
		l := &lookup{cfg: &normal, name: "recipes.test"}
		r := l.do(t.Context())
		p, ok := errors.AsType[*PanicError](r.err)
		if !ok || p.Value != "soup" || !strings.Contains(string(p.Stack), "TestPanics") {
			t.Errorf("got %v, want a PanicError with the stack", r.err)
		}
	}
}

// TestLiteral: an address stands for itself in every family and is never looked up.
func TestLiteral(t *testing.T) {
	t.Parallel()
	for _, name := range []string{four, six, "::ffff:10.0.0.1"} {
		for f := Auto; f <= All; f++ {
			c := Config{Family: f, Lookup: func(context.Context, string, string) ([]Record, error) {
				return nil, errors.New("looked up")
			}}
			l := &lookup{cfg: &c, name: name}
			if r := l.do(t.Context()); r.err != nil || len(r.records) != 1 || r.records[0].Addr.String() != name {
				t.Errorf("%s: got %v, %v", name, r.records, r.err)
			}
		}
	}
}

func TestNoSearch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		noSearch bool
		want     string
	}{{"recipes", true, "recipes."}, {"recipes.", true, "recipes."}, {"recipes.test.", false, "recipes.test."}, {"recipes", false, "recipes"}} {
		l := &lookup{cfg: &Config{NoSearch: c.noSearch}, name: c.name}
		if got := l.fullName(); got != c.want {
			t.Errorf("%q, NoSearch %v: got %q, want %q", c.name, c.noSearch, got, c.want)
		}
	}
	_, s, _ := lookUp(t, Config{Family: V4Only}, func(q query) [][]byte { return q.code(dnsmessage.RCodeNameError) })
	if q := s.seen(); len(q) != 1 || q[0].name != "recipes.test" {
		t.Errorf("got queries %v, want one for the name as it is", q)
	}
}

// TestSockets looks up over real sockets, with a response that only TCP can carry.
func TestSockets(t *testing.T) {
	t.Parallel()
	const many = 3000
	var rrs []rr
	for i := range many {
		rrs = append(rrs, rr{ip: netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}).String(), ttl: 60})
	}
	slices.Reverse(rrs)
	s := newServer(func(q query) [][]byte {
		if q.network == "udp" {
			return [][]byte{q.message(func(m *dnsmessage.Message) { m.ID++ }), q.message(func(m *dnsmessage.Message) { m.Truncated = true })}
		}
		return q.answers(rrs...)
	})
	c, err := Config{Family: V4Preferred, Servers: []string{s.listen(t)}, NoSearch: true}.normal()
	if err != nil {
		t.Fatal(err)
	}
	l := &lookup{cfg: &c, name: "recipes.test"}
	r := l.do(t.Context())
	if r.err != nil || len(r.records) != many {
		t.Fatalf("got %d records, error %v, want %d", len(r.records), r.err, many)
	}
	for i, rec := range r.records {
		if rec.Addr.String() != rrs[i].ip || rec.TTL != time.Minute {
			t.Fatalf("record %d: got %v, want %s for 1m", i, rec, rrs[i].ip)
		}
	}
}

// TestFile: a name from the system's file of hosts is found there, also if it is not to be
// searched for.
func TestFile(t *testing.T) {
	t.Parallel()
	for _, noSearch := range []bool{false, true} {
		c, err := Config{Family: V4Preferred, NoSearch: noSearch, Dial: func(context.Context, string, string) (net.Conn, error) {
			t.Error("a DNS server is asked")
			return nil, errors.New("no server")
		}}.normal()
		if err != nil {
			t.Fatal(err)
		}
		l := &lookup{cfg: &c, name: "localhost"}
		if r := l.do(t.Context()); r.err != nil || len(r.records) == 0 || !r.records[0].Addr.IsLoopback() {
			t.Errorf("NoSearch %v: got %v, %v, want a loopback address", noSearch, r.records, r.err)
		}
	}
}

// TestSystem asks the system's resolver, which knows localhost everywhere.
func TestSystem(t *testing.T) {
	t.Parallel()
	c, err := Config{Family: V4Preferred}.normal()
	if err != nil {
		t.Fatal(err)
	}
	l := &lookup{cfg: &c, name: "localhost"}
	r := l.do(t.Context())
	if r.err != nil || len(r.records) == 0 || !r.records[0].Addr.IsLoopback() || r.records[0].TTL != 0 {
		t.Errorf("got %v, %v, want a loopback address without a TTL", r.records, r.err)
	}
}
