// Package soak has no code. Its tests let many callers, servers and policies misbehave at
// the same time, and then check that nothing is left of it: no goroutine, no connection, no
// slot, no open response body, and no difference between what happened and what was counted.
//
//	make soak SECONDS=180
//	make soak SECONDS=10 SEED=42
//
// There is a soak for HTTP clients, one for HTTP servers and one for gRPC. Each runs in
// rounds. A round has a seed, from which all its choices follow: the policies, what each
// call does, and what the server does with each attempt. The timing does not follow from it.
// A failed round names its seed, and prints what happened to the calls that went wrong; SEED
// begins with that round.
package soak
