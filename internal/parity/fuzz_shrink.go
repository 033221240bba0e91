package parity

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// shrink returns the smallest scenario it finds that still fails. It removes parts of the scenario,
// the largest first, and simplifies what is left. first returns the place of the first of some
// candidates that fails, or -1.
func shrink(ctx context.Context, s *Scenario, first func(candidates []*Scenario) int) *Scenario {
	for {
		smaller := step(ctx, s, first)
		if smaller == nil {
			return s
		}
		s = smaller
	}
}

// candidatesTogether is the number of candidates that are tested together.
const candidatesTogether = 12

// step returns a smaller scenario that fails, or nil.
func step(ctx context.Context, s *Scenario, first func(candidates []*Scenario) int) *Scenario {
	for candidates := range slices.Chunk(smaller(ctx, s), candidatesTogether) {
		if i := first(candidates); i >= 0 {
			return candidates[i]
		}
	}
	return nil
}

// smaller lists valid scenarios that are one step smaller.
func smaller(ctx context.Context, s *Scenario) []*Scenario {
	tree := s.tree()
	var all []*Scenario
	for _, e := range edits(tree) {
		text, err := json.Marshal(without(tree, e.path, e.with))
		if err != nil {
			panic(err) // it is made of JSON
		}
		made := &Scenario{}
		if strictBytes(text, made) == nil && made.valid(ctx) == nil {
			all = append(all, made)
		}
	}
	return all
}

// tree is the scenario as plain values, without the fields that are empty.
func (s *Scenario) tree() object {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // it was read from JSON
	}
	tree := parse[object](string(text))
	settings := tree["envoy"] // 0 is not the default of each field there
	delete(tree, "envoy")
	prune(tree)
	tree["envoy"] = settings
	return tree
}

// prune removes zero values, but not from lists.
func prune(v any) any {
	switch v := v.(type) {
	case object:
		for name, value := range v {
			if value = prune(value); value == nil {
				delete(v, name)
			}
		}
		return v
	case []any:
		for _, value := range v {
			prune(value)
		}
		if len(v) == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}

// edit replaces the part at a path; it removes it if with is nil.
type edit struct {
	path []any // names and places
	with any
	size int // how much smaller the scenario becomes
}

// kept lists the fields that belong to another one, or keep the times of a scenario apart.
//
//nolint:gochecknoglobals // a read-only list
var kept = []string{
	"@type", "name", "id", "tags", "protocol", "op", "ms", "start_ms", "gap_ms", "snapshot_at_ms", "base_interval", "max_interval", "retry_back_off",
	"interval", "update_merge_window", "common_lb_config", "max_ejection_time_jitter", "enforcing_success_rate", "enforcing_local_origin_success_rate",
	"percentage", "numerator", "denominator", "default_value", "stat_prefix", "token_bucket", "max_tokens", "tokens_per_fill", "fill_interval",
	"typed_config", "host_selection_retry_max_attempts", "description", "base_ejection_time", "hosts", "envoy", "upstream", "downstream", "value",
}

// edits lists the possible edits of a tree, those that remove most first.
func edits(tree object) []edit {
	all := []edit{}
	visit(tree, nil, func(path []any, v any) {
		name, named := path[len(path)-1].(string)
		if (!named || !slices.Contains(kept, name)) && !isSleep(v) {
			all = append(all, edit{path: path, size: len(fmt.Sprint(v))})
		}
		if with := simpler(name, v); with != nil {
			all = append(all, edit{path: path, with: with, size: 1})
		}
	})
	slices.SortStableFunc(all, func(a, b edit) int { return cmp.Compare(b.size, a.size) })
	return all
}

// isSleep reports whether v is an operation that keeps calls apart.
func isSleep(v any) bool {
	o, ok := v.(object)
	return ok && o["op"] == "sleep"
}

// simpler returns a simpler value for the field, or nil.
func simpler(name string, v any) any {
	switch {
	case name == "protocol" && v == "h2":
		return "http1"
	case name == "num_retries" && v != 1.0:
		return 1
	}
	return nil
}

// visit calls do with each part, in a fixed order.
func visit(v any, path []any, do func(path []any, v any)) {
	if len(path) > 0 {
		do(path, v)
	}
	switch v := v.(type) {
	case object:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			visit(v[name], append(slices.Clone(path), name), do)
		}
	case []any:
		for i, value := range v {
			visit(value, append(slices.Clone(path), i), do)
		}
	}
}

// without returns a copy of v in which the part at the path is replaced or removed.
func without(v any, path []any, with any) any {
	if len(path) == 0 {
		return with
	}
	switch v := v.(type) {
	case object:
		name, _ := path[0].(string) // the path comes from visit
		made := maps.Clone(v)
		if made[name] = without(v[name], path[1:], with); made[name] == nil {
			delete(made, name)
		}
		return made
	case []any:
		i, _ := path[0].(int) // the path comes from visit
		made := slices.Clone(v)
		if made[i] = without(v[i], path[1:], with); made[i] == nil {
			made = slices.Delete(made, i, i+1)
		}
		return made
	}
	return v
}
