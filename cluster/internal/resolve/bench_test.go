package resolve

import (
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

func many(n int) (rrs []rr) {
	for i := range n {
		rrs = append(rrs, rr{ip: netip.AddrFrom4([4]byte{127, byte(i >> 16), byte(i >> 8), byte(i)}).String(), ttl: 60})
	}
	return rrs
}

// BenchmarkReadAnswer reads a response, as a lookup does beside package net.
func BenchmarkReadAnswer(b *testing.B) {
	for _, n := range []int{1, 100, 3000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			q := query{family: "ip4", asked: dnsmessage.Question{Name: dnsmessage.MustNewName("recipes.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}
			msg := q.message(nil, many(n)...)
			b.ReportAllocs()
			for b.Loop() {
				if a, ok := readAnswer(msg, asked{0, q.asked}, true); !ok || len(a.records) != n {
					b.Fatal(len(a.records))
				}
			}
		})
	}
}

// BenchmarkLookup looks a name up over loopback, by Go's resolver with its sorting.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 100, 3000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			rrs := many(n)
			s := newServer(func(q query) [][]byte { return q.answers(rrs...) })
			c, err := Config{Family: V4Only, NoSearch: true, UseTCP: true, Servers: []string{s.listen(b)}}.normal()
			if err != nil {
				b.Fatal(err)
			}
			l := &lookup{cfg: &c, name: "recipes.test"}
			b.ReportAllocs()
			for b.Loop() {
				if r := l.do(b.Context()); len(r.records) != n {
					b.Fatal(r.err)
				}
			}
		})
	}
}

// BenchmarkSettle settles the same response again and again, and one in another order.
func BenchmarkSettle(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		for _, order := range []string{"same", "reversed"} {
			b.Run(fmt.Sprint(n, order), func(b *testing.B) {
				var there, back []Record
				for i := range n {
					there = append(there, Record{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), time.Minute})
				}
				for i := range there {
					back = append(back, there[n-1-i])
				}
				if order == "same" {
					back = there
				}
				c, err := Config{Targets: []Target{{Name: "recipes.test"}}, RespectTTL: true}.normal()
				if err != nil {
					b.Fatal(err)
				}
				var k known
				k.settle(&c, result{records: there})
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					if v := k.settle(&c, result{records: [][]Record{back, there}[i%2]}); v.changed {
						b.Fatal("changed")
					}
				}
			})
		}
	}
}
