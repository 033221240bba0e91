package parity

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// speaksGRPC reports whether all calls of a scenario are gRPC calls, or none is.
func speaksGRPC(s *Scenario) (all, none bool) {
	all, none = true, true
	for _, r := range s.requests() {
		all, none = all && r.GRPC, none && !r.GRPC
	}
	return all && !none, none
}

// grpcLibrary is the library as a Side that makes gRPC calls.
type grpcLibrary struct {
	*library
	conn     *grpc.ClientConn
	suppress bool // suppress_envoy_headers
}

// newGRPC gives l a gRPC connection instead of its transport.
func newGRPC(l *library, c *settings) (Side, error) {
	dialer := &net.Dialer{Timeout: c.connectTimeout}
	options := append(pilliongrpc.DialOptions(l),
		grpc.WithChainUnaryInterceptor(eachWithoutMessage),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	conn, err := grpc.NewClient("passthrough:///"+anyHost, options...)
	if err != nil {
		return nil, err
	}
	return &grpcLibrary{l, conn, c.routes[0].http.SuppressEnvoyHeaders}, nil
}

// eachWithoutMessage removes from the reply the message of an earlier attempt.
func eachWithoutMessage(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	*reply.(*opaque) = opaque{} //nolint:forcetypeassert // nothing else is received
	return invoke(ctx, method, req, reply, cc, options...)
}

// Clustered is true: calls go to the hosts of the cluster.
func (*library) Clustered() bool { return true }

// Resolve returns the upstream of a route.
func (l *library) Resolve(_ context.Context, t pillion.Target) (*pillion.Upstream, error) {
	for _, r := range l.routes {
		if strings.HasPrefix(t.Path, r.prefix) {
			return r.upstream, nil
		}
	}
	return nil, errors.New("no route")
}

// Send makes a unary call of the request, and returns its response in the form of HTTP.
func (g *grpcLibrary) Send(req *http.Request) (*http.Response, error) {
	ctx, info := pillion.WithInfo(req.Context())
	g.mu.Lock()
	g.infos[req.Header.Get(caseHeader)] = info
	g.mu.Unlock()
	frame, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	md := metadata.MD{}
	for name, values := range req.Header {
		switch name {
		case "Content-Type", "Te": // set by gRPC, which sends no grpc-timeout of its caller either
		default:
			md.Set(name, decoded(name, values)...)
		}
	}
	ctx = metadata.NewOutgoingContext(ctx, md)
	var head, tail metadata.MD
	reply := &opaque{}
	err = g.conn.Invoke(ctx, req.URL.Path, &opaque{body: frame[5:]}, reply, grpc.ForceCodec(opaqueCodec{}), grpc.Header(&head), grpc.Trailer(&tail))
	if req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	return g.asHTTP(err, head, tail, reply), nil
}

// decoded returns the values of a header as metadata: gRPC's client encodes those of names
// in -bin. Other values do not change.
func decoded(name string, values []string) []string {
	if !strings.HasSuffix(strings.ToLower(name), "-bin") {
		return values
	}
	var plain []string
	for _, v := range values {
		text, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v, "="))
		if err != nil {
			return values
		}
		plain = append(plain, string(text))
	}
	return plain
}

// Close closes the connection too.
func (g *grpcLibrary) Close() {
	_ = g.conn.Close() // best effort
	g.library.Close()
}

// asHTTP returns a response as it was on the wire: with trailers only, or with a header and
// trailers, or, for an error of the library, as a proxy would send it.
func (g *grpcLibrary) asHTTP(err error, head, tail metadata.MD, reply *opaque) *http.Response {
	s, _ := status.FromError(err)
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Trailer: http.Header{}, Body: io.NopCloser(strings.NewReader(reply.frame()))}
	own, local := errors.AsType[*pilliongrpc.Error](err)
	if local {
		head, tail = nil, metadata.Pairs("content-type", "application/grpc")
	}
	resp.Header = fields(head)
	end := resp.Trailer
	if head == nil {
		end = resp.Header
	}
	maps.Copy(end, fields(tail))
	end.Set("Grpc-Status", strconv.Itoa(int(s.Code())))
	if s.Message() != "" {
		end.Set("Grpc-Message", s.Message())
	}
	if local && own.Detail.Overloaded() && !g.suppress {
		end.Set("X-Envoy-Overloaded", "true")
	}
	return resp
}

// fields converts metadata to header fields: gRPC's client decodes the values of names in
// -bin.
func fields(md metadata.MD) http.Header {
	h := http.Header{}
	for name, values := range md {
		for _, v := range values {
			if strings.HasSuffix(name, "-bin") {
				v = base64.RawStdEncoding.EncodeToString([]byte(v))
			}
			h.Add(name, v)
		}
	}
	return h
}

// opaque is a message whose content is not decoded.
type opaque struct {
	body []byte
	came bool
}

// frame returns the message with its frame header.
func (p *opaque) frame() string {
	if !p.came {
		return ""
	}
	n := len(p.body)
	return string([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + string(p.body) //nolint:gosec // the length is small
}

// opaqueCodec does not encode messages.
type opaqueCodec struct{}

// Marshal returns the bytes of the message.
func (opaqueCodec) Marshal(v any) ([]byte, error) { return v.(*opaque).body, nil } //nolint:forcetypeassert // nothing else is sent

// Unmarshal keeps the bytes of the message.
func (opaqueCodec) Unmarshal(data []byte, v any) error {
	p := v.(*opaque) //nolint:forcetypeassert // nothing else is received
	p.body, p.came = append([]byte(nil), data...), true
	return nil
}

// Name is empty, so that the content type is plain gRPC.
func (opaqueCodec) Name() string { return "" }

// withoutTheClient removes the headers that gRPC's client sends and Envoy's does not.
func withoutTheClient(attempts []Attempt) {
	for i := range attempts {
		h := attempts[i].Headers
		delete(h, "grpc-timeout")
		if strings.HasPrefix(h["user-agent"], "grpc-go/") {
			delete(h, "user-agent")
		}
		if h["content-length"] == "" && attempts[i].BodyLen > 0 {
			h["content-length"] = strconv.Itoa(attempts[i].BodyLen)
		}
	}
}

// sendsGRPCTimeout reports whether a caller sets grpc-timeout.
func sendsGRPCTimeout(s *Scenario) bool {
	for _, r := range s.requests() {
		if r.GRPC && r.Headers["grpc-timeout"] != "" {
			return true
		}
	}
	return false
}

// ownGRPCTimeout changes grpc-timeout: the deadline of a Go caller is that of its context,
// and the header has the shortest of all limits. Envoy passes the caller's on, and does not
// honor it.
func ownGRPCTimeout(_ *Scenario, want *Observed) { withoutTheClient(want.Attempts) }

// countsMessages reports whether a filter counts the messages of calls that are refused.
func countsMessages(s *Scenario) bool {
	f, err := readFragments(s.Envoy)
	return err == nil && f.filters.grpcStats && len(f.cluster.CircuitBreakers.Thresholds) > 0
}

// messagesOfAll changes the number of messages: the message of a call that is refused when
// its header arrives is counted by the library. Envoy counts it only if it arrives before
// the call ends, which depends on chance.
func messagesOfAll(_ *Scenario, want *Observed) {
	const name = "cluster." + clusterName + ".grpc.pkg.Svc.Method.request_message_count"
	if slices.ContainsFunc(want.AccessLog, func(l Logged) bool { return strings.Contains(l.Details, "{overflow}") }) {
		want.Stats[name] = uint64(len(want.AccessLog))
	}
}
