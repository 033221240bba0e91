// Package pilliongrpc puts gRPC calls and streams, of clients and servers, under the
// policies of an upstream.
//
// The policies are those of HTTP, with their state: an upstream that speaks both has
// one breaker, one set of limits, and one set of statistics. The package is two pairs of
// interceptors, and the options that install them:
//
//	recipes, err := pillion.New("recipes",
//		metrics.Config{}, metrics.GRPC{},
//		timeout.Config{Total: 2 * time.Second, PerTry: 300 * time.Millisecond},
//		retry.Config{On: "unavailable,reset,connect-failure", NumRetries: 2},
//		limits.Config{MaxRequests: 200},
//		breaker.Config{},
//	)
//	if err != nil {
//		log.Fatal(err)
//	}
//	conn, err := grpc.NewClient(addr, append(pilliongrpc.DialOptions(recipes), creds)...)
//
//	options, err := pilliongrpc.ServerOptions(front)
//	server := grpc.NewServer(options...)
//
// # What is sent again
//
// retry's gRPC words, cancelled, deadline-exceeded, internal, resource-exhausted and
// unavailable, hold for a status that the server gave in trailers alone: before any header,
// so that the caller has seen nothing. What the network did is told by the words of HTTP,
// reset, connect-failure and refused-stream, as in Envoy; so is an answer in plain HTTP, by
// 5xx and gateway-error. Without words, a method is retried that its definition calls
// idempotent (idempotency_level), or whose caller sends idempotency-key. A server that asks
// for a wait in grpc-retry-pushback-ms gets it, and one that asks for none is not asked again.
//
// A stream whose client sends messages is sent again while those fit in
// [pillion.HTTP] ReplayBuffer, which is nothing by default; see [Stream].
//
// # What the caller gets
//
// A status that the server gave comes through untouched. All else is an [*Error],
// with a status and, for errors.Is and errors.As, its cause:
//
//	refused by a breaker or a limit      UNAVAILABLE          UO
//	no connection, or it broke           UNAVAILABLE          UF, UC, UR, UPE, DF
//	a limit struck                       DEADLINE_EXCEEDED    UT
//	the caller's own deadline            DEADLINE_EXCEEDED    UT
//	the caller left                      CANCELLED            DC
//
// These are the codes of Envoy's local replies, but for limits on time, which Envoy
// tells as UNAVAILABLE; with [pillion.HTTP] LocalReplies it is so here, in Envoy's words.
//
// # Deadlines
//
// grpc-timeout carries the shorter of the total limit and that of the try for a unary
// call, and the total one for a stream; both shrink from hop to hop.
// x-envoy-expected-rq-timeout-ms is as over HTTP, and servers heed both.
//
// docs/grpc.md lists each difference from Envoy, with its reason and its test.
package pilliongrpc
