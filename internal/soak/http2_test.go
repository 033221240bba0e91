package soak

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// h2peer is a scripted HTTP/2 server's end of a connection. It speaks gRPC too.
type h2peer struct {
	*link
	stingy bool // it sends no WINDOW_UPDATE
	mute   bool // it does not respond to PING

	mu      sync.Mutex // held while a frame is written
	framer  *http2.Framer
	head    bytes.Buffer
	encoder *hpack.Encoder
	streams map[uint32]*h2stream // guarded by mu

	playing sync.WaitGroup
}

// h2stream is a request.
type h2stream struct {
	*h2peer
	id   uint32
	grpc bool
	over sync.Once
	gone chan struct{} // closed when the client has reset the stream, or the connection has ended
}

// playHTTP2 serves one connection.
func playHTTP2(p *link) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.in, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c := &h2peer{
		link: p, framer: http2.NewFramer(p.Conn, p.in), streams: map[uint32]*h2stream{},
		stingy: p.once(20), mute: p.once(20),
	}
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.encoder = hpack.NewEncoder(&c.head)
	c.write(func(f *http2.Framer) error { return f.WriteSettings() })
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			break
		}
		c.receive(frame)
	}
	_ = p.Close()
	c.forget()
	c.playing.Wait()
}

// forget ends all streams.
func (c *h2peer) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		s.leave()
	}
}

func (s *h2stream) leave() { s.over.Do(func() { close(s.gone) }) }

// write writes frames.
func (c *h2peer) write(frames func(f *http2.Framer) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(patience))
	_ = frames(c.framer)
}

// receive handles a frame.
func (c *h2peer) receive(frame http2.Frame) {
	switch f := frame.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			c.write((*http2.Framer).WriteSettingsAck)
		}
	case *http2.PingFrame:
		if !f.IsAck() && !c.mute {
			c.write(func(w *http2.Framer) error { return w.WritePing(true, f.Data) })
		}
	case *http2.DataFrame:
		if n := uint32(len(f.Data())); n != 0 && !c.stingy {
			c.write(func(w *http2.Framer) error { return w.WriteWindowUpdate(0, n) })
			if !f.StreamEnded() {
				c.write(func(w *http2.Framer) error { return w.WriteWindowUpdate(f.StreamID, n) })
			}
		}
	case *http2.RSTStreamFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if s := c.streams[f.StreamID]; s != nil {
			s.leave()
		}
	case *http2.MetaHeadersFrame:
		c.begin(f)
	}
}

// begin plays an act for a request.
func (c *h2peer) begin(f *http2.MetaHeadersFrame) {
	header := http.Header{}
	for _, field := range f.RegularFields() {
		header.Add(field.Name, field.Value)
	}
	record, d := c.plan(header)
	s := &h2stream{h2peer: c, id: f.StreamID, grpc: header.Get("Content-Type") == "application/grpc", gone: make(chan struct{})}
	c.mu.Lock()
	c.streams[f.StreamID] = s
	c.mu.Unlock()
	act := h2acts[d.IntN(len(h2acts))]
	record.note("server: %s", act.name)
	c.playing.Go(func() { act.play(s, d) })
}

// wait waits until the client has ended the stream, at most for d; 0 means until the end of the
// storm.
func (s *h2stream) wait(d time.Duration) {
	if d == 0 {
		select {
		case <-s.gone:
		case <-s.round.ctx.Done():
		}
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-s.gone:
	case <-timer.C:
	}
}

// left reports whether the client has ended the stream.
func (s *h2stream) left() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// headers sends pairs of names and values.
func (s *h2stream) headers(end bool, pairs ...string) {
	s.write(func(f *http2.Framer) error {
		s.head.Reset()
		for i := 0; i < len(pairs); i += 2 {
			_ = s.encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
		}
		return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: s.head.Bytes(), EndHeaders: true, EndStream: end})
	})
}

// respond sends response headers.
func (s *h2stream) respond(status string, pairs ...string) {
	pairs = append([]string{":status", status}, pairs...)
	if s.grpc {
		pairs = append(pairs, "content-type", "application/grpc")
	}
	s.headers(false, pairs...)
}

// data sends a part of a body, or a message.
func (s *h2stream) data(end bool, size int) {
	s.write(func(f *http2.Framer) error { return f.WriteData(s.id, end && !s.grpc, s.payload(size)) })
	if end && s.grpc {
		s.headers(true, "grpc-status", "0")
	}
}

