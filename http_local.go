package pillion

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// localReply is the response that Envoy gives where it has none of the upstream.
func localReply(req *http.Request, d Detail, retried bool) *http.Response {
	text := d.localBody(retried)
	status := d.LocalStatus()
	header := http.Header{
		"Content-Length": {strconv.Itoa(len(text))},
		"Content-Type":   {"text/plain"},
	}
	if d.known().overloaded {
		header.Set("X-Envoy-Overloaded", "true")
	}
	resp := &http.Response{
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode:    status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Body:          io.NopCloser(strings.NewReader(text)),
		ContentLength: int64(len(text)),
		Request:       req,
	}
	if req.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	return resp
}
