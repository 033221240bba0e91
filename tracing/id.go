package tracing

import (
	"math/rand/v2"
	"time"
)

const (
	traceIDLen   = len("1-67891233-abcdef012345678912345678")
	segmentIDLen = 16
	hexDigits    = "0123456789abcdef"
)

// newSegmentID returns a new segment id: 16 random hexadecimal digits.
func newSegmentID() string {
	var b [segmentIDLen]byte
	putHex(b[:], random())
	return string(b[:])
}

// newIDs returns new ids for a trace and its segment, in one allocation.
func newIDs(now time.Time) (trace, segment string) {
	var b [traceIDLen + segmentIDLen]byte
	putTraceID(b[:traceIDLen], now)
	putHex(b[traceIDLen:], random())
	s := string(b[:])
	return s[:traceIDLen], s[traceIDLen:]
}

// putTraceID writes a new trace id, as AWS documents it: 1, the time in seconds in 8
// hexadecimal digits, and 24 random digits.
func putTraceID(b []byte, now time.Time) {
	b[0], b[1], b[10] = '1', '-', '-'
	putHex(b[2:10], uint64(now.Unix())) //nolint:gosec // the last digits are used
	putHex(b[11:19], random())
	putHex(b[19:], random())
}

// random returns a number of the runtime's ChaCha8 generator, which the system seeds. Known
// ids do not reveal later ones.
func random() uint64 { return rand.Uint64() } //nolint:gosec // see above

// putHex fills b with the last hexadecimal digits of n.
func putHex(b []byte, n uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = hexDigits[n&15]
		n >>= 4
	}
}

// isTraceID reports whether X-Ray accepts s as the id of a trace.
func isTraceID(s string) bool {
	return len(s) == traceIDLen && s[:2] == "1-" && s[10] == '-' && isHex(s[2:10]) && isHex(s[11:])
}

// isSegmentID reports whether X-Ray accepts s as the id of a segment.
func isSegmentID(s string) bool { return len(s) == segmentIDLen && isHex(s) }

// isHex reports whether s consists of hexadecimal digits, of either case.
func isHex(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}
