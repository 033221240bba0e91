// Package parity plays recorded scenarios of a real Envoy against this library, and lists
// the differences.
//
// A [Case] is a file with the configuration of Envoy, the behavior of the upstream and the
// calls, together with everything that was observed: responses, access log, attempts,
// statistics. [Case.Play] starts the same upstream again, makes the same calls through a
// [Side], and returns the new observations; [Case.Compare] lists the differences.
//
// There are two sides: [NewLibrary] converts the configuration to policies, and
// [StartEnvoy] passes it to a real Envoy, which verifies the player.
//
// An intentional difference of the library is a [Rule]: a predicate on the scenario, and a
// change of the expectation. A configuration that needs a part which the library does not
// have is a [NotYetError].
//
// [Draw] makes random scenarios, and a [Fuzzer] plays them on both sides: see parityfuzz.
package parity
