package resolve

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/pillion-go/pillion/internal/envoytest"
)

//go:generate go test -run TestEnvoy -record

var recordEnvoy = flag.Bool("record", false, "play the cases of TestEnvoy through the Envoy that PILLION_ENVOY names, and keep what came of them")

const (
	recording = "testdata/envoy.json"
	period    = time.Second             // the refresh rate of all cases
	horizon   = 8500 * time.Millisecond // how long a case lasts
)

// scenario is what a DNS server says for some names, and a cluster that looks them up.
type scenario struct {
	name   string
	config Config
	// steps are the responses to each lookup of the first name, those of the other names are
	// in more. The last one is repeated. A step is in found's notation, for both families, with
	// "x/2" before addresses for an alias, or one of "nx", "servfail" and "refused"; the one
	// after a "|" is for IPv6.
	steps []string
	more  [][]string
	// differs is what comes of it here, where that is not what came of it in Envoy.
	differs string
}

func scenarios() []scenario {
	ttl := Config{Family: V4Only, RespectTTL: true}
	v4, logical := Config{Family: V4Only}, Config{Family: V4Only, Logical: true}
	logicalTTL := Config{Family: V4Only, Logical: true, RespectTTL: true}
	all := []scenario{
		{name: "changes", config: v4, steps: []string{"a", "a b", "b c", "c", "d"}},
		{name: "order", config: v4, steps: []string{"a b c", "b a c", "c b a"}},
		{name: "order, then a change", config: v4, steps: []string{"a b c", "b a c", "c b a", "d c b a"}},
		{name: "twice", config: v4, steps: []string{"a a b a"}},
		{name: "comes late", config: v4, steps: []string{"", "nx", "servfail", "a"}},
		{name: "failures", config: v4, steps: []string{"a b", "servfail", "refused", "servfail", "b"}},
		{name: "never", config: v4, steps: []string{"refused"}},
		{name: "no addresses", config: v4, steps: []string{""}},
		{name: "empties", config: v4, steps: []string{"a b", "a", ""}, differs: "a | attempt 9 success 9 failure 0 empty 7 no_rebuild 7 changes 2"},
		{name: "disappears", config: v4, steps: []string{"a b", "a", "nx"}, differs: "a | attempt 9 success 9 failure 0 empty 7 no_rebuild 7 changes 2"},
		{name: "empties and returns", config: v4, steps: []string{"a b", "", "b a"}, differs: "a b | attempt 9 success 9 failure 0 empty 1 no_rebuild 8 changes 1"},
		{name: "two names", config: v4, steps: []string{"a b", "b"}, more: [][]string{{"b", "b", "servfail", "b c"}}},
		{name: "the same address twice", config: v4, steps: []string{"a"}, more: [][]string{{"a"}}},

		{name: "ttl", config: ttl, steps: []string{"a/3 b/9"}},
		{name: "ttl of an alias", config: ttl, steps: []string{"x/2 a/9"}},
		{name: "ttl of two aliases", config: ttl, steps: []string{"x/7 y/3 a/9 b/4"}},
		{name: "ttl zero", config: ttl, steps: []string{"a/0"}},
		{name: "ttl zero of one", config: ttl, steps: []string{"a/9 b/0"}},
		{name: "ttl zero of an alias", config: ttl, steps: []string{"x/0 a/9"}},
		{name: "ttl too long", config: ttl, steps: []string{"a/2147483653"}},
		{name: "ttl floor", config: Config{Family: V4Only, RespectTTL: true, MinRefreshRate: 3 * time.Second}, steps: []string{"a/1"}},
		{name: "ttl not asked for", config: v4, steps: []string{"a/3"}},

		{name: "logical: changes", config: logical, steps: []string{"a", "a b", "b c", "b c", "c"}},
		{name: "logical: order", config: logical, steps: []string{"a b c", "a c b", "a c b", "c a b"}},
		{name: "logical: failures", config: logical, steps: []string{"a b", "servfail", "refused", "", "nx", "b"}},
		{name: "logical: never", config: logical, steps: []string{""}},
		{name: "logical: ttl of the first", config: logicalTTL, steps: []string{"a/4 b/2"}},
		{name: "logical: ttl of an alias", config: logicalTTL, steps: []string{"x/2 a/9"}},
	}
	for f, family := range []string{"auto", "v4_only", "v6_only", "v4_preferred", "all"} {
		for _, s := range []struct{ name, step string }{
			{"both", "a b|A B"},
			{"IPv4 only", "a|"},
			{"IPv6 only", "|A"},
			{"neither", "|"},
			{"IPv6 fails", "a|servfail"},
			{"IPv4 fails", "servfail|A"},
			{"IPv6 fails and no IPv4", "|servfail"},
			{"IPv4 fails and no IPv6", "servfail|"},
			{"no such name", "nx|nx"},
		} {
			for _, logical := range []bool{false, true} {
				config := Config{Family: Family(f), Logical: logical}
				all = append(all, scenario{name: fmt.Sprintf("%s, %s, logical %v", family, s.name, logical), config: config, steps: []string{s.step}})
			}
		}
		all = append(all, scenario{name: family + ", IPv6 comes and fails", config: Config{Family: Family(f)}, steps: []string{"a|A", "a b|servfail", "a b|A"}})
		all = append(all, scenario{name: family + ", a literal", config: Config{Family: Family(f), Targets: []Target{{Name: "10.0.0.5", Port: 80}}}})
	}
	for i, s := range all {
		if s.name == "all, IPv6 comes and fails" {
			all[i].differs = "a b A | attempt 9 success 9 failure 0 empty 0 no_rebuild 7 changes 2"
		}
		for n := range len(s.more) + min(1, len(s.steps)) {
			all[i].config.Targets = append(slices.Clip(all[i].config.Targets), Target{Name: fmt.Sprintf("c%d.n%d.test", i, n), Port: 80})
		}
		all[i].config.RefreshRate = period
	}
	return all
}

