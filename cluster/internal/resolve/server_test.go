package resolve

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// query is a query that the server received.
type query struct {
	name    string // lower case, without the last dot
	family  string // "ip4" or "ip6"
	network string // "udp" or "tcp"
	server  string // the address that was dialed
	n       int    // how many queries for this name and family there were before
	header  dnsmessage.Header
	asked   dnsmessage.Question
}

// server is a DNS server that responds as a test says: with any number of messages per query,
// right or wrong ones. It is reached in memory by dial, or over loopback by listen.
type server struct {
	respond func(q query) [][]byte

	mu      sync.Mutex
	queries []query
	count   map[string]int
}

// newServer returns a server that responds so.
func newServer(respond func(q query) [][]byte) *server {
	return &server{respond: respond, count: map[string]int{}}
}

func (s *server) handle(msg []byte, network, address string) [][]byte {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil
	}
	asked, err := p.Question()
	if err != nil {
		return nil
	}
	q := query{network: network, server: address, header: h, asked: asked, family: "ip4"}
	q.name = strings.ToLower(strings.TrimSuffix(asked.Name.String(), "."))
	if asked.Type == dnsmessage.TypeAAAA {
		q.family = "ip6"
	}
	s.mu.Lock()
	key := q.name + q.family
	q.n = s.count[key]
	s.count[key]++
	s.queries = append(s.queries, q)
	s.mu.Unlock()
	return s.respond(q)
}

// seen returns the queries so far.
func (s *server) seen() []query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]query(nil), s.queries...)
}

// rr is a resource of a response: an address, or an alias.
type rr struct {
	ip    string
	alias string // the owner of the records that follow
	ttl   uint32
}

// message builds a response to q. The records after an alias belong to it.
func (q query) message(edit func(*dnsmessage.Message), rrs ...rr) []byte {
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: q.header.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q.asked},
	}
	owner := q.asked.Name
	for _, r := range rrs {
		res := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: r.ttl}}
		if r.alias != "" {
			owner = dnsmessage.MustNewName(r.alias + ".")
			res.Body = &dnsmessage.CNAMEResource{CNAME: owner}
		} else if a := netip.MustParseAddr(r.ip); a.Is4() {
			res.Body = &dnsmessage.AResource{A: a.As4()}
		} else {
			res.Body = &dnsmessage.AAAAResource{AAAA: a.As16()}
		}
		m.Answers = append(m.Answers, res)
	}
	if edit != nil {
		edit(&m)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// answers responds with those of rrs that are of the family asked for.
func (q query) answers(rrs ...rr) [][]byte {
	var fit []rr
	for _, r := range rrs {
		if r.alias != "" || (q.family == "ip4") == strings.Contains(r.ip, ".") {
			fit = append(fit, r)
		}
	}
	return [][]byte{q.message(nil, fit...)}
}

// code responds with nothing but a code.
func (q query) code(c dnsmessage.RCode) [][]byte {
	return [][]byte{q.message(func(m *dnsmessage.Message) { m.RCode = c })}
}

// dial is a [Config.Dial] to the server in memory, for bubbles.
func (s *server) dial(_ context.Context, network, address string) (net.Conn, error) {
	if network == "tcp" {
		client, server := net.Pipe()
		go s.serveStream(server, address)
		return client, nil
	}
	return &packets{s: s, address: address, in: make(chan []byte, 16), closed: make(chan struct{})}, nil
}

// serveStream responds to queries that come from conn until it ends.
func (s *server) serveStream(conn net.Conn, address string) {
	defer conn.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, msg); err != nil {
			return
		}
		for _, m := range s.handle(msg, "tcp", address) {
			if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...)); err != nil {
				return
			}
		}
	}
}

// packets is a UDP connection to a server in memory.
type packets struct {
	net.PacketConn // not used
	s              *server
	address        string
	in             chan []byte
	deadline       time.Time
	once           sync.Once
	closed         chan struct{}
}

func (p *packets) Write(b []byte) (int, error) {
	msg := append([]byte(nil), b...)
	go func() {
		for _, m := range p.s.handle(msg, "udp", p.address) {
			select {
			case p.in <- m:
			case <-p.closed:
			}
		}
	}()
	return len(b), nil
}

func (p *packets) Read(b []byte) (int, error) {
	timer := time.NewTimer(time.Until(p.deadline))
	defer timer.Stop()
	select {
	case m := <-p.in:
		return copy(b, m), nil
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *packets) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *packets) SetDeadline(t time.Time) error { p.deadline = t; return nil }
func (p *packets) RemoteAddr() net.Addr          { return &net.UDPAddr{} }
func (p *packets) LocalAddr() net.Addr           { return &net.UDPAddr{} }

// listen serves over loopback, on one port for both networks, until the test ends.
func (s *server) listen(tb testing.TB) string {
	tb.Helper()
	for {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		address := udp.LocalAddr().String()
		tcp, err := net.Listen("tcp", address)
		if err != nil { // the port is taken there: another one
			udp.Close()
			continue
		}
		var running sync.WaitGroup
		running.Go(func() { s.servePackets(udp, address) })
		running.Go(func() { s.serveStreams(tcp, address) })
		tb.Cleanup(func() {
			udp.Close()
			tcp.Close()
			running.Wait()
		})
		return address
	}
}

func (s *server) servePackets(udp net.PacketConn, address string) {
	b := make([]byte, 4096)
	for {
		n, from, err := udp.ReadFrom(b)
		if err != nil {
			return
		}
		for _, m := range s.handle(b[:n], "udp", address) {
			udp.WriteTo(m, from)
		}
	}
}

func (s *server) serveStreams(tcp net.Listener, address string) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := tcp.Accept()
		if err != nil {
			return
		}
		running.Go(func() { s.serveStream(conn, address) })
	}
}
