package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/health"
	"github.com/pillion-go/pillion/cluster/internal/pool"
	"github.com/pillion-go/pillion/envoy"
)

// healthClient calls grpc.health.v1.Health/Check of one host over HTTP/2.
type healthClient struct {
	transport *http.Transport
	url       *url.URL
	authority string
}

func newHealthClient(t *pool.Template, scheme, address, authority string) *healthClient {
	transport := probeTransport(t)
	transport.Protocols = &http.Protocols{}
	transport.Protocols.SetHTTP2(true)
	transport.Protocols.SetUnencryptedHTTP2(scheme == "http")
	return &healthClient{
		transport: transport, authority: authority,
		url: &url.URL{Scheme: scheme, Host: address, Path: "/grpc.health.v1.Health/Check"},
	}
}

// Close closes the connection.
func (c *healthClient) Close() { c.transport.CloseIdleConnections() }

// Check makes the call.
func (c *healthClient) Check(ctx context.Context, service string) health.GRPCReply {
	resp, err := c.transport.RoundTrip(c.request(ctx, service))
	if err != nil {
		return health.GRPCReply{Network: true, Err: err}
	}
	defer func() { _ = resp.Body.Close() }() // the body was read or is not needed
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return health.GRPCReply{Network: true, Err: err}
	}
	status := resp.Header.Get(envoy.GRPCStatusHeader)
	if status == "" {
		status = resp.Trailer.Get(envoy.GRPCStatusHeader)
	}
	code, err := strconv.ParseUint(status, 10, 32)
	if resp.StatusCode != http.StatusOK || err != nil {
		return health.GRPCReply{Code: 2, Err: fmt.Errorf("the response is not gRPC: HTTP status %d, gRPC status %q", resp.StatusCode, status)}
	}
	if code != 0 {
		return health.GRPCReply{Code: uint32(code)}
	}
	served, err := servingStatus(body)
	return health.GRPCReply{Status: served, Err: err}
}

// request makes the request of a call.
func (c *healthClient) request(ctx context.Context, service string) *http.Request {
	body := append([]byte{0}, lengthOf(serviceField(service))...)
	body = append(body, serviceField(service)...)
	req := (&http.Request{
		Method: http.MethodPost, URL: c.url, Host: c.authority, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"pillion/health-check"}},
	}).WithContext(ctx)
	if deadline, ok := ctx.Deadline(); ok {
		req.Header.Set(envoy.GRPCTimeoutHeader, strconv.FormatInt(max(time.Until(deadline).Milliseconds(), 1), 10)+"m")
	}
	return req
}

// serviceField returns an encoded HealthCheckRequest.
func serviceField(service string) []byte {
	if service == "" {
		return nil
	}
	const field1Bytes = 1<<3 | 2
	return append(binary.AppendUvarint([]byte{field1Bytes}, uint64(len(service))), service...)
}

func lengthOf(message []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(len(message))) //nolint:gosec // short
}

var errNoStatus = errors.New("the response is not a HealthCheckResponse")

// servingStatus returns the status of a HealthCheckResponse. body includes the frame header.
func servingStatus(body []byte) (health.ServingStatus, error) {
	const frame, field1Varint = 5, 1 << 3
	switch {
	case len(body) < frame || body[0] != 0:
		return 0, errNoStatus
	case len(body) == frame: // the zero value: UNKNOWN
		return health.ServingUnknown, nil
	case body[frame] != field1Varint:
		return 0, errNoStatus
	}
	n, size := binary.Uvarint(body[frame+1:])
	if size <= 0 || n > 1<<30 {
		return 0, errNoStatus
	}
	return health.ServingStatus(n), nil
}
