// Package pool keeps the connections to one endpoint: HTTP/1.1 or HTTP/2, in one
// priority. It behaves as Envoy's connection pool does, in its limits, its order of
// refusals and its statistics, on [net/http.Transport.NewClientConn].
//
// A [Pool] attaches each request to a connection. A [Stream] is one request's use of
// a connection:
//
//	template := pool.NewTemplate(nil, pool.HTTP1)
//	p := pool.New(pool.Config{Template: template, Address: "10.0.0.1:80"})
//	s, err := p.Stream(ctx) // waits for a connection
//	if err != nil {
//		return err // *RefusedError, *ConnectError, ErrClosed, or what ended ctx
//	}
//	resp, err := s.RoundTrip(req) // sends the request once, never again
//	// … read the body to its end and close it …
//	s.Release(err) // once
//
// # Order
//
// A request uses the connection that became ready last. Without a ready connection it
// waits, first in, first out, if max_pending_requests has room. While more requests wait
// than the connections being made can serve, the pool makes another, if max_connections
// has room; a pool without a connection makes one beyond the limit, so that no request
// waits for a connection that cannot come. max_requests is checked when a request is
// attached, after the wait. A failed connect fails every request that waits.
//
// The limits belong to [Slots], which pools share. Dials run in their own goroutines,
// under the connect timeout alone: a request that stops waiting does not end a dial that
// another request needs.
//
// # What net/http does not do here
//
// [net/http.Transport] resends some requests by itself, queues without bound and closes
// idle connections at times of its own. Nothing of that happens here: a request is sent at
// most once, on the connection it was attached to. Fields of the transport that concern
// its own pool (MaxConnsPerHost, MaxIdleConns, IdleConnTimeout) have no effect.
package pool
