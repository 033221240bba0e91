package resolve

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// asked is the question of a query.
type asked struct {
	id uint16
	dnsmessage.Question
}

// readQuery returns the question of the query msg.
func readQuery(msg []byte) (asked, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.Response {
		return asked{}, false
	}
	q, err := p.Question()
	return asked{h.ID, q}, err == nil
}

// answer holds the relevant parts of a response to a query.
type answer struct {
	// final is false if another server may have a better response.
	final   bool
	records []Record
}

// readAnswer reads the response msg to q. It returns false if msg is not a response to q, or is
// truncated, so that the query is repeated over TCP. Like package net, it uses the addresses of
// all records, whatever their names, and of the records before a malformed one.
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

// readRecords returns the addresses in the answer section. As in Envoy, their TTLs are at most
// those of the aliases in the section.
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

// readAddr returns the address in the current record of p, which has type t. It returns no address
// for other types.
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

// lifetime returns the duration of a TTL. As in RFC 2181, a TTL with the highest bit set counts as
// zero.
func lifetime(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}
