package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/cluster"
	"github.com/pillion-go/pillion/metrics"
	"github.com/pillion-go/pillion/pilliongrpc"
)

const (
	clusterChain = "a cluster inside all policies and metrics, stub connection"
	clusterGRPC  = "gRPC unary call over loopback, to the hosts of a cluster"
	clusterPicks = "a pick among 1,000 hosts"
)

// clusterGroups measure what a cluster adds to calls.
func clusterGroups() []group { return []group{clusterChainGroup(), clusterGRPCGroup()} }

// canned is a connection that responds to each write.
type canned struct {
	net.Conn // nil: no other methods are called

	written, closed chan struct{}
	left            string
}

const cannedResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func dialCanned(context.Context, string, string) (net.Conn, error) {
	return &canned{written: make(chan struct{}, 1), closed: make(chan struct{})}, nil
}

func (c *canned) Write(p []byte) (int, error) {
	c.written <- struct{}{}
	return len(p), nil
}

func (c *canned) Read(p []byte) (int, error) {
	if c.left == "" {
		select {
		case <-c.written:
			c.left = cannedResponse
		case <-c.closed:
			return 0, io.EOF
		}
	}
	n := copy(p, c.left)
	c.left = c.left[n:]
	return n, nil
}

func (c *canned) Close() error {
	close(c.closed)
	return nil
}

func (*canned) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (*canned) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*canned) SetDeadline(time.Time) error      { return nil }
func (*canned) SetReadDeadline(time.Time) error  { return nil }
func (*canned) SetWriteDeadline(time.Time) error { return nil }

func clusterChainGroup() group {
	const url = "http://bench/"
	ctx := context.Background()
	bare, under, template := &http.Transport{DialContext: dialCanned}, &http.Transport{DialContext: dialCanned}, &http.Transport{DialContext: dialCanned}
	counted := func(inside ...pillion.Policy) *pillion.Upstream {
		return upstream(append(append([]pillion.Policy{metrics.Config{Registry: registry()}}, all(false)...), inside...)...)
	}
	hosts := cluster.Config{Endpoints: cluster.Addresses("10.0.0.1:80", "10.0.0.2:80"), Transport: template}
	return group{clusterChain, []candidate{
		{"http.Transport", get(ctx, bare, url)},
		{"all policies over http.Transport", get(ctx, counted().Transport(under), url)},
		{"all policies and a cluster", get(ctx, counted(hosts).Transport(nil), url)},
	}, true}
}

func clusterGRPCGroup() group {
	address := grpcServer()
	return group{clusterGRPC, []candidate{
		{"all policies", grpcOver(address, pilliongrpc.DialOptions(upstream(grpcPolicies()...))...)},
		{"all policies and a cluster", grpcOver("bench", pilliongrpc.DialOptions(upstream(
			grpcPolicies(cluster.Config{Endpoints: cluster.Addresses(address)})...))...)},
	}, true} // fine: gRPC's pools stay full
}

// pickTable measures picks. They are internal to package cluster, whose benchmark reports them.
func pickTable() (table, error) {
	run := exec.CommandContext(context.Background(), "go", "test", "-run", "^$", "-bench", "^BenchmarkPickCost$", "-benchtime", "1x", "./cluster/internal/balance")
	run.Dir, run.Stderr = "..", os.Stderr
	out, err := run.Output()
	if err != nil {
		return table{}, fmt.Errorf("bench: %s: %w\n%s", clusterPicks, err, out)
	}
	return readPicks(string(out)), nil
}

// readPicks makes a table of the output of a benchmark.
func readPicks(output string) table {
	const nothing = "nothing"
	t := table{group{name: clusterPicks, candidates: []candidate{{name: nothing}}}, map[string]result{nothing: {}}}
	for line := range strings.Lines(output) {
		row, ok := strings.CutPrefix(line, "BenchmarkPickCost/")
		if !ok {
			continue
		}
		fields := strings.Fields(row)
		name := strings.ReplaceAll(fields[0][:strings.LastIndexByte(fields[0], '-')], "_", " ")
		if name == "reference" {
			name = pickReference
		}
		ns, allocs := metric(fields, "ns/pick"), metric(fields, "allocs/pick")
		t.group.candidates = append(t.group.candidates, candidate{name: name})
		t.results[name] = result{ns: ns, added: ns, allocs: allocs, addedA: allocs, each: []float64{ns}}
	}
	return t
}

// metric returns the number before its unit.
func metric(fields []string, unit string) float64 {
	if i := slices.Index(fields, unit); i > 0 {
		if value, err := strconv.ParseFloat(fields[i-1], 64); err == nil {
			return value
		}
	}
	return math.NaN() // no bound holds for it
}

// pickReference is what picks are compared with, since the time depends on the machine: a lookup of an
// address in a map of 1,000 hosts, and a count. It takes about 29 ns on the machine of
// docs/performance.md, where the bounds are so 40 ns, and 200 ns for the schedules of different weights.
const (
	pickReference = "reference: a lookup in a map, and a count"
	pickFactor    = 40.0 / 29
	edfFactor     = 200.0 / 29
)

// clusterBounds say that a cluster, whose pool replaces that of http.Transport, costs calls nothing, and
// what a pick costs. The noise of what is added to a call is 20 %: most of the time goes to switches
// between the goroutines of a connection.
func clusterBounds() []bound {
	bounds := []bound{
		{clusterChain, "all policies and a cluster", "all policies over http.Transport", 1.2, 1},
		{clusterGRPC, "all policies and a cluster", "", 0, 3},
	}
	for _, policy := range []string{"round robin", "least request", "random", "ring hash", "ring hash/weights", "maglev", "maglev/weights"} {
		bounds = append(bounds, bound{clusterPicks, policy, pickReference, pickFactor, 0})
	}
	for _, policy := range []string{"round robin/EDF", "least request/EDF"} {
		bounds = append(bounds, bound{clusterPicks, policy, pickReference, edfFactor, 0})
	}
	return bounds
}
