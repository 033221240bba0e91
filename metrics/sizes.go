package metrics

import "github.com/pillion-go/pillion/policy"

// sizes holds the histograms of the sizes of requests and responses.
type sizes struct {
	requestHeaders, requestHeaderBytes, requestBody    *Histogram
	responseHeaders, responseHeaderBytes, responseBody *Histogram
}

func newSizes(c *ClusterStats) *sizes {
	return &sizes{
		requestHeaders:      c.Histogram("upstream_rq_headers_count"),
		requestHeaderBytes:  c.Histogram("upstream_rq_headers_size"),
		requestBody:         c.Histogram("upstream_rq_body_size"),
		responseHeaders:     c.Histogram("upstream_rs_headers_count"),
		responseHeaderBytes: c.Histogram("upstream_rs_headers_size"),
		responseBody:        c.Histogram("upstream_rs_body_size"),
	}
}

// record records the sizes of an attempt that has ended.
func (s *sizes) record(c *policy.Call) {
	n, ok := c.Sizes()
	if !ok {
		return
	}
	s.requestHeaders.Record(n.RequestHeaders)
	s.requestHeaderBytes.Record(n.RequestHeaderBytes)
	s.requestBody.Record(n.RequestBodyBytes)
	if n.Responded {
		s.responseHeaders.Record(n.ResponseHeaders)
		s.responseHeaderBytes.Record(n.ResponseHeaderBytes)
		s.responseBody.Record(n.ResponseBodyBytes)
	}
}
