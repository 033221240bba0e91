package policy

// Sizes holds the sizes of one attempt, in the terms of HTTP/2: a header field has the bytes of its
// name and its value, and the pseudo-header fields count too.
type Sizes struct {
	RequestHeaders     uint64 // how many header fields were sent
	RequestHeaderBytes uint64
	RequestBodyBytes   uint64 // sent so far

	Responded           bool   // response headers arrived; else the rest is 0
	ResponseHeaders     uint64 // how many header fields arrived
	ResponseHeaderBytes uint64
	ResponseBodyBytes   uint64 // read so far by the caller
}

// Measurer is an [Exchange] that knows the sizes of its attempts if a policy needs them: see
// [Attempt.Measured].
type Measurer interface {
	// Sizes is not ok if the attempt was not sent.
	Sizes(a *Attempt) (s Sizes, ok bool)
}

// Sizes returns the sizes of the attempt. It may be called at [EventAttemptEnd] and in hooks. It is
// not ok if the attempt was not sent, if no policy asks for sizes ([Needs] Sizes), or if the
// adapter of the protocol cannot measure them. That of HTTP clients can.
func (c *Call) Sizes() (s Sizes, ok bool) {
	x, ok := c.frame.exchange.(Measurer)
	if !ok || !c.frame.chain.measures {
		return Sizes{}, false
	}
	return x.Sizes((*Attempt)(c))
}

// Measured reports whether a policy needs the sizes of the attempt.
func (a *Attempt) Measured() bool { return a.frame.chain.measures }
