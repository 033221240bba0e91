package metrics

import (
	"cmp"
	"slices"
	"strings"
)

// plan is the layout of a page: its statistics and their order. It is valid until a cluster or a
// statistic is added, so that a scrape only reads values.
type plan struct {
	shape    uint64
	entries  []entry  // in the order of the text
	bytes    int      // total length of the entries' names
	families []family // in the order of Prometheus
}

// entry is one statistic in the plan.
type entry struct {
	row
	index  int    // position in the plan
	left   string // the name without its tags: cluster.upstream_rq
	labels *labels
}

// family is the set of statistics with the same name in Prometheus.
type family struct {
	kind    kind
	left    string
	name    string // envoy_cluster_upstream_rq
	members []*entry
	mixed   bool // from different names that Prometheus cannot distinguish
}

// layout returns the plan. It makes a new one if the old one is no longer valid.
func (r *Registry) layout() *plan {
	r.refresh()
	shape := r.shape.Load()
	if p := r.plan.Load(); p != nil && p.shape == shape {
		return p
	}
	r.planning.Lock()
	defer r.planning.Unlock()
	shape = r.shape.Load() // load before reading: later changes are for the next plan
	if p := r.plan.Load(); p != nil && p.shape == shape {
		return p
	}
	t := newTagger(r.tags, r.plain)
	p := &plan{shape: shape, entries: r.entries(t)}
	for i := range p.entries {
		p.bytes += len(p.entries[i].name)
	}
	p.families = distinct(familiesOf(p.entries), t.lossy)
	r.plan.Store(p)
	return p
}

// entries returns all statistics, sorted as in Envoy's text: counters and gauges by name, then
// histograms.
func (r *Registry) entries(t *tagger) []entry {
	clusters := r.sorted()
	rows := 0
	for _, c := range clusters {
		rows += c.size()
	}
	numbers, histograms := make([]entry, 0, rows), []entry(nil)
	for _, c := range clusters {
		numbers, histograms = c.entries(t, numbers, histograms)
	}
	all := append(unique(numbers), unique(histograms)...)
	for i := range all {
		all[i].index = i
	}
	return all
}

func (c *ClusterStats) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.rows)
}

// sorted returns the current clusters, sorted by name, then the virtual ones.
func (r *Registry) sorted() []*ClusterStats {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*ClusterStats, 0, len(r.clusters)+len(r.virtual))
	for _, c := range r.clusters {
		all = append(all, c)
	}
	for _, c := range r.virtual {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *ClusterStats) int { return strings.Compare(a.prefix, b.prefix) })
	return all
}

// entries appends the statistics of a cluster, sorted by name.
func (c *ClusterStats) entries(t *tagger, numbers, histograms []entry) (n, h []entry) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	from, hfrom := len(numbers), len(histograms)
	for stat, row := range c.rows {
		left, labels := t.extract(c, stat)
		e := entry{row: row, left: left, labels: labels}
		if e.kind == histogramKind {
			histograms = append(histograms, e)
		} else {
			numbers = append(numbers, e)
		}
	}
	numbers = c.appendEndpoints(t, numbers)
	slices.SortFunc(numbers[from:], byName)
	slices.SortFunc(histograms[hfrom:], byName)
	return numbers, histograms
}

func byName(a, b entry) int { return strings.Compare(a.name, b.name) }

// unique sorts by name and merges entries with the same name. As in Envoy the statistic retry.x of
// a cluster a and the statistic x of a cluster a.retry are the same. For a name with two types it
// keeps the first type.
func unique(all []entry) []entry {
	if !slices.IsSortedFunc(all, byName) {
		slices.SortStableFunc(all, byName)
	}
	kept := all[:0]
	for _, e := range all {
		if n := len(kept); n != 0 && kept[n-1].name == e.name {
			kept[n-1].row = merged(kept[n-1].row, e.row)
			continue
		}
		kept = append(kept, e)
	}
	return kept
}

// merged returns the sum of two statistics, or the first one if their types differ.
func merged(a, b row) row {
	switch {
	case a.kind != b.kind:
	case a.kind == histogramKind:
		a.bins = slices.Concat(a.bins, b.bins)
	default:
		a.num = total{a.num, b.num}
	}
	return a
}

// total is a sum of numbers.
type total []number

func (t total) Value() uint64 {
	var sum uint64
	for _, n := range t {
		sum += n.Value()
	}
	return sum
}

func (t total) used() bool { return slices.ContainsFunc(t, number.used) }

// familiesOf groups entries as in Prometheus's format: counters, gauges, then histograms, each
// sorted by the rest of their names.
func familiesOf(entries []entry) []family {
	type key struct {
		kind kind
		left string
	}
	at := map[key]int{}
	var all []family
	for i := range entries {
		e := &entries[i]
		k := key{e.kind, e.left}
		f, ok := at[k]
		if !ok {
			f = len(all)
			at[k] = f
			all = append(all, family{kind: e.kind, left: e.left, name: metricName(e.left)})
		}
		all[f].members = append(all[f].members, e)
	}
	slices.SortFunc(all, func(a, b family) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), strings.Compare(a.left, b.left))
	})
	return all
}

// distinct ensures that each name and each series is unique, for any names of clusters and tags. It
// sums series that Prometheus cannot distinguish. Of two types with the same name it keeps the
// first. lossy reports that the labels do not contain everything that was cut out of the names.
func distinct(all []family, lossy bool) []family {
	taken := map[string]int{}
	kept := all[:0]
	for _, f := range all {
		at, ok := taken[f.name]
		switch {
		case ok && at >= 0 && kept[at].kind == f.kind:
			kept[at].members = append(kept[at].members, f.members...)
			kept[at].mixed = true
			continue
		case ok || (f.kind == histogramKind && anyTaken(taken, f.name)):
			continue
		}
		taken[f.name] = len(kept)
		if f.kind == histogramKind {
			for _, suffix := range suffixes {
				taken[f.name+suffix] = -1
			}
		}
		kept = append(kept, f)
	}
	for i := range kept {
		if lossy || kept[i].mixed {
			kept[i].members = oneEach(kept[i].members)
		}
	}
	return kept
}

//nolint:gochecknoglobals // read-only table
var suffixes = [...]string{"_bucket", "_sum", "_count"}

// anyTaken reports whether a series of a histogram would have a name that is taken.
func anyTaken(taken map[string]int, histogram string) bool {
	for _, suffix := range suffixes {
		if _, ok := taken[histogram+suffix]; ok {
			return true
		}
	}
	return false
}

// oneEach merges members with the same labels.
func oneEach(members []*entry) []*entry {
	at := make(map[string]int, len(members))
	kept := members[:0]
	for _, e := range members {
		if i, ok := at[e.labels.text]; ok {
			both := *kept[i]
			both.row = merged(both.row, e.row)
			kept[i] = &both
			continue
		}
		at[e.labels.text] = len(kept)
		kept = append(kept, e)
	}
	return kept
}
