package parity

import "slices"

// hashesAddresses reports whether it is the hosts' addresses that decide which of them is picked.
// Recordings have other addresses, so that the hosts have other names there.
func (s *Scenario) hashesAddresses() bool {
	f, err := readFragments(s.Envoy)
	return err == nil && (f.cluster.LBPolicy == "RING_HASH" || f.cluster.LBPolicy == "MAGLEV")
}

// compareRenamed compares under those names of the hosts under which the fewest values differ.
func (c *Case) compareRenamed(want view, have Observed) (fewest []Difference) {
	ids := make([]string, len(c.Scenario.Upstream.Hosts))
	for i, h := range c.Scenario.Upstream.Hosts {
		ids[i] = h.ID
	}
	first := true
	permute(slices.Clone(ids), 0, func(names []string) {
		found := c.compareViews(want, have.renamed(ids, names).view())
		if first || len(found) < len(fewest) {
			first, fewest = false, found
		}
	})
	return fewest
}

// renamed returns o with the hosts named to instead of from.
func (o Observed) renamed(from, to []string) *Observed {
	o.Attempts = slices.Clone(o.Attempts)
	for i := range o.Attempts {
		if n := slices.Index(from, o.Attempts[i].Host); n >= 0 {
			o.Attempts[i].Host = to[n]
		}
	}
	return &o
}

// permute calls do with each order of ids.
func permute(ids []string, from int, do func(ids []string)) {
	if from == len(ids) {
		do(ids)
		return
	}
	for i := from; i < len(ids); i++ {
		ids[from], ids[i] = ids[i], ids[from]
		permute(ids, from+1, do)
		ids[from], ids[i] = ids[i], ids[from]
	}
}
