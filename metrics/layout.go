package metrics

import (
	"cmp"
	"slices"
	"strings"
)

// plan is how a page is laid out: what stands in it, in which order. It holds
// until a cluster or a statistic is added, so that a scrape only reads values.
type plan struct {
	shape    uint64
	entries  []entry  // in the order of the text
	bytes    int      // of the entries' names
	families []family // in the order of Prometheus
}

// entry is one statistic in the plan.
type entry struct {
	row
	index  int    // of the entry in its plan
	left   string // the name without its tags: cluster.upstream_rq
	labels *labels
}

// family is what has one name in Prometheus.
type family struct {
	kind    kind
	left    string
	name    string // envoy_cluster_upstream_rq
	members []*entry
	mixed   bool // of several names that Prometheus cannot tell apart
}

// layout gives the plan, a new one where the old one no longer holds.
func (r *Registry) layout() *plan {
	shape := r.shape.Load()
	if p := r.plan.Load(); p != nil && p.shape == shape {
		return p
	}
	r.planning.Lock()
	defer r.planning.Unlock()
	shape = r.shape.Load() // before the reading: what comes later is for the next plan
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

// entries lists all statistics, sorted as Envoy's text is: counters and gauges by
// name, then histograms.
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

// sorted gives the clusters as they are now.
func (r *Registry) sorted() []*ClusterStats {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make([]*ClusterStats, 0, len(r.clusters))
	for _, c := range r.clusters {
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
		left, labels := t.extract(c.name, stat)
		e := entry{row: row, left: left, labels: labels}
		if e.kind == histogramKind {
			histograms = append(histograms, e)
		} else {
			numbers = append(numbers, e)
		}
	}
	slices.SortFunc(numbers[from:], byName)
	slices.SortFunc(histograms[hfrom:], byName)
	return numbers, histograms
}

func byName(a, b entry) int { return strings.Compare(a.name, b.name) }

// unique sorts by name, which has little to do unless names have dots, and makes
// one entry of those with one name: the statistic retry.x of a cluster a is x of a cluster
// a.retry, in Envoy too. A name that stands for two types stays the first one's.
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

// merged is the sum of two statistics; the first one alone where they differ in
// type.
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

// familiesOf groups entries as Prometheus shows them: counters, gauges, then
// histograms, each by what is left of their names.
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

// distinct sees to it that each name and each series is there once, however odd
// the names of clusters and tags are: what Prometheus cannot tell apart becomes one sum.
// Of two types with one name it keeps the first. lossy says that the labels do not hold
// all that was cut out of the names.
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

//nolint:gochecknoglobals // a table that nothing writes
var suffixes = [...]string{"_bucket", "_sum", "_count"}

// anyTaken reports whether a histogram's series would bear a name that is taken.
func anyTaken(taken map[string]int, histogram string) bool {
	for _, suffix := range suffixes {
		if _, ok := taken[histogram+suffix]; ok {
			return true
		}
	}
	return false
}

// oneEach makes one of the members that have the same labels.
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
