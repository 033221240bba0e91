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
// # What is retried
//
// retry's gRPC words, canceled, deadline-exceeded, internal, resource-exhausted and
// unavailable, hold for a status that the server sent in trailers alone: before any header,
// so that the caller has seen nothing. What the network did has the words of HTTP: reset,
// connect-failure and refused-stream, as in Envoy; and a response in plain HTTP has 5xx and
// gateway-error. Without words, a method is retried that its definition calls idempotent
// (idempotency_level), or whose caller sends idempotency-key. A server that asks for a wait in
// grpc-retry-pushback-ms gets it, and one that asks for no retry gets none.
//
// A stream whose client sends messages is retried while those fit in [pillion.Options]
// ReplayBuffer, which is nothing by default; see [Stream].
//
// # What the caller gets
//
// A status that the server sent comes through untouched, with its details. All else is an
// [*Error], with a status and, for errors.Is and errors.As, its cause:
//
//	refused by a breaker or a limit      UNAVAILABLE          UO
//	no connection, or it broke           UNAVAILABLE          UF, UC, UR, UPE, DF
//	a limit on time fired                DEADLINE_EXCEEDED    UT
//	the caller's own deadline            DEADLINE_EXCEEDED    UT
//	the caller was canceled              CANCELLED            DC
//
// These are the codes of Envoy's local replies, but for limits on time, for which Envoy has
// UNAVAILABLE; with [pillion.Options] LocalReplies it is so here, in Envoy's words.
//
// # Deadlines
//
// grpc-timeout carries what is left of the total limit, which shrinks from hop to hop. It does
// not carry the limit of one attempt, which ends with the response headers: the server would end
// a response that has begun. x-envoy-expected-rq-timeout-ms is as over HTTP, and servers honor
// both.
//
// # Servers
//
// [ServerOptions] sheds load before handlers are called and ends what takes too long. What a
// client causes is no failure of the service, and no client gets the text of another one's error;
// see [UnaryServer] and [StreamServer].
//
// docs/grpc.md lists each difference from Envoy, with its reason and its test.
package pilliongrpc
