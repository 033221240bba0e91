package health

import (
	"bytes"
	"fmt"
)

// payload lists the segments that a response must contain, in this order, with any bytes before,
// between and after them. It mirrors Envoy's PayloadMatcher.
type payload [][]byte

// in reports whether data contains the payload.
func (p payload) in(data []byte) bool {
	m := matcher{left: p}
	return m.feed(data)
}

// size returns the number of bytes in all segments.
func (p payload) size() int {
	n := 0
	for _, segment := range p {
		n += len(segment)
	}
	return n
}

// check returns an error if a segment is empty. kind is the type of the configuration.
func (p payload) check(kind string) error {
	for i, segment := range p {
		if len(segment) == 0 {
			return invalid(kind, fmt.Sprintf("Receive[%d]", i), "the segment is empty; remove it")
		}
	}
	return nil
}

// matcher searches for a payload in data that arrives in pieces. It keeps less than one segment.
type matcher struct {
	left payload // the segments that were not found yet
	tail []byte  // the end of the data so far, which may be the begin of the first of them
}

// feed adds data and reports whether the whole payload was found.
func (m *matcher) feed(data []byte) bool {
	data = append(m.tail, data...)
	for len(m.left) > 0 {
		segment := m.left[0]
		at := bytes.Index(data, segment)
		if at < 0 {
			m.tail = bytes.Clone(data[max(0, len(data)-len(segment)+1):])
			return false
		}
		data = data[at+len(segment):]
		m.left = m.left[1:]
	}
	m.tail = nil
	return true
}
