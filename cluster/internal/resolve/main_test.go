package resolve

import (
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"
)

// TestMain has package net read the system's configuration first: a bubble that did would own
// the channel that guards it, and lookups outside would panic.
func TestMain(m *testing.M) {
	systemAttempts = countAttempts()
	goleak.VerifyTestMain(m)
}

// systemAttempts is how often the system's configuration lets Go's resolver ask.
var systemAttempts int

func countAttempts() int {
	s := newServer(func(q query) [][]byte { return q.code(dnsmessage.RCodeServerFailure) })
	r := net.Resolver{PreferGo: true, Dial: s.dial}
	_, err := r.LookupNetIP(context.Background(), "ip4", "attempts.test.")
	if err == nil {
		panic("a failed lookup has no error")
	}
	return len(s.seen())
}
