package resolve

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// asked is what a query asks for.
type asked struct {
	id uint16
	dnsmessage.Question
}

// readQuery returns what the query msg asks for.
func readQuery(msg []byte) (asked, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return asked{}, false
	}
	q, err := p.Question()
	return asked{h.ID, q}, err == nil
}

// answer is a response to a query, as far as it matters here.
type answer struct {
	// final is false if another server may know better.
	final   bool
	records []Record
}

// readAnswer reads the response msg to q. It reports false if msg is no response to q, or is
// cut off and to be asked for again over TCP. Like package net, it takes the addresses of all
// records, whatever names they belong to, and those before a malformed one.
func readAnswer(msg []byte, q asked, stream bool) (answer, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != q.id || (h.Truncated && !stream) {
		return answer{}, false
	}
	if got, err := p.Question(); err != nil || !same(got, q.Question) || p.SkipAllQuestions() != nil {
		return answer{}, false
	}
	final := h.RCode == dnsmessage.RCodeSuccess || h.RCode == dnsmessage.RCodeNameError
	return answer{final, readRecords(&p)}, true
}

func same(a, b dnsmessage.Question) bool {
	return a.Type == b.Type && a.Class == b.Class && strings.EqualFold(a.Name.String(), b.Name.String())
}

// readRecords returns the addresses in the answer section, none with a longer TTL than the
// aliases there: Envoy's rule.
func readRecords(p *dnsmessage.Parser) []Record {
	var records []Record
	alias := longest
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			break
		}
		if h.Type == dnsmessage.TypeCNAME {
			alias = min(alias, lifetime(h.TTL))
		}
		addr, err := readAddr(p, h.Type)
		if err != nil {
			break
		}
		if addr.IsValid() {
			records = append(records, Record{addr, lifetime(h.TTL)})
		}
	}
	for i := range records {
		records[i].TTL = min(records[i].TTL, alias)
	}
	return records
}

// readAddr returns the address in the record that p is at, which is of type t, or no address
// if that is another type.
func readAddr(p *dnsmessage.Parser, t dnsmessage.Type) (netip.Addr, error) {
	switch t {
	case dnsmessage.TypeA:
		r, err := p.AResource()
		return netip.AddrFrom4(r.A), err
	case dnsmessage.TypeAAAA:
		r, err := p.AAAAResource()
		return netip.AddrFrom16(r.AAAA), err
	default:
		return netip.Addr{}, p.SkipAnswer()
	}
}

// lifetime returns the duration of a TTL. One with the highest bit set counts as zero, as
// RFC 2181 wants.
func lifetime(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}
