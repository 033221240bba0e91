package cluster

import (
	"reflect"
	"slices"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/policy"
)

// avoid makes the pick of a retry avoid hosts.
func (r *route) avoid(c *policy.Call, q *balance.Request) {
	s := &r.selection
	if s.PreviousPriorities > 0 {
		q.Previous = r.previous(c, s.PreviousPriorities)
	}
	if !s.AvoidPrevious && len(s.OmitMetadata) == 0 {
		return
	}
	tried := slices.Collect(c.Tried)
	q.MaxAttempts, q.LeaveZoneAfter = s.MaxAttempts, r.leaveZone
	q.Reject = func(h *balance.Host) bool {
		return s.AvoidPrevious && slices.Contains(tried, hostOf(h).address) || omits(s.OmitMetadata, h.Endpoint().Metadata)
	}
}

// omits reports whether omit is not empty and a host has all of its values.
func omits(omit, has map[string]map[string]any) bool {
	for filter, values := range omit {
		for key, value := range values {
			if !reflect.DeepEqual(has[filter][key], value) {
				return false
			}
		}
	}
	return len(omit) > 0
}

// previous returns the priorities of earlier attempts. They count in groups of frequency attempts.
func (r *route) previous(c *policy.Call, frequency int) *balance.PreviousPriorities {
	hosts := r.cluster.byAddress()
	var tried []*balance.Host
	for address := range c.Tried {
		if h := hosts[address]; h != nil {
			tried = append(tried, h.Host)
		}
	}
	slices.Reverse(tried)
	p := &balance.PreviousPriorities{UpdateFrequency: frequency}
	for _, h := range tried[:len(tried)/frequency*frequency] {
		p.Attempted(h)
	}
	return p
}
