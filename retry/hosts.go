package retry

import (
	"errors"
	"fmt"

	"github.com/pillion-go/pillion/policy"
)

// Hosts says which hosts of a cluster the retries of a call avoid. The zero value avoids none,
// which is Envoy's default.
type Hosts struct {
	// PreviousHosts avoids the hosts of the attempts before. Mirrors the retry host predicate
	// previous_hosts.
	PreviousHosts bool `json:"previous_hosts,omitempty"`

	// OmitMetadata avoids hosts whose metadata has all these values, by filter name and key: that
	// of canaries, say. Mirrors metadata_match of the retry host predicate omit_host_metadata.
	OmitMetadata map[string]map[string]any `json:"omit_host_metadata,omitempty"`

	// PreviousPriorities, if positive, avoids the priorities of the hosts of the attempts before,
	// which count anew after each so many attempts. Zero avoids none; negative is an error. Mirrors
	// update_frequency of the retry priority previous_priorities.
	PreviousPriorities int `json:"previous_priorities,omitempty"`

	// MaxAttempts is how many times a host that is to be avoided is picked again; then the last one
	// picked is used. Zero means 1; negative is an error. Mirrors
	// host_selection_retry_max_attempts.
	MaxAttempts int `json:"host_selection_retry_max_attempts,omitempty"`
}

// check returns what is wrong with h.
func (h *Hosts) check() error {
	var bad []error
	if h.PreviousPriorities < 0 {
		bad = append(bad, fmt.Errorf("retry: Config.Hosts.PreviousPriorities: %d is negative", h.PreviousPriorities))
	}
	if h.MaxAttempts < 0 {
		bad = append(bad, fmt.Errorf("retry: Config.Hosts.MaxAttempts: %d is negative", h.MaxAttempts))
	}
	return errors.Join(bad...)
}

// apply has the cluster inside avoid the hosts. A nil h leaves the cluster's default.
func (h *Hosts) apply(b *policy.Builder) error {
	if h == nil {
		return nil
	}
	picker, ok := b.Carrier().(policy.Selector)
	if !ok {
		return errors.New("retry: Config.Hosts: no effect: there is no cluster inside that picks hosts; put a cluster.Config there, or leave it nil")
	}
	picker.Select(policy.HostSelection{
		AvoidPrevious: h.PreviousHosts, OmitMetadata: h.OmitMetadata,
		PreviousPriorities: h.PreviousPriorities, MaxAttempts: max(h.MaxAttempts, 1),
	})
	return h.check()
}
