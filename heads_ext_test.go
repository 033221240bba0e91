package pillion_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pillion-go/pillion/envoy"
)

// TestHeads pins which HTTP/1 responses net/http accepts where Envoy differs: docs/envoy.md lists
// them.
func TestHeads(t *testing.T) {
	silenceLog(t)
	many := strings.Repeat("X-Soup: leek\r\n", 150)
	tests := map[string]struct {
		text string
		then []step
		code int // 0 for a malformed response
		cut  bool
	}{
		"two equal lengths":        {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nsoup", nil, 200, false},
		"two other lengths":        {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nsoup", nil, 0, false},
		"a length and chunked":     {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsoup\r\n0\r\n\r\n", nil, 200, false},
		"many headers":             {"HTTP/1.1 200 OK\r\n" + many + "Content-Length: 4\r\n\r\nsoup", nil, 200, false},
		"a 204 with a length":      {"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\n", nil, 204, false},
		"a space in a name":        {"HTTP/1.1 200 OK\r\nX Soup: leek\r\nContent-Length: 4\r\n\r\nsoup", nil, 200, false},
		"a status of two digits":   {"HTTP/1.1 99 Odd\r\nContent-Length: 4\r\n\r\nsoup", nil, 0, false},
		"a status of four digits":  {"HTTP/1.1 1000 Odd\r\nContent-Length: 4\r\n\r\nsoup", nil, 0, false},
		"CR within a value":        {"HTTP/1.1 200 OK\r\nX-Soup: le\rek\r\nContent-Length: 4\r\n\r\nsoup", nil, 0, false},
		"no length, and a reset":   {"HTTP/1.1 200 OK\r\n\r\nsoup", []step{reset}, 200, true},
		"no length, and the end":   {"HTTP/1.1 200 OK\r\n\r\nsoup", []step{fin}, 200, false},
		"a length that is not met": {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsoup", []step{fin}, 200, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			wantNoLeaks(t)
			base := &http.Transport{}
			defer base.CloseIdleConnections()
			l := newLedger(t)
			steps := append(part{request, say(test.text)}, test.then...)
			resp, err := l.upstream(t).Transport(base).RoundTrip(newRequest(t, http.MethodGet, "http://"+serveScript(t, steps).addr()+"/", nil))
			if test.code == 0 {
				if end := l.last(t); err == nil || end.Flags != envoy.UPE {
					t.Errorf("got %v, %v, want UPE", end.Flags, err)
				}
				return
			}
			if err != nil || resp.StatusCode != test.code {
				t.Fatalf("got %v, %v, want status %d", resp, err, test.code)
			}
			_, err = io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if (err != nil) != test.cut {
				t.Errorf("body: got %v, want an error: %v", err, test.cut)
			}
		})
	}
}

// TestHeads_notModified pins the handling of two kinds of 304 over HTTP/2: one with a length breaks
// off if it is read, one with a body is a response.
func TestHeads_notModified(t *testing.T) {
	for name, body := range map[string]bool{"a length": false, "a body": true} {
		t.Run(name, func(t *testing.T) {
			wantNoLeaks(t)
			url, base, _ := http2Bases()["h2c"].serve(t, func(f *framed) {
				var block strings.Builder
				e := hpack.NewEncoder(&block)
				_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: "304"})
				if !body {
					_ = e.WriteField(hpack.HeaderField{Name: "content-length", Value: "4"})
				}
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.stream, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: !body})
				if body {
					_ = f.WriteData(f.stream, true, []byte("soup"))
				}
			})
			l := newLedger(t)
			resp, err := l.upstream(t).Transport(base).RoundTrip(newRequest(t, http.MethodGet, url, nil))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			end := l.last(t)
			if resp.StatusCode != http.StatusNotModified || (err == nil) != body || (end.Flags == envoy.UC) == body {
				t.Errorf("got status %d, %q, %v, %v; want a response if it has a body, and UC if not", resp.StatusCode, text, err, end.Flags)
			}
		})
	}
}