// zone responds for the names of scenarios.
type zone struct {
	all []scenario

	mu    sync.Mutex
	first map[string]time.Time // when each name was asked for first
}

func (z *zone) respond(q query) [][]byte {
	var i, n int
	if _, err := fmt.Sscanf(q.name, "c%d.n%d.test", &i, &n); err != nil {
		return q.code(dnsmessage.RCodeNameError)
	}
	steps := append([][]string{z.all[i].steps}, z.all[i].more...)[n]
	z.mu.Lock()
	if _, ok := z.first[q.name]; !ok {
		z.first[q.name] = time.Now()
	}
	// By time, since programs differ in how often they ask again after a failure.
	step := int((time.Since(z.first[q.name]) + period/2) / period)
	z.mu.Unlock()
	v4, v6, _ := strings.Cut(steps[min(step, len(steps)-1)], "|")
	if q.family == "ip6" {
		return q.step(v6)
	}
	return q.step(v4)
}

// step responds as a step of a scenario says.
func (q query) step(s string) [][]byte {
	codes := map[string]dnsmessage.RCode{"nx": dnsmessage.RCodeNameError, "servfail": dnsmessage.RCodeServerFailure, "refused": dnsmessage.RCodeRefused}
	if c, ok := codes[s]; ok {
		return q.code(c)
	}
	var rrs []rr
	for w := range strings.FieldsSeq(s) {
		name, ttl, _ := strings.Cut(w, "/")
		seconds, _ := strconv.ParseUint(ttl, 10, 32)
		if name >= "x" {
			rrs = append(rrs, rr{alias: name + ".test", ttl: uint32(seconds)})
			continue
		}
		rrs = append(rrs, rr{ip: address(name[0]).String(), ttl: uint32(seconds)})
	}
	return [][]byte{q.message(nil, rrs...)}
}

// TestEnvoy compares what comes of scenarios here with what came of them in Envoy.
func TestEnvoy(t *testing.T) {
	all := scenarios()
	if *recordEnvoy {
		keep(t, playEnvoy(t, all))
	}
	b, err := os.ReadFile(recording)
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct{ Outcomes map[string]string }
	if err := json.Unmarshal(b, &recorded); err != nil {
		t.Fatal(err)
	}
	same, differ, failing := 0, 0, 0
	for _, s := range all {
		got, want := play(t, all, s), recorded.Outcomes[s.name]
		if s.differs == want {
			t.Errorf("%s: the documented difference is none: %s", s.name, want)
		}
		switch {
		case got == want && s.differs == "":
			same++
		case got == s.differs:
			differ++
		default:
			failing++
			t.Errorf("%s:\ngot   %s\nEnvoy %s", s.name, got, want)
		}
	}
	if len(recorded.Outcomes) != len(all) {
		t.Errorf("recorded %d scenarios, want %d: record them again", len(recorded.Outcomes), len(all))
	}
	t.Logf("golden resolve: %d cases, %d same, %d documented differences, 0 not yet, %d failing", len(all), same, differ, failing)
}

