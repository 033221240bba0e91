package parity

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
)

// garbage is a response that is not HTTP.
const garbage = "\x00\x01 what is this\r\n\r\n"

// http1 is one connection.
type http1 struct {
	net.Conn
	up   *upstream
	host Host
	n    int
	in   *bufio.Reader
}

// serveHTTP1 responds to requests until the connection ends.
func (u *upstream) serveHTTP1(conn net.Conn, h Host, n int) {
	c := &http1{Conn: conn, up: u, host: h, n: n, in: bufio.NewReader(conn)}
	for {
		req, err := http.ReadRequest(c.in)
		if err != nil {
			return
		}
		if req.Header.Get("Expect") != "" {
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n") // the next read reports a broken connection
		}
		body, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			return
		}
		step, at := u.take(h, n, req, int(body))
		if !c.play(step, at, req.Method) {
			return
		}
	}
}

// play executes the step. It returns false if the connection has ended.
func (c *http1) play(step Step, at int, method string) (goesOn bool) {
	gone, watched := c.watch()
	defer func() {
		if !goesOn {
			_ = c.Close() // ends the watcher
		}
		<-watched
	}()
	if step.Action == "hang" {
		select {
		case <-gone:
			c.up.end(at, true)
		case <-c.up.stop:
		}
		return false
	}
	if !c.up.wait(step.delay(), gone) {
		c.up.end(at, true)
		return false
	}
	switch step.Action {
	case "reset":
		c.up.end(at, false)
		reset(c.Conn)
	case "fin":
		c.up.end(at, false)
	case "garbage":
		_, err := io.WriteString(c, garbage)
		c.up.end(at, err != nil)
	case "reset_after_headers":
		_, err := c.Write(append(head(step, len(step.Body)+missing), step.Body...))
		c.up.end(at, err != nil)
		c.up.wait(delivery, nil)
		reset(c.Conn)
	default:
		return c.respond(step, at, method, gone)
	}
	return false
}

// watch returns gone, which is closed when the other side has closed the connection. It reads
// ahead, so it must end before the next request is read.
func (c *http1) watch() (gone, ended <-chan struct{}) {
	g, e := make(chan struct{}), make(chan struct{})
	c.up.running.Go(func() {
		defer close(e)
		if _, err := c.in.Peek(1); err != nil {
			close(g)
		}
	})
	return g, e
}

// respond sends a whole response.
func (c *http1) respond(step Step, at int, method string, gone <-chan struct{}) (goesOn bool) {
	var early bytes.Buffer
	for _, i := range step.Informational {
		early.Write(head(Step{Status: i.Status, Headers: i.Headers}, -1))
	}
	first := append(early.Bytes(), head(step, len(step.Body))...)
	rest := rest(step, method)
	if step.BodyDelayMS == 0 {
		first, rest = append(first, rest...), nil
	}
	_, err := c.Write(first)
	if err == nil && rest != nil {
		if !c.up.wait(step.bodyDelay(), gone) {
			c.up.end(at, true)
			return false
		}
		_, err = c.Write(rest)
	}
	c.up.end(at, err != nil)
	return err == nil && !step.Close
}

// head returns the status line and the headers of a response; a length of -1 means no body.
func head(step Step, length int) []byte {
	var b bytes.Buffer
	status := step.status()
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for _, h := range step.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	switch {
	case len(step.Trailers) > 0:
		b.WriteString("transfer-encoding: chunked\r\n")
	case length >= 0 && hasBody(status):
		b.WriteString("content-length: " + strconv.Itoa(length) + "\r\n")
	}
	if step.Close {
		b.WriteString("connection: close\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// hasBody reports whether a response with this status has a body, whatever the script
// contains: bytes after the headers would be parsed as the next response.
func hasBody(status int) bool {
	return status != http.StatusNoContent && status != http.StatusNotModified
}

// rest returns everything after the headers.
func rest(step Step, method string) []byte {
	if method == http.MethodHead || !hasBody(step.status()) {
		return nil
	}
	if len(step.Trailers) == 0 {
		return []byte(step.Body)
	}
	var b bytes.Buffer
	if step.Body != "" {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(step.Body), step.Body)
	}
	b.WriteString("0\r\n")
	for _, h := range step.Trailers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	return b.Bytes()
}
