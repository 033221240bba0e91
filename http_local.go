package pillion

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/envoy"
)

// localReply returns the response that Envoy sends if it has none from the upstream.
func (t *transport) localReply(req *http.Request, d *envoy.Detail, attempts int) *http.Response {
	status, text := d.LocalReply(attempts > 1)
	header := http.Header{}
	proto, major, minor := "HTTP/1.1", 1, 1
	if envoy.IsGRPC(req.Header.Get("Content-Type")) {
		setGRPCReply(header, d.GRPCStatus(), text)
		if req.Method == http.MethodHead { // as in Envoy
			header.Del("Grpc-Message")
		}
		status, text = http.StatusOK, ""
		proto, major, minor = "HTTP/2.0", 2, 0 // gRPC clients require it
	} else {
		header.Set("Content-Length", strconv.Itoa(len(text)))
		header.Set("Content-Type", "text/plain")
	}
	if d.Overloaded() && !t.upstream.options.SuppressEnvoyHeaders {
		header.Set(envoy.OverloadedHeader, "true")
	}
	resp := &http.Response{
		Status:        strconv.Itoa(status) + " " + http.StatusText(status),
		StatusCode:    status,
		Proto:         proto,
		ProtoMajor:    major,
		ProtoMinor:    minor,
		Header:        header,
		Body:          io.NopCloser(strings.NewReader(text)),
		ContentLength: int64(len(text)),
		Request:       req,
	}
	if req.Method == http.MethodHead || text == "" {
		resp.Body = http.NoBody
	}
	return resp
}

// setGRPCReply sets the headers of a gRPC local reply, which has headers only.
func setGRPCReply(h http.Header, code int, text string) {
	h.Set("Content-Type", "application/grpc")
	h.Set(envoy.GRPCStatusHeader, strconv.Itoa(code))
	h.Set(envoy.GRPCMessageHeader, text)
}
