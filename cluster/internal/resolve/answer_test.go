package resolve

import (
	"context"
	"encoding/binary"
	"maps"
	"net"
	"slices"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// FuzzAnswer has package net and readAnswer read the same response to a query: either both
// find no address in it, or both find the same ones, and each has a TTL within bounds.
func FuzzAnswer(f *testing.F) {
	name := dnsmessage.MustNewName("recipes.test.")
	q := query{family: "ip4", asked: dnsmessage.Question{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
	for _, rrs := range [][]rr{
		nil,
		{{ip: "10.0.0.1", ttl: 3}, {ip: "10.0.0.2", ttl: 1<<32 - 1}},
		{{alias: "x.test", ttl: 2}, {ip: "10.0.0.1", ttl: 3}},
		{{ip: "2001:db8::1", ttl: 3}, {ip: "10.0.0.1", ttl: 3}},
	} {
		m := q.message(nil, rrs...)
		f.Add(m)
		f.Add(m[:len(m)-3])
	}
	f.Add(q.message(func(m *dnsmessage.Message) { m.RCode, m.Truncated = dnsmessage.RCodeServerFailure, true }))
	f.Add(q.message(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }, rr{ip: "10.0.0.1"}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) > 1<<16-1 {
			return
		}
		s := newServer(func(q query) [][]byte {
			m := slices.Clone(msg)
			if len(m) >= 2 {
				binary.BigEndian.PutUint16(m, q.header.ID)
			}
			return [][]byte{m}
		})
		c, err := Config{UseTCP: true, NoSearch: true, Dial: s.dial}.normal()
		if err != nil {
			t.Fatal(err)
		}
		w := &wire{cfg: &c}
		r := net.Resolver{PreferGo: true, Dial: w.dial}
		addrs, err := r.LookupNetIP(context.Background(), "ip4", "recipes.test.")
		_, records, _ := w.outcome()
		for _, rec := range records {
			if rec.TTL < 0 || rec.TTL > longest || !rec.Addr.IsValid() {
				t.Errorf("got record %v", rec)
			}
		}
		if err != nil {
			return
		}
		received, got := map[string]bool{}, map[string]bool{}
		for _, rec := range records {
			if rec.Addr.Is4() {
				received[rec.Addr.String()] = true
			}
		}
		for _, a := range addrs {
			got[a.Unmap().String()] = true
		}
		if !maps.Equal(received, got) {
			t.Errorf("read addresses %v, package net found %v", received, got)
		}
	})
}

func TestReadQuery(t *testing.T) {
	t.Parallel()
	for _, b := range [][]byte{nil, {1}, make([]byte, 12)} {
		if q, ok := readQuery(b); ok {
			t.Errorf("%x: got query %v, want none", b, q)
		}
	}
}
