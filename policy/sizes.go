package policy

// Sizes holds the sizes of one attempt, as in HTTP/2: the size of a header field is the number of bytes
// of its name and its value, and pseudo-header fields are included.
type Sizes struct {
	RequestHeaders     uint64 // number of header fields
	RequestHeaderBytes uint64 // size of the header fields
	RequestBodyBytes   uint64 // bytes of the body that were sent so far

	Responded           bool   // response headers arrived; otherwise the fields below are 0
	ResponseHeaders     uint64 // number of header fields
	ResponseHeaderBytes uint64 // size of the header fields
	ResponseBodyBytes   uint64 // bytes of the body that the caller read so far
}

// Measurer is an [Exchange] that measures the sizes of its attempts if a policy needs them: see
// [Attempt.Measured].
type Measurer interface {
	// Sizes returns the sizes of a. ok is false if the attempt was not sent.
	Sizes(a *Attempt) (s Sizes, ok bool)
}

// Sizes returns the sizes of the attempt. It may be called at [EventAttemptEnd] and in hooks. ok is
// false if the attempt was not sent, if no policy needs sizes (field Sizes of [Needs]), or if the
// adapter of the protocol does not measure them. Only the adapter of HTTP clients does.
func (c *Call) Sizes() (s Sizes, ok bool) {
	x, ok := c.frame.exchange.(Measurer)
	if !ok || !c.frame.chain.measures {
		return Sizes{}, false
	}
	return x.Sizes((*Attempt)(c))
}

// Measured reports whether a policy needs the sizes of the attempt.
func (a *Attempt) Measured() bool { return a.frame.chain.measures }
