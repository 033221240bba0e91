// Package soak contains only tests. Many callers, servers and policies misbehave at the same time.
// Then the tests check that nothing is left over: no goroutine, no connection, no slot, no open
// response body, and no difference between what happened and what was counted.
//
//	make soak SECONDS=180
//	make soak SECONDS=10 SEED=42
//
// There is a soak for HTTP clients, one for HTTP servers and one for gRPC. Each runs in rounds. The
// seed of a round determines all its choices: the policies, what each call does, and what the
// server does with each attempt. It does not determine the timing. A failed round reports its seed,
// and prints what happened to the calls that went wrong; SEED starts with that round.
package soak
