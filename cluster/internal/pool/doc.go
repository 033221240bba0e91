// Package pool keeps the connections to one endpoint: HTTP/1.1 or HTTP/2, in one
// priority. Its limits, its order of refusals and its statistics are those of Envoy's
// connection pool. It uses [net/http.Transport.NewClientConn].
//
// A [Pool] attaches each request to a connection. A [Stream] is one request's use of
// a connection:
//
//	template := pool.NewTemplate(nil, pool.HTTP1)
//	p := pool.New(pool.Config{Template: template, Address: "10.0.0.1:80"})
//	s, err := p.Stream(ctx) // waits for a connection
//	if err != nil {
//		return err // *RefusedError, *ConnectError, ErrClosed, or the cause of ctx
//	}
//	resp, err := s.RoundTrip(req) // sends the request once, never again
//	// … read the body to its end and close it …
//	s.Release(err) // once
//
// # Order
//
// A request uses the connection that became ready last. Without a ready connection it
// waits, first in, first out, if max_pending_requests allows it. While more requests wait
// than the new connections can serve, the pool makes another connection, if
// max_connections allows it. A pool without a connection makes one beyond the limit, so
// that no request waits forever. max_requests is checked when a request is attached, after
// the wait. A failed connect fails every waiting request.
//
// The limits belong to [Slots], which pools share. Dials run in their own goroutines, and
// only the connect timeout limits them: a canceled request does not end a dial that
// another request needs.
//
// # Differences from net/http's pool
//
// [net/http.Transport] resends some requests, queues without a limit and closes idle
// connections by its own rules. This package does not: it sends a request at most once, on
// the connection to which it was attached. Fields of the transport for its own pool
// (MaxConnsPerHost, MaxIdleConns, IdleConnTimeout) have no effect.
package pool
