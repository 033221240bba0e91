package pool

// An Observer counts the events of a pool. Observe is called for each event, possibly with the
// pool locked: it must be fast and safe for concurrent use, and must not call the pool.
//
// The meaning of n depends on the event; it is 1 for counters, +1 or -1 for gauges, bytes
// for [CxRxBytes] and [CxTxBytes], nanoseconds for [CxConnectTime] and [CxLength], and a
// number of requests for [RqPerCx].
type Observer interface {
	Observe(e Event, n int64)
}

// An Event is one of Envoy's upstream statistics.
type Event uint8

// Events of connections. They are counters, except where noted.
const (
	// CxTotal counts connections that the pool started to make.
	CxTotal Event = iota
	// CxActive is a gauge: connections that are being made or open.
	CxActive
	// CxHTTP1Total and CxHTTP2Total count connections by protocol: when the pool starts to
	// make them, or after the TLS handshake if that selects the protocol.
	CxHTTP1Total
	CxHTTP2Total
	// CxConnectFail counts connections that ended before they were established.
	CxConnectFail
	// CxConnectTimeout counts connections that the connect timeout ended. CxConnectFail
	// includes them.
	CxConnectTimeout
	// CxConnectTime is a histogram: the time to establish a connection, in nanoseconds.
	CxConnectTime
	// CxLength is a histogram: the lifetime of a connection, in nanoseconds.
	CxLength
	// RqPerCx is a histogram: the number of requests of a connection.
	RqPerCx
	// CxDestroy counts connections that ended, CxDestroyLocal connections that the pool
	// closed, and CxDestroyRemote connections that the server closed.
	CxDestroy
	CxDestroyLocal
	CxDestroyRemote
	// CxDestroyWithActiveRq and its two parts count connections that ended before the
	// exchange on them was complete.
	CxDestroyWithActiveRq
	CxDestroyLocalWithActiveRq
	CxDestroyRemoteWithActiveRq
	// CxCloseNotify counts connections whose close the server announced, by a header or
	// GOAWAY. A response that ends with its connection counts even without such a header; a
	// GOAWAY counts if it ends the connection.
	CxCloseNotify
	// CxProtocolError counts HTTP/1 connections whose server sent bytes without a request. The
	// reader of the response detects other violations.
	CxProtocolError
	// CxIdleTimeout counts connections that the idle timeout closed.
	CxIdleTimeout
	// CxMaxRequests counts connections that reached their maximum number of requests.
	CxMaxRequests
	// CxMaxDurationReached counts connections that reached their maximum age.
	CxMaxDurationReached
	// CxOverflow counts connections that max_connections refused.
	CxOverflow
	// CxRxBytes and CxTxBytes count bytes read and written, below TLS.
	CxRxBytes
	CxTxBytes
	// RqTotal counts requests attached to a connection.
	RqTotal
	// RqActive is a gauge: requests attached to a connection.
	RqActive
	// RqActiveOverflow counts requests that max_requests refused.
	RqActiveOverflow
	// RqPendingTotal counts requests that had to wait for a connection.
	RqPendingTotal
	// RqPendingActive is a gauge: requests that wait for a connection.
	RqPendingActive
	// RqPendingOverflow counts requests that max_pending_requests refused.
	RqPendingOverflow
	// RqPendingFailureEject counts waiting requests that a failed connect ended, and
	// HTTP/2 requests that lost their connection.
	RqPendingFailureEject
	// RqCancelled counts requests that were canceled while they waited.
	RqCancelled
	// RqRxReset counts HTTP/2 streams that the server reset. RqTxReset counts streams that the
	// client reset, and streams that the server reset with PROTOCOL_ERROR. REFUSED_STREAM is not
	// counted.
	RqRxReset
	RqTxReset

	numEvents
)

// String returns Envoy's name of the statistic.
func (e Event) String() string {
	if e >= numEvents {
		return "unknown"
	}
	return eventNames[e]
}

// NumEvents is the number of events: the length of an array indexed by [Event].
const NumEvents = int(numEvents)

//nolint:gochecknoglobals // a table of constants
var eventNames = [NumEvents]string{
	CxTotal:                     "upstream_cx_total",
	CxActive:                    "upstream_cx_active",
	CxHTTP1Total:                "upstream_cx_http1_total",
	CxHTTP2Total:                "upstream_cx_http2_total",
	CxConnectFail:               "upstream_cx_connect_fail",
	CxConnectTimeout:            "upstream_cx_connect_timeout",
	CxConnectTime:               "upstream_cx_connect_ms",
	CxLength:                    "upstream_cx_length_ms",
	RqPerCx:                     "upstream_rq_per_cx",
	CxDestroy:                   "upstream_cx_destroy",
	CxDestroyLocal:              "upstream_cx_destroy_local",
	CxDestroyRemote:             "upstream_cx_destroy_remote",
	CxDestroyWithActiveRq:       "upstream_cx_destroy_with_active_rq",
	CxDestroyLocalWithActiveRq:  "upstream_cx_destroy_local_with_active_rq",
	CxDestroyRemoteWithActiveRq: "upstream_cx_destroy_remote_with_active_rq",
	CxCloseNotify:               "upstream_cx_close_notify",
	CxProtocolError:             "upstream_cx_protocol_error",
	CxIdleTimeout:               "upstream_cx_idle_timeout",
	CxMaxRequests:               "upstream_cx_max_requests",
	CxMaxDurationReached:        "upstream_cx_max_duration_reached",
	CxOverflow:                  "upstream_cx_overflow",
	CxRxBytes:                   "upstream_cx_rx_bytes_total",
	CxTxBytes:                   "upstream_cx_tx_bytes_total",
	RqTotal:                     "upstream_rq_total",
	RqActive:                    "upstream_rq_active",
	RqActiveOverflow:            "upstream_rq_active_overflow",
	RqPendingTotal:              "upstream_rq_pending_total",
	RqPendingActive:             "upstream_rq_pending_active",
	RqPendingOverflow:           "upstream_rq_pending_overflow",
	RqPendingFailureEject:       "upstream_rq_pending_failure_eject",
	RqCancelled:                 "upstream_rq_cancelled",
	RqRxReset:                   "upstream_rq_rx_reset",
	RqTxReset:                   "upstream_rq_tx_reset",
}

// noObserver is the Observer of a pool without one.
type noObserver struct{}

func (noObserver) Observe(Event, int64) {}