// payload returns size bytes, or a gRPC message with size bytes, which can be read as any
// response of the test service.
func (s *h2stream) payload(size int) []byte {
	if !s.grpc {
		return bytes.Repeat([]byte("x"), size)
	}
	message, _ := proto.Marshal(&testgrpc.StreamingOutputCallResponse{Payload: &testgrpc.Payload{Body: make([]byte, size)}})
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func (s *h2stream) rst(d dice) {
	code := http2.ErrCode(d.IntN(16)) // 14 and 15 are undefined
	s.write(func(f *http2.Framer) error { return f.WriteRSTStream(s.id, code) })
}

// goAway sends GOAWAY for the streams above a number.
func (s *h2stream) goAway(d dice) {
	last := pick(d, 0, s.id-min(s.id, 2), s.id, 1<<31-1)
	s.write(func(f *http2.Framer) error { return f.WriteGoAway(last, http2.ErrCode(d.IntN(14)), []byte("soup")) })
}

// close closes the connection, as a server does after GOAWAY: net/http does not do so if no
// stream is open when GOAWAY arrives.
func (s *h2stream) close() { _ = s.raw.Close() }

// stop ends the connection, or does nothing.
func (s *h2stream) stop(d dice) {
	switch d.IntN(4) {
	case 0:
		s.fin()
	case 1:
		s.reset()
	case 2:
		s.damage(d)
	case 3: // silence
	}
	s.wait(0)
}

// h2acts are what a scripted HTTP/2 server does with a stream.
var h2acts = []struct {
	name string
	play func(s *h2stream, d dice)
}{
	{"ok", func(s *h2stream, d dice) { s.respond("200"); s.data(true, d.IntN(2000)) }},
	{"ok", func(s *h2stream, _ dice) { s.respond("200"); s.data(true, 4) }},
	{"ok, several parts", func(s *h2stream, d dice) {
		s.respond("200")
		for range d.IntN(4) {
			s.data(false, d.IntN(1000))
		}
		s.data(true, 0)
	}},
	{"headers alone", func(s *h2stream, d dice) {
		s.headers(true, ":status", pick(d, "200", "204", "304", "503"), "content-type", pick(d, "application/grpc", "text/plain"))
	}},
	{"trailers alone", func(s *h2stream, d dice) {
		s.headers(true, ":status", "200", "content-type", "application/grpc", "grpc-status", strconv.Itoa(d.IntN(18)),
			"grpc-message", "soup", "grpc-retry-pushback-ms", pick(d, "0", "5", "-1", "x"))
	}},
	{"a bad status", func(s *h2stream, d dice) {
		s.respond(pick(d, "404", "409", "429", "500", "502", "503", "504"), "retry-after", pick(d, "0", "1", "x"), "x-again", "1")
		s.data(true, d.IntN(1000))
	}},
	{"a bad status in trailers", func(s *h2stream, d dice) {
		s.respond("200", "x-again", "1")
		s.data(false, d.IntN(100))
		s.headers(true, "grpc-status", pick(d, "0", "1", "4", "8", "13", "14", "abc", "", "99"))
	}},
	{"the end without trailers", func(s *h2stream, d dice) {
		s.respond("200")
		s.write(func(f *http2.Framer) error { return f.WriteData(s.id, true, s.payload(d.IntN(100))) })
	}},
	{"a large body", func(s *h2stream, _ dice) {
		s.respond("200")
		for range 64 {
			s.data(false, 16000)
		}
		s.data(true, 0)
	}},
	{"a slow body", func(s *h2stream, d dice) {
		s.respond(pick(d, "200", "503"))
		for range 10 {
			s.wait(1 + d.upTo(20*time.Millisecond))
			s.data(false, 4)
		}
		s.data(true, 0)
	}},
	{"an endless body", func(s *h2stream, d dice) {
		s.respond(pick(d, "200", "503"))
		for !s.left() {
			s.data(false, d.IntN(1000))
			s.wait(1 + d.upTo(5*time.Millisecond))
		}
	}},
	{"nothing", func(s *h2stream, d dice) { s.stop(d) }},
	{"a head, then nothing", func(s *h2stream, d dice) { s.respond(pick(d, "200", "503")); s.stop(d) }},
	{"nothing at first", func(s *h2stream, d dice) {
		s.wait(1 + d.upTo(200*time.Millisecond))
		s.respond("200")
		s.data(true, 4)
	}},
	{"RST_STREAM", func(s *h2stream, d dice) { s.rst(d) }},
	{"RST_STREAM after the headers", func(s *h2stream, d dice) { s.respond("200"); s.rst(d) }},
	{"RST_STREAM in the body", func(s *h2stream, d dice) { s.respond("200"); s.data(false, 100); s.rst(d) }},
	{"RST_STREAM behind the response", func(s *h2stream, d dice) { s.respond("200"); s.data(true, 100); s.rst(d) }},
	{"refused", func(s *h2stream, _ dice) {
		s.write(func(f *http2.Framer) error { return f.WriteRSTStream(s.id, http2.ErrCodeRefusedStream) })
	}},
	{"GOAWAY", func(s *h2stream, d dice) { s.goAway(d); s.stop(d); s.close() }},
	{"GOAWAY, and a response", func(s *h2stream, d dice) {
		s.goAway(d)
		s.respond("200")
		s.data(true, 4)
		s.wait(1 + d.upTo(50*time.Millisecond))
		s.close()
	}},
	{"1xx, then a response", func(s *h2stream, d dice) {
		for range 1 + d.IntN(3) {
			s.headers(false, ":status", pick(d, "100", "102", "103"), "link", "</soup>")
		}
		s.respond(pick(d, "200", "503"))
		s.data(true, 4)
	}},
	{"1xx, then nothing", func(s *h2stream, d dice) { s.headers(false, ":status", "103"); s.stop(d) }},
	{"a malformed head", func(s *h2stream, d dice) {
		s.headers(d.once(2), pick(d,
			[]string{"server", "soup"}, []string{":status", "abc"}, []string{":status", "200", "X-Upper", "case"},
			[]string{":status", "200", ":status", "200"}, []string{":status", "200", "connection", "close"},
			[]string{":status", "200", "x", strings.Repeat("x", 80<<10)}, []string{":path", "/"}, []string{":status", "101"})...)
		s.stop(d)
	}},
	{"malformed frames", func(s *h2stream, d dice) {
		s.write(func(f *http2.Framer) error {
			switch d.IntN(8) { // a stream's window that overflows is missing: net/http of Go 1.26 deadlocks
			case 0:
				return f.WriteData(s.id, true, []byte("no head"))
			case 1:
				return f.WriteRawFrame(http2.FrameData, 0, 0, []byte("soup"))
			case 2:
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, BlockFragment: []byte{0xff, 0xff, 0xff}, EndHeaders: true})
			case 3:
				_ = f.WriteWindowUpdate(0, 1<<31-1)
				return f.WriteWindowUpdate(0, 1<<31-1)
			case 4:
				return f.WriteRawFrame(0x42, 0xff, s.id, []byte("unknown"))
			case 5:
				return f.WriteRawFrame(http2.FrameSettings, 0, 0, []byte("cut"))
			case 6:
				return f.WritePushPromise(http2.PushPromiseParam{StreamID: s.id, PromiseID: 2, BlockFragment: s.head.Bytes(), EndHeaders: true})
			}
			return f.WriteRawFrame(http2.FrameContinuation, 0, s.id, []byte("soup"))
		})
		s.stop(d)
	}},
	{"a body of another length", func(s *h2stream, d dice) {
		s.respond("200", "content-length", pick(d, "1", "1000"))
		s.data(true, 100)
	}},
	{"a damaged message", func(s *h2stream, d dice) {
		s.respond("200", "grpc-encoding", pick(d, "identity", "soup"))
		s.write(func(f *http2.Framer) error {
			return f.WriteData(s.id, d.once(2), pick(d, []byte{1, 0, 0, 0, 1, 0}, []byte{0, 0x7f, 0, 0, 0}, []byte{0, 0, 0, 0, 9, 1}, []byte{0, 0, 0, 0, 1, 0xff}))
		})
		s.headers(true, "grpc-status", "0")
	}},
	{"new settings", func(s *h2stream, d dice) {
		s.write(func(f *http2.Framer) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(d.IntN(3))},
				http2.Setting{ID: http2.SettingInitialWindowSize, Val: pick(d, uint32(0), 100, 1<<20)},
				http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: pick(d, uint32(10), 1<<20)})
		})
		s.respond("200")
		s.data(true, 4)
	}},
	{"pings", func(s *h2stream, d dice) {
		s.respond("200")
		s.data(d.once(2), 4)
		for range d.IntN(20) {
			s.write(func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) })
		}
		s.wait(1 + d.upTo(100*time.Millisecond))
		s.rst(d)
	}},
}
