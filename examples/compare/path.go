package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
)

// path is one of the ways on which calls reach the server.
type path struct {
	name     string
	client   *http.Client
	conn     *grpc.ClientConn
	url      string // of the server, or of the sidecar in front of it
	refusing string // of the address that refuses connections
	cpu      func() time.Duration
	guarded  bool                                             // the calls are under the policy
	stats    func(context.Context) (map[string]uint64, error) // of the cluster, by name; nil if there are none
}

// paths makes all paths. closeAll ends what they use.
func paths(ctx context.Context, p policy, s *server, envoy string) (all []path, closeAll func(), err error) {
	bare := path{name: "bare", client: &http.Client{Transport: newTransport(), Timeout: p.PerTry}, url: s.URL, refusing: "http://" + s.refusing, cpu: ownCPU}
	if err = bare.dial(s.grpc, bareTimeout(p)); err != nil {
		return nil, nil, err
	}
	library, err := throughLibrary(p, s)
	if err != nil {
		return nil, nil, err
	}
	all, stop := []path{bare, library}, func() {}
	if envoy != "" {
		e, err := startSidecar(ctx, envoy, p, s)
		if err != nil {
			return nil, nil, err
		}
		through, err := throughSidecar(p, e)
		if err != nil {
			e.stop()
			return nil, nil, err
		}
		all, stop = append(all, through), e.stop
	}
	return all, func() {
		for _, p := range all {
			p.client.CloseIdleConnections()
			_ = p.conn.Close()
		}
		stop()
	}, nil
}

func throughLibrary(p policy, s *server) (path, error) {
	registry, err := metrics.NewRegistry(metrics.Settings{})
	if err != nil {
		return path{}, err
	}
	u, err := pillion.New(p.Cluster, p.library(registry)...)
	if err != nil {
		return path{}, err
	}
	base := registry.Cluster(p.Cluster).InstrumentTransport(newTransport())
	page := metrics.Handler(registry)
	library := path{
		name: "library", client: &http.Client{Transport: u.Transport(base)},
		url: s.URL, refusing: "http://" + s.refusing, cpu: ownCPU, guarded: true,
		stats: func(ctx context.Context) (map[string]uint64, error) {
			w := httptest.NewRecorder()
			page.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, statsPage(p.Cluster), nil))
			return readStats(p.Cluster, w.Body)
		},
	}
	return library, library.dial(s.grpc, pilliongrpc.DialOptions(u)...)
}

func throughSidecar(p policy, e *sidecar) (path, error) {
	through := path{
		name: "sidecar", client: &http.Client{Transport: newTransport()},
		url: e.egress, refusing: e.egress, guarded: true,
		cpu: func() time.Duration { return ownCPU() + processCPU(e.pid) },
		stats: func(ctx context.Context) (map[string]uint64, error) {
			return settled(ctx, func() (map[string]uint64, error) { return e.stats(ctx, p.Cluster) })
		},
	}
	return through, through.dial(strings.TrimPrefix(e.egress, "http://"))
}

// newTransport keeps more idle connections than there are callers.
func newTransport() *http.Transport {
	return &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
}

// call is a call to make: by gRPC if the path is that of Check.
type call struct {
	path   string
	header http.Header
}

var errStatus = errors.New("status 500 or above")

// do makes a call and reads its response.
func (p *path) do(ctx context.Context, c call) error {
	if c.path == healthpb.Health_Check_FullMethodName {
		return p.check(ctx)
	}
	base := p.url
	if strings.HasPrefix(c.path, "/refused") {
		base = p.refusing
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+c.path, nil)
	if err != nil {
		return err
	}
	if c.header != nil {
		req.Header = c.header
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusInternalServerError {
		return errStatus
	}
	return nil
}
