package parity

import (
	"flag"
	"slices"
	"testing"
)

var all = flag.Bool("all", false, "play all scenarios through Envoy, not only a few")

// few are scenarios that together need most features of the player.
func few() []string {
	return []string{
		"basic-post-body", "backoff-ratelimited-retry-after", "cb-max-retries-overflow", "cb-h2-max-requests", "connect-timeout-no-retry",
		"counters-keepalive-close", "h2-retry-reset-includes-refused", "protocol-error", "reset-after-headers", "retry-connect-failure-refused",
		"retry-multiple-conditions", "timeout-after-headers", "timeout-client-disconnects",
	}
}

// TestEnvoy plays scenarios through a real Envoy, and compares with the recordings. It
// tests the player.
func TestEnvoy(t *testing.T) {
	t.Parallel()
	binary := FindEnvoy()
	if binary == "" {
		t.Skip("no Envoy found: set PILLION_ENVOY or put envoy on PATH")
	}
	for _, c := range load(t) {
		if !*all && !slices.Contains(few(), c.Scenario.Name) {
			continue
		}
		t.Run(c.Scenario.Name, func(t *testing.T) {
			t.Parallel()
			plays := 1
			if len(c.Scenario.Upstream.Hosts) > 1 { // the first host is random
				plays = 30
			}
			var differences []Difference
			for i := 0; i == 0 || (i < plays && len(differences) > 0); i++ {
				played, err := c.punctual(t.Context(), StartEnvoy(binary))
				if err != nil {
					t.Fatal(err)
				}
				differences, _ = c.Compare(played, nil)
			}
			for _, d := range differences {
				t.Error(d)
			}
		})
	}
}
