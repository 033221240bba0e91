package pillion

import (
	"net"
	"net/http"
	"time"
)

// Begin records the status of the response, and whether it is in time.
func (x *serverCall) Begin(status int) {
	x.code, x.late = status, !x.first.HeadersSent()
	x.fault = x.client.fault()
}

// status returns the status of the response, by the rules of net/http.
func (x *serverCall) status() int {
	if !x.w.Begun() {
		return http.StatusOK
	}
	return x.code
}

// Enter records that the handler may wait for the client to read.
func (x *serverCall) Enter() { x.client.enterWrite() }

// Leave records the end of that wait.
func (x *serverCall) Leave(_ int64, err error) {
	x.broken = x.broken || err != nil
	x.client.leaveWrite()
}

// Hijacked hands the connection to the handler: no limit applies to it, and the call is reported as
// a 101.
func (x *serverCall) Hijacked(conn net.Conn) {
	if !x.w.Begun() {
		x.Begin(http.StatusSwitchingProtocols)
	}
	x.first.LiftLimits()
	x.client.hijack(conn)
}

// SetReadDeadline sets a read deadline for the handler.
func (x *serverCall) SetReadDeadline(w http.ResponseWriter, deadline time.Time) error {
	return x.client.setReadDeadline(w, deadline)
}

// SetWriteDeadline sets a write deadline for the handler.
func (x *serverCall) SetWriteDeadline(w http.ResponseWriter, deadline time.Time) error {
	return x.client.setWriteDeadline(w, deadline)
}