// play plays s here and returns what came of it, in the form of the recording.
func play(t *testing.T, all []scenario, s scenario) (outcome string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		z := &zone{all: all, first: map[string]time.Time{}}
		config, changes := s.config, 0
		var hosts []Host
		config.Dial, config.NoSearch = newServer(z.respond).dial, true
		config.OnUpdate = func(h []Host) { changes, hosts = changes+1, h }
		r := start(t, config)
		time.Sleep(horizon)
		r.Close()
		var addrs []string
		for _, h := range hosts {
			addrs = append(addrs, names([]netip.Addr{h.Addr.Addr()}))
		}
		st := r.Stats()
		outcome = fmt.Sprintf("%s | attempt %d success %d failure %d empty %d no_rebuild %d changes %d", strings.Join(addrs, " "),
			st.UpdateAttempt, st.UpdateSuccess, st.UpdateFailure, st.UpdateEmpty, st.UpdateNoRebuild, changes)
	})
	return outcome
}

// keep writes the recording.
func keep(t *testing.T, outcomes map[string]string) {
	t.Helper()
	b, err := json.MarshalIndent(map[string]any{
		"Program": "Envoy 1.40.0", "Command": "PILLION_ENVOY=… go test ./cluster/internal/resolve -run TestEnvoy -record", "Outcomes": outcomes,
	}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recording, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// playEnvoy plays all scenarios at the same time through Envoy.
func playEnvoy(t *testing.T, all []scenario) map[string]string {
	t.Helper()
	z := &zone{all: all, first: map[string]time.Time{}}
	_, port, err := net.SplitHostPort(newServer(z.respond).listen(t))
	if err != nil {
		t.Fatal(err)
	}
	e := envoytest.Run(t, bootstrap(all, port))
	time.Sleep(horizon) // its clusters start when the admin page does
	return read(t, all, e.MustStats(t, "^cluster[.]"), e.MustPage(t, "/clusters?format=json"))
}

// read makes outcomes of Envoy's statistics and list of hosts.
func read(t *testing.T, all []scenario, stats map[string]uint64, clusters string) map[string]string {
	t.Helper()
	var listed struct {
		Statuses []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
					} `json:"socket_address"`
				} `json:"address"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal([]byte(clusters), &listed); err != nil {
		t.Fatal(err)
	}
	hosts := map[string][]string{}
	for _, c := range listed.Statuses {
		for _, h := range c.Hosts {
			hosts[c.Name] = append(hosts[c.Name], names([]netip.Addr{netip.MustParseAddr(h.Address.Socket.Address)}))
		}
	}
	outcomes := map[string]string{}
	for i, s := range all {
		name := fmt.Sprint("c", i)
		of := func(stat string) uint64 { return stats["cluster."+name+"."+stat] }
		outcomes[s.name] = fmt.Sprintf("%s | attempt %d success %d failure %d empty %d no_rebuild %d changes %d", strings.Join(hosts[name], " "),
			of("update_attempt"), of("update_success"), of("update_failure"), of("update_empty"), of("update_no_rebuild"), of("membership_change"))
	}
	return outcomes
}

// object is an object of JSON.
type object = envoytest.Object

// bootstrap is a configuration of Envoy that has a cluster for each scenario.
func bootstrap(all []scenario, port string) object {
	families := []string{"AUTO", "V4_ONLY", "V6_ONLY", "V4_PREFERRED", "ALL"}
	var clusters []object
	for i, s := range all {
		var endpoints []object
		for _, target := range s.config.Targets {
			endpoints = append(endpoints, object{"endpoint": object{"address": object{"socket_address": object{"address": target.Name, "port_value": target.Port}}}})
		}
		dns := object{
			"@type":            "type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster",
			"dns_refresh_rate": "1s", "dns_lookup_family": families[s.config.Family], "respect_dns_ttl": s.config.RespectTTL,
			"all_addresses_in_single_endpoint": s.config.Logical,
			"typed_dns_resolver_config": object{"name": "envoy.network.dns_resolver.cares", "typed_config": object{
				"@type":                "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
				"resolvers":            []object{{"socket_address": object{"address": "127.0.0.1", "port_value": json.Number(port)}}},
				"dns_resolver_options": object{"no_default_search_domain": true},
			}},
		}
		if s.config.MinRefreshRate > 0 {
			dns["dns_min_refresh_rate"] = fmt.Sprintf("%gs", s.config.MinRefreshRate.Seconds())
		}
		clusters = append(clusters, object{
			"name": fmt.Sprint("c", i), "connect_timeout": "1s",
			"cluster_type":    object{"name": "envoy.cluster.dns", "typed_config": dns},
			"load_assignment": object{"cluster_name": fmt.Sprint("c", i), "endpoints": []object{{"lb_endpoints": endpoints}}},
		})
	}
	return envoytest.Bootstrap(clusters, nil)
}
