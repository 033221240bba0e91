// Package parity plays recorded scenarios of a real Envoy against this library,
// and tells where the two differ.
//
// A [Case] is a file that says what Envoy was configured with, what the upstream
// did and what the calls were, together with all that was seen: answers, access log,
// attempts, statistics. [Case.Play] sets up the same upstream again, makes the same calls through a
// [Side], and gives what was seen this time; [Case.Compare] lists the differences.
//
// There are two sides: [NewLibrary] reads the configuration and makes policies of
// it, and [StartEnvoy] gives it to a real Envoy, which shows that the player, and not only
// the library, does what it should.
//
// What the library does otherwise on purpose is a [Rule]: a predicate on the scenario,
// and a change of what is expected. A configuration that asks for a part which the library
// does not have is a [NotYetError].
package parity
