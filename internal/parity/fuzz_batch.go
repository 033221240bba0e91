package parity

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/pillion-go/pillion/internal/envoytest"
)

// batch plays several scenarios through one Envoy, each with a listener and a cluster of its own.
type batch struct {
	cases     []*Case
	upstreams []*upstream
	envoy     *envoytest.Envoy
}

// startBatch starts the upstreams of all cases and one Envoy. The batch must be closed.
func startBatch(ctx context.Context, binary string, cases []*Case) (*batch, error) {
	b := &batch{cases: cases}
	for _, c := range cases {
		up, err := startUpstream(ctx, c.Scenario.Upstream)
		if err != nil {
			b.close()
			return nil, err
		}
		b.upstreams = append(b.upstreams, up)
	}
	var err error
	b.envoy, err = envoytest.Start(ctx, binary, func(dir string) ([]byte, error) {
		return b.config(dir + "/")
	})
	if err == nil {
		err = b.envoy.ListenAll(ctx, len(cases))
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

// close ends Envoy and the upstreams.
func (b *batch) close() {
	if b.envoy != nil {
		b.envoy.Close()
	}
	for _, up := range b.upstreams {
		up.close()
	}
}

// label is what follows the names of the nth scenario.
func label(n int) string { return "-" + strconv.Itoa(n) }

// config is the configuration of all scenarios.
func (b *batch) config(dir string) ([]byte, error) {
	var listeners, clusters []any
	for i, c := range b.cases {
		if c.Scenario.Envoy["runtime"] != nil {
			return nil, errors.New("a runtime applies to the whole Envoy")
		}
		one, err := config(&c.Scenario, b.upstreams[i].addresses, dir+accessLog+label(i))
		if err != nil {
			return nil, err
		}
		one = labeled(one, label(i)).(object)                         //nolint:forcetypeassert // it stays an object
		static := one["static_resources"].(object)                    //nolint:forcetypeassert // config makes it
		listeners = append(listeners, static["listeners"].([]any)...) //nolint:forcetypeassert // config makes it
		clusters = append(clusters, static["clusters"].([]any)...)    //nolint:forcetypeassert // config makes it
	}
	all := parse[object](baseConfig)
	all["static_resources"] = object{"listeners": listeners, "clusters": clusters}
	return json.Marshal(all)
}

// labeled returns a configuration with the label behind the names of the cluster and of the
// listener.
func labeled(config any, label string) any {
	switch v := config.(type) {
	case string:
		if v == clusterName || v == egress {
			return v + label
		}
	case object:
		for name, value := range v {
			v[name] = labeled(value, label)
		}
	case []any:
		for i, value := range v {
			v[i] = labeled(value, label)
		}
	}
	return config
}

// play plays the nth scenario through Envoy. A scenario can be played once.
func (b *batch) play(ctx context.Context, n int) (*Played, error) {
	return b.cases[n].playAt(ctx, b.upstreams[n], func(_ context.Context, s *Scenario, _ Addresses) (Side, error) {
		return newSidecar(b.envoy, s, label(n), func() {}), nil
	})
}
