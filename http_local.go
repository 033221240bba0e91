package pillion

import (
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/envoy"
)

// localReply is the response that Envoy sends where it has none of the upstream.
func (t *transport) localReply(req *http.Request, d *envoy.Detail, attempts int) *http.Response {
	status, text := d.LocalReply(attempts > 1)
	header := http.Header{}
	proto, major, minor := "HTTP/1.1", 1, 1
	if envoy.IsGRPC(req.Header.Get("Content-Type")) {
		setGRPCReply(header, status, text)
		if req.Method == http.MethodHead { // as in Envoy
			header.Del("Grpc-Message")
		}
		status, text = http.StatusOK, ""
		proto, major, minor = "HTTP/2.0", 2, 0 // gRPC clients insist
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

// setGRPCReply puts a local reply into the header of a gRPC response, which is nothing
// but a header.
func setGRPCReply(h http.Header, status int, text string) {
	h.Set("Content-Type", "application/grpc")
	h.Set(envoy.GRPCStatusHeader, strconv.Itoa(envoy.GRPCStatus(status)))
	h.Set(envoy.GRPCMessageHeader, text)
}
