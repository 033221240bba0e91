// Package pilliongrpc applies the policies of an upstream to gRPC calls and streams, of clients
// and servers.
//
// The policies are those of HTTP, with their state: an upstream that serves both protocols has one
// breaker, one set of limits, and one set of statistics. The package has two pairs of
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
// # What is retried
//
// retry's gRPC conditions, cancelled, deadline-exceeded, internal, resource-exhausted and
// unavailable, apply to a status in a trailers-only response, that is, before the caller has seen
// response headers. Failures of the network have the conditions of HTTP, as in Envoy: reset,
// connect-failure and refused-stream. A plain HTTP response has 5xx and gateway-error. Without On,
// a call is retried if its method's definition says that it is idempotent (idempotency_level), or
// if its metadata has idempotency-key. A server can ask for a wait, or for no retry, in
// grpc-retry-pushback-ms.
//
// A stream whose client sends messages is retried while the messages fit in the ReplayBuffer of
// [pillion.Options], which is 0 by default; see [StreamClientInterceptor].
//
// # What the caller receives
//
// A status that the server sent is returned unchanged, with its details. Every other failure is an
// [*Error], with a status and, for errors.Is and errors.As, its cause:
//
//	refused by a breaker or a limit      UNAVAILABLE          UO
//	no connection, or a broken one       UNAVAILABLE          UF, UC, UR, UPE, DF
//	a timeout fired                      DEADLINE_EXCEEDED    UT
//	the caller's own deadline            DEADLINE_EXCEEDED    UT
//	the caller canceled                  CANCELLED            DC
//
// These are the codes of Envoy's local replies, except for timeouts, for which Envoy has
// UNAVAILABLE. With LocalReplies of [pillion.Options] timeouts have Envoy's code and text here, too.
//
// # Deadlines
//
// grpc-timeout carries the remaining time of the total timeout, so that it decreases from hop to
// hop. It does not carry the per-try timeout, which ends with the response headers: the server
// would apply it to the whole response. x-envoy-expected-rq-timeout-ms is as over HTTP. Servers
// honor both.
//
// # Servers
//
// [ServerOptions] refuses calls before handlers run, and ends calls that take too long. What a
// client causes does not count as a failure of the service, and no client receives the text of
// another client's error; see [UnaryServerInterceptor] and [StreamServerInterceptor].
//
// docs/grpc.md lists each difference from Envoy, with its reason and its test.
package pilliongrpc
