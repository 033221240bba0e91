package parity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/envoy"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// speaksGRPC reports whether all calls of a scenario are gRPC's, or none is.
func speaksGRPC(s *Scenario) (all, none bool) {
	all, none = true, true
	for _, r := range s.requests() {
		all, none = all && r.GRPC, none && !r.GRPC
	}
	return all && !none, none
}

// onlyGRPCStats reports whether the filters are the one that metrics.GRPC mirrors, as
// it mirrors it.
func onlyGRPCStats(raw json.RawMessage) bool {
	var filters []struct {
		Name   string `json:"name"`
		Config struct {
			All bool `json:"stats_for_all_methods"`
		} `json:"typed_config"`
	}
	err := json.Unmarshal(raw, &filters)
	return err == nil && len(filters) == 1 && filters[0].Name == "envoy.filters.http.grpc_stats" && filters[0].Config.All
}

// grpcLibrary is the library as a Side that makes gRPC calls.
type grpcLibrary struct {
	*library
	conn *grpc.ClientConn
}

// newGRPC gives l a connection in place of its transport.
func newGRPC(l *library, connectTimeout time.Duration) (Side, error) {
	dialer := &net.Dialer{Timeout: connectTimeout}
	options := append(pilliongrpc.DialOptions(l),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}))
	conn, err := grpc.NewClient("passthrough:///"+l.addresses[0], options...)
	if err != nil {
		return nil, err
	}
	return &grpcLibrary{l, conn}, nil
}

// Resolve finds the upstream of a route.
func (l *library) Resolve(_ context.Context, t pillion.Target) (*pillion.Upstream, error) {
	for _, r := range l.routes {
		if strings.HasPrefix(t.Path, r.prefix) {
			return r.upstream, nil
		}
	}
	return nil, errors.New("no route")
}

// Send makes a unary call of the request, and shows its answer as HTTP has it.
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
		case "Content-Type", "Te", "Grpc-Timeout": // gRPC's own
		default:
			md.Set(name, values...)
		}
	}
	ctx = metadata.NewOutgoingContext(ctx, md)
	var head, tail metadata.MD
	reply := &opaque{}
	err = g.conn.Invoke(ctx, req.URL.Path, &opaque{body: frame[5:]}, reply, grpc.ForceCodec(opaqueCodec{}), grpc.Header(&head), grpc.Trailer(&tail))
	if req.Context().Err() != nil {
		return nil, req.Context().Err()
	}
	return asHTTP(err, head, tail, reply), nil
}

// Close closes the connection too.
func (g *grpcLibrary) Close() {
	_ = g.conn.Close() // nobody to tell
	g.library.Close()
}

// asHTTP is what an answer looked like on the wire: with nothing but trailers, a
// header and the trailers behind it, or, of the library's own making, what a proxy sends.
func asHTTP(err error, head, tail metadata.MD, reply *opaque) *http.Response {
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
	if local && own.Flags.Has(envoy.UO) {
		end.Set("X-Envoy-Overloaded", "true")
	}
	return resp
}

func fields(md metadata.MD) http.Header {
	h := http.Header{}
	for name, values := range md {
		h[http.CanonicalHeaderKey(name)] = values
	}
	return h
}

// opaque is a message that is not looked into.
type opaque struct {
	body []byte
	came bool
}

// frame is the message as it was framed.
func (p *opaque) frame() string {
	if !p.came {
		return ""
	}
	n := len(p.body)
	return string([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}) + string(p.body) //nolint:gosec // it is small
}

// opaqueCodec leaves messages as they are.
type opaqueCodec struct{}

// Marshal gives the message.
func (opaqueCodec) Marshal(v any) ([]byte, error) { return v.(*opaque).body, nil } //nolint:forcetypeassert // nothing else is sent

// Unmarshal keeps it.
func (opaqueCodec) Unmarshal(data []byte, v any) error {
	p := v.(*opaque) //nolint:forcetypeassert // nothing else is received
	p.body, p.came = append([]byte(nil), data...), true
	return nil
}

// Name is none: the content type is plain gRPC.
func (opaqueCodec) Name() string { return "" }

// withoutTheClient leaves out what gRPC's client sends by itself, and Envoy's does
// not.
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

// answersGRPCInHTTP recognises an upstream that answers gRPC in plain HTTP.
func answersGRPCInHTTP(s *Scenario) bool {
	all, _ := speaksGRPC(s)
	for _, step := range s.Upstream.Script {
		if all && step.Status != 0 && step.Status != http.StatusOK {
			return true
		}
	}
	return false
}

// answeredWithAStatus: a gRPC caller cannot be given an answer in HTTP, which Envoy
// passes on; it gets the status that grpc-go makes of it. The statistics are the same.
func answeredWithAStatus(_ *Scenario, want *Observed) {
	for i := range want.Downstream {
		a := &want.Downstream[i]
		if a.Status == http.StatusOK {
			continue
		}
		text := fmt.Sprintf("unexpected HTTP status code received from server: %d (%s); malformed header: missing HTTP content-type\ndata: %q",
			a.Status, http.StatusText(a.Status), a.Body)
		want.Downstream[i] = Answer{Case: a.Case, Status: http.StatusOK, Headers: map[string]string{"grpc-status": "14", "grpc-message": text}}
		want.AccessLog[i].Code = http.StatusOK
	}
}

// tellsGRPCTimeout recognises callers that send grpc-timeout themselves.
func tellsGRPCTimeout(s *Scenario) bool {
	for _, r := range s.requests() {
		if r.GRPC && r.Headers["grpc-timeout"] != "" {
			return true
		}
	}
	return false
}

// ownGRPCTimeout: a Go caller's deadline is that of its context, and the header tells
// the server the shortest of all limits; Envoy passes the caller's on, and does not obey it.
func ownGRPCTimeout(_ *Scenario, want *Observed) { withoutTheClient(want.Attempts) }

// answersBeforeFailing recognises a unary answer whose message a bad status follows.
func answersBeforeFailing(s *Scenario) bool {
	return onlyGRPCStats(s.Envoy["http_filters"]) && failingAnswers(s) > 0
}

func failingAnswers(s *Scenario) (n uint64) {
	for _, step := range s.Upstream.Script {
		for _, f := range step.Trailers {
			if step.Body != "" && f[0] == "grpc-status" && f[1] != "0" {
				n++
			}
		}
	}
	return n
}

// messagesNotGiven: the message of a unary call that failed is given to nobody, and not
// counted; Envoy counts what passes through it.
func messagesNotGiven(s *Scenario, want *Observed) {
	want.Stats["cluster."+clusterName+".grpc.pkg.Svc.Method.response_message_count"] -= failingAnswers(s)
}
