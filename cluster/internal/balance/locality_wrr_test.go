package balance

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestLocalityWeights pins the shares of localities by weight and health.
func TestLocalityWeights(t *testing.T) {
	tests := []struct {
		name    string
		hosts   string
		weights map[string]uint32
		picks   int
		want    map[string]int
	}{
		{"weights", "aab", map[string]uint32{"a": 1, "b": 3}, 400, map[string]int{"a": 100, "b": 300}},
		{"all healthy enough", "aaab", map[string]uint32{"a": 1, "b": 1}, 400, map[string]int{"a": 200, "b": 200}},
		{"health within the factor", "aaaaabBB", map[string]uint32{"a": 10, "b": 10}, 220, map[string]int{"a": 150, "b": 70}},
		{"a whole locality out", "aaaB", map[string]uint32{"a": 1, "b": 100}, 100, map[string]int{"a": 100}},
		{"weight 0", "ab", map[string]uint32{"a": 1}, 100, map[string]int{"a": 100}},
		{"no weights", "aab", nil, 300, map[string]int{"a": 200, "b": 100}},
	}
	for _, test := range tests {
		m := Membership{Hosts: inZones(test.hosts), LocalityWeights: map[PriorityLocality]uint32{}}
		for zone, w := range test.weights {
			m.LocalityWeights[PriorityLocality{0, Locality{Zone: zone}}] = w
		}
		b := balancer(t, Config{LocalityWeighted: true, PanicThreshold: Zero}, m)
		got := map[string]int{}
		for range test.picks {
			h, _ := b.Pick(Request{})
			got[h.Endpoint().Locality.Zone]++
		}
		for zone := range test.want {
			if n := got[zone] - test.want[zone]; n*n > 1 {
				t.Errorf("%s (-want +got):\n%s", test.name, cmp.Diff(test.want, got))
			}
		}
	}
}

// TestLocalityWeightsOfTables pins that localities share the tables of hash policies by
// their weights, whatever their health, and that without any weight there is no host.
func TestLocalityWeightsOfTables(t *testing.T) {
	m := Membership{Hosts: inZones("aabB"), LocalityWeights: map[PriorityLocality]uint32{{0, Locality{Zone: "a"}}: 1, {0, Locality{Zone: "b"}}: 3}}
	b := balancer(t, Config{Policy: Maglev, LocalityWeighted: true}, m)
	w := b.state.Load().levels[0].weighted
	if diff := cmp.Diff([]float64{0.125, 0.125, 0.75}, w.weights); diff != "" {
		t.Errorf("weights (-want +got):\n%s", diff)
	}
	m.LocalityWeights = nil
	if err := b.Update(m, 0); err != nil {
		t.Fatal(err)
	}
	if h, info := b.Pick(Request{}); h != nil || info.Picks != 1 {
		t.Errorf("no weights: got %v, %+v, want no host, as in Envoy", h, info)
	}
}

func TestEffectiveWeight(t *testing.T) {
	four, one, factor := hosts(4), hosts(1), 1.4
	for _, test := range []struct {
		group LocalityHosts
		want  float64
	}{
		{LocalityHosts{Weight: 10, All: four, Healthy: four}, 10},
		{LocalityHosts{Weight: 10, All: four, Healthy: one}, 10 * (factor * 0.25)},
		{LocalityHosts{Weight: 10, All: four, Healthy: one, Excluded: one}, 10 * (factor * (1 / 3.0))},
		{LocalityHosts{Weight: 10, All: one, Excluded: one}, 0},
		{LocalityHosts{Weight: 10}, 0},
	} {
		if got := test.group.effectiveWeight((*LocalityHosts).healthy, 140); got != test.want {
			t.Errorf("%d of %d healthy: got %v, want %v", len(test.group.Healthy), len(test.group.All), got, test.want)
		}
	}
}
