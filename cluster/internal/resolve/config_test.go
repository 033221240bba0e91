package resolve

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	name := []Target{{Name: "recipes.test"}}
	lookup := func(context.Context, string, string) ([]Record, error) { return nil, nil }
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, nil }
	for _, c := range []struct {
		config Config
		want   []string // parts of the error
	}{
		{Config{}, nil},
		{Config{Targets: name, RefreshRate: time.Millisecond, FailureBase: time.Second, FailureMax: time.Second, Family: All}, nil},
		{Config{Targets: name, Servers: []string{"10.0.0.1", "10.0.0.1:53", "::1", "[::1]:53", "fe80::1%eth0"}}, nil},
		{Config{Targets: name, Lookup: lookup}, nil},
		{Config{Targets: append(name, name...)}, nil},
		{Config{Targets: append(name, name...), Logical: true}, []string{"Config.Targets: 2: write exactly one name for Logical"}},
		{Config{Logical: true}, []string{"Config.Targets: 0"}},
		{Config{Targets: []Target{{}, {Name: "recipes.test:80"}}}, []string{"Config.Targets[0].Name", "Config.Targets[1].Name: recipes.test:80: write the port in Port"}},
		{Config{Family: All + 1}, []string{"Config.Family: 5"}},
		{Config{Family: -1}, []string{"Config.Family: -1"}},
		{Config{RefreshRate: time.Microsecond, Jitter: -1, Timeout: -1}, []string{"Config.RefreshRate: 1µs", "Config.Jitter: -1ns", "Config.Timeout: -1ns"}},
		{Config{MinRefreshRate: -1, FailureBase: -1}, []string{"Config.MinRefreshRate", "Config.FailureBase"}},
		{Config{FailureBase: 2 * time.Second, FailureMax: time.Second}, []string{"Config.FailureMax: 1s: write 2s or more, or 0 for the default"}},
		{Config{FailureMax: time.Second}, []string{"Config.FailureMax: 1s: set FailureBase, too"}},
		{Config{Servers: []string{"dns.test", "10.0.0.1:x", ""}}, []string{"Config.Servers[0]", "Config.Servers[1]", "Config.Servers[2]"}},
		{Config{Lookup: lookup, UseTCP: true}, []string{"Config.Lookup"}},
		{Config{Lookup: lookup, Dial: dial}, []string{"Config.Lookup"}},
	} {
		_, err := New(c.config)
		if (err == nil) != (c.want == nil) {
			t.Errorf("%+v: got error %v", c.config, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: got error %v, want %q in it", c.config, err, want)
			}
		}
	}
}

func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	config := Config{Targets: []Target{{Name: "recipes.test"}}, Servers: []string{"10.0.0.1"}}
	r, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	config.Targets[0].Name, config.Servers[0] = "", ""
	if r.cfg.Targets[0].Name != "recipes.test" || r.cfg.Servers[0] != "10.0.0.1:53" {
		t.Errorf("got %v, want what New was given", r.cfg)
	}
}

func TestQueryTimeout(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		timeout time.Duration
		servers int
		want    time.Duration
	}{{0, 0, 5 * time.Second}, {0, 4, 5 * time.Second}, {0, 10, 2 * time.Second}, {time.Second, 1, 500 * time.Millisecond}, {time.Hour, 2, 5 * time.Second}} {
		config, err := Config{Timeout: c.timeout, Servers: strings.Fields(strings.Repeat("10.0.0.1 ", c.servers))}.normal()
		if err != nil {
			t.Fatal(err)
		}
		if got := config.queryTimeout(); got != c.want {
			t.Errorf("Timeout %v, %d servers: got %v, want %v", c.timeout, c.servers, got, c.want)
		}
	}
}
