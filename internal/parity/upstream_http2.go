package parity

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// errorCode returns the code of an RST_STREAM by its name.
func errorCode(name string) (http2.ErrCode, bool) {
	for code := http2.ErrCodeNo; code <= http2.ErrCodeHTTP11Required; code++ {
		if code.String() == name {
			return code, true
		}
	}
	return 0, false
}

// http2conn is one connection.
type http2conn struct {
	net.Conn
	up      *upstream
	host    Host
	n       int
	streams map[uint32]*stream // used only by the reading goroutine
	gone    chan struct{}      // closed when the other side has closed the connection

	mu     sync.Mutex
	framer *http2.Framer // writing is guarded by mu
	block  bytes.Buffer  // guarded by mu
	hpack  *hpack.Encoder
}

// stream is one request.
type stream struct {
	id    uint32
	req   *http.Request
	body  int
	reset chan struct{} // closed when the other side has reset the stream
}

// serveHTTP2 responds to requests until the connection ends.
func (u *upstream) serveHTTP2(conn net.Conn, h Host, n int) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c := &http2conn{Conn: conn, up: u, host: h, n: n, streams: map[uint32]*stream{}, gone: make(chan struct{})}
	c.framer = http2.NewFramer(conn, conn)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.hpack = hpack.NewEncoder(&c.block)
	_ = c.framer.WriteSettings() // the next read reports a broken connection
	var playing sync.WaitGroup
	defer playing.Wait()
	defer close(c.gone)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return
		}
		if s := c.handle(frame); s != nil {
			playing.Go(func() { c.play(s) })
		}
	}
}

// handle processes a frame, and returns the stream whose request the frame completes.
func (c *http2conn) handle(frame http2.Frame) *stream {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.write(func() error { return c.framer.WriteSettingsAck() })
		}
	case *http2.PingFrame:
		if data := f.Data; !f.IsAck() {
			c.write(func() error { return c.framer.WritePing(true, data) })
		}
	case *http2.RSTStreamFrame:
		if s := c.streams[f.StreamID]; s != nil {
			close(s.reset)
			delete(c.streams, f.StreamID)
		}
	case *http2.MetaHeadersFrame:
		s := &stream{id: f.StreamID, req: requestOf(f), reset: make(chan struct{})}
		c.streams[f.StreamID] = s
		if f.StreamEnded() {
			return s
		}
	case *http2.DataFrame:
		return c.data(f)
	}
	return nil
}

// data processes a part of a body.
func (c *http2conn) data(f *http2.DataFrame) *stream {
	if n := uint32(len(f.Data())); n > 0 { //nolint:gosec // the length of a frame has 24 bits
		c.write(func() error { return c.framer.WriteWindowUpdate(0, n) })
		c.write(func() error { return c.framer.WriteWindowUpdate(f.StreamID, n) })
	}
	s := c.streams[f.StreamID]
	if s == nil {
		return nil
	}
	s.body += len(f.Data())
	if f.StreamEnded() {
		return s
	}
	return nil
}

// requestOf makes a request from its headers.
func requestOf(f *http2.MetaHeadersFrame) *http.Request {
	req := &http.Request{Method: f.PseudoValue("method"), Header: http.Header{}, URL: &url.URL{}}
	if u, err := url.ParseRequestURI(f.PseudoValue("path")); err == nil {
		req.URL = u
	}
	for _, h := range f.RegularFields() {
		req.Header.Add(h.Name, h.Value)
	}
	req.ContentLength, _ = strconv.ParseInt(req.Header.Get("Content-Length"), 10, 64)
	return req
}

// write runs one write at a time.
func (c *http2conn) write(do func() error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return do() == nil
}

// play executes the step of the request.
func (c *http2conn) play(s *stream) {
	step, at := c.up.take(c.host, c.n, s.req, s.body)
	gone := s.reset
	if step.Action == "hang" {
		c.up.end(at, c.hang(s))
		return
	}
	if !c.up.wait(step.delay(), gone) {
		c.up.end(at, true)
		return
	}
	switch step.Action {
	case "reset":
		c.up.end(at, false)
		reset(c.Conn)
	case "fin":
		c.up.end(at, false)
		_ = c.Close() // best effort
	case "garbage":
		_, err := io.WriteString(c, garbage)
		c.up.end(at, err != nil)
		_ = c.Close() // best effort
	case "rst_stream":
		code, _ := errorCode(step.Code)
		c.up.end(at, !c.write(func() error { return c.framer.WriteRSTStream(s.id, code) }))
	case "reset_after_headers":
		ok := c.head(s, step, false) && c.write(func() error { return c.framer.WriteData(s.id, false, []byte(step.Body)) }) &&
			c.up.wait(delivery, nil) && c.write(func() error { return c.framer.WriteRSTStream(s.id, http2.ErrCodeInternal) })
		c.up.end(at, !ok)
	default:
		c.up.end(at, !c.respond(s, step))
	}
}

// hang sends no response. It reports whether the other side gave up.
func (c *http2conn) hang(s *stream) bool {
	select {
	case <-s.reset:
	case <-c.gone:
	case <-c.up.stop:
		return false
	}
	return true
}

// respond sends a whole response.
func (c *http2conn) respond(s *stream, step Step) bool {
	for _, i := range step.Informational {
		if !c.head(s, Step{Status: i.Status, Headers: i.Headers}, false) {
			return false
		}
	}
	bodiless := s.req.Method == http.MethodHead || step.Body == ""
	trailing := len(step.Trailers) > 0
	if !c.head(s, step, bodiless && !trailing) {
		return false
	}
	if !bodiless {
		if !c.up.wait(step.bodyDelay(), s.reset) ||
			!c.write(func() error { return c.framer.WriteData(s.id, !trailing, []byte(step.Body)) }) {
			return false
		}
	}
	return !trailing || c.fields(s, true, step.Trailers)
}

func (c *http2conn) head(s *stream, step Step, end bool) bool {
	return c.fields(s, end, append([][2]string{{":status", strconv.Itoa(step.status())}}, step.Headers...))
}

// fields sends headers or trailers.
func (c *http2conn) fields(s *stream, end bool, fields [][2]string) bool {
	return c.write(func() error {
		c.block.Reset()
		for _, f := range fields {
			if err := c.hpack.WriteField(hpack.HeaderField{Name: strings.ToLower(f[0]), Value: f[1]}); err != nil {
				return err
			}
		}
		return c.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: s.id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: end,
		})
	})
}
