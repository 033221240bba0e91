package soak

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// h1act is what a scripted HTTP/1 server does with a request. It reports whether the
// connection can continue.
type h1act struct {
	name string
	play func(p *link, d dice) bool
}

// ends are the ways in which a response stops.
func (p *link) stop(d dice) bool {
	switch d.IntN(5) {
	case 0:
		p.fin()
	case 1:
		p.reset()
	case 2:
		p.damage(d)
		p.fin()
	case 3: // silence
	case 4:
		return false // closed
	}
	p.hang()
	return false
}

// respond writes a whole response with a length.
func (p *link) respond(head, body string) bool {
	p.say(fmt.Sprintf("HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body))
	return true
}

// chunk writes one chunk of a response whose length is not known.
func (p *link) chunk(text string) error {
	_, err := fmt.Fprintf(p, "%x\r\n%s\r\n", len(text), text)
	return err
}

func filler(d dice, most int) string { return strings.Repeat("x", d.IntN(most)) }

var malformed = []string{
	"\r\n", "HTTP/1.1\r\n\r\n", "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/9.9 200 OK\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
	"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: soup\r\n\r\n", "SSH-2.0-soup\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 80<<10),
	"HTTP/1.1 099 Low\r\n\r\n", "HTTP/1.1 204 None\r\nContent-Length: 4\r\n\r\nsoup", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}

var h1acts = []h1act{
	{"ok", func(p *link, d dice) bool { return p.respond("200 OK", filler(d, 2000)) }},
	{"ok", func(p *link, d dice) bool { return p.respond("200 OK", filler(d, 20)) }},
	{"chunked, with trailers", func(p *link, d dice) bool {
		p.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-End\r\n\r\n")
		for range d.IntN(4) {
			_ = p.chunk("soup")
		}
		p.say("0\r\nX-End: 1\r\n\r\n")
		return true
	}},
	{"until closed", func(p *link, d dice) bool {
		p.say("HTTP/1.0 200 OK\r\n\r\n" + filler(d, 2000))
		return p.stop(d)
	}},
	{"no body", func(p *link, d dice) bool {
		p.say("HTTP/1.1 " + pick(d, "204 No Content", "304 Not Modified", "200 OK\r\nContent-Length: 0") + "\r\n\r\n")
		return true
	}},
	{"a bad status", func(p *link, d dice) bool {
		head := pick(d, "404 No", "409 Conflict", "429 Many\r\nRetry-After: 0", "500 Bad", "502 Bad", "503 Busy\r\nRetry-After: 1",
			"503 Busy\r\nX-Envoy-Ratelimited: true", "504 Late", "200 OK\r\nX-Again: 1", "503 Busy\r\nX-Envoy-Overloaded: true")
		return p.respond(head, filler(d, 200<<10))
	}},
	{"a large body", func(p *link, d dice) bool { return p.respond("200 OK", filler(d, 4<<20)) }},
	{"a slow body", func(p *link, d dice) bool {
		p.say("HTTP/1.1 " + pick(d, "200 OK", "503 Busy") + "\r\nTransfer-Encoding: chunked\r\n\r\n")
		for range 10 {
			time.Sleep(d.upTo(20 * time.Millisecond))
			_ = p.chunk("soup")
		}
		p.say("0\r\n\r\n")
		return true
	}},
	{"an endless body", func(p *link, d dice) bool {
		p.say("HTTP/1.1 " + pick(d, "200 OK", "503 Busy") + "\r\nTransfer-Encoding: chunked\r\n\r\n")
		for p.chunk(filler(d, 10<<10)+"x") == nil {
			time.Sleep(d.upTo(5 * time.Millisecond))
		}
		return false
	}},
	{"a cut body", func(p *link, d dice) bool {
		p.say("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + filler(d, 90000))
		return p.stop(d)
	}},
	{"a cut chunk", func(p *link, d dice) bool {
		p.say("HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + filler(d, 2000))
		return p.stop(d)
	}},
	{"nothing", func(p *link, d dice) bool { return p.stop(d) }},
	{"nothing at first", func(p *link, d dice) bool {
		time.Sleep(d.upTo(200 * time.Millisecond))
		return p.respond("200 OK", "late")
	}},
	{"half a head", func(p *link, d dice) bool {
		head := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Soup: yes\r\n\r\n"
		p.say(head[:d.IntN(len(head))])
		return p.stop(d)
	}},
	{"a malformed head", func(p *link, d dice) bool {
		p.say(pick(d, malformed...))
		return p.stop(d)
	}},
	{"1xx, then a response", func(p *link, d dice) bool {
		for range 1 + d.IntN(3) {
			p.say("HTTP/1.1 " + pick(d, "100 Continue", "102 Wait", "103 Early Hints\r\nLink: </soup>") + "\r\n\r\n")
		}
		return p.respond(pick(d, "200 OK", "503 Busy"), filler(d, 100))
	}},
	{"1xx, then nothing", func(p *link, d dice) bool {
		p.say("HTTP/1.1 103 Early Hints\r\n\r\n")
		return p.stop(d)
	}},
	{"an upgrade", func(p *link, d dice) bool {
		p.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: soup\r\nConnection: Upgrade\r\n\r\n")
		_, _ = io.CopyN(p.Conn, p.in, 4)
		return d.once(2) && p.stop(d)
	}},
	{"bytes behind the response", func(p *link, d dice) bool {
		p.respond("200 OK", filler(d, 100))
		p.say(filler(d, 100))
		return true
	}},
	{"a response, then the end", func(p *link, d dice) bool {
		p.respond("200 OK\r\n"+pick(d, "X: y", "Connection: close"), filler(d, 100))
		return p.stop(d)
	}},
}

// playHTTP1 serves one connection.
func playHTTP1(p *link) {
	for {
		req, err := http.ReadRequest(p.in)
		if err != nil {
			return
		}
		record, d := p.plan(req.Header)
		if req.Header.Get("Expect") != "" && d.once(2) {
			p.say("HTTP/1.1 100 Continue\r\n\r\n")
		}
		whole := true
		switch d.IntN(8) {
		case 0:
			whole = req.ContentLength == 0
		case 1:
			_, _ = io.CopyN(io.Discard, req.Body, d.Int64N(2000))
			whole = false
		default:
			_, _ = io.Copy(io.Discard, req.Body)
		}
		act := h1acts[d.IntN(len(h1acts))]
		if req.Header.Get(behaveHeader) != "" {
			act = h1acts[0]
		}
		record.note("server: %s", act.name)
		if !act.play(p, d) || !whole {
			return
		}
	}
}
