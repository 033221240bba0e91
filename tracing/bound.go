package tracing

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Callers choose many strings of a document, such as a request's URL. They are cut when
// they are recorded, not when they are written: a document may wait in the queue. What is
// cut is copied, so that it does not hold the rest in memory.

// How many characters are kept of strings.
const (
	maxShort = 250  // X-Ray's limit for strings without a limit of their own
	maxURL   = 2000 // of a URL and of a user agent
)

// cut returns the first n characters of s.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for i := range s {
		if n == 0 {
			return strings.Clone(s[:i])
		}
		n--
	}
	return s
}

// cutBytes returns the first n bytes of s, less a character that would be cut in two.
func cutBytes(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.Clone(s[:n])
}

// bound cuts the strings of a request.
func bound(r xray.RequestData) xray.RequestData {
	r.Method = boundMethod(r.Method)
	r.URL = cut(r.URL, maxURL)
	r.UserAgent = cut(r.UserAgent, maxURL)
	r.ClientIP = cut(r.ClientIP, maxShort)
	return r
}

// boundMethod returns a method that does not hold the request line in memory, which
// net/http cuts it from.
func boundMethod(method string) string {
	for _, known := range [...]string{
		http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodPatch, http.MethodOptions,
	} {
		if method == known {
			return known
		}
	}
	return strings.Clone(cut(method, maxShort))
}

// boundSegment cuts what the SDK recorded. The caller holds x's lock.
func boundSegment(x *xray.Segment) {
	if x.HTTP != nil && x.HTTP.Request != nil {
		*x.HTTP.Request = bound(*x.HTTP.Request)
	}
	for key, value := range x.Annotations {
		if s, ok := value.(string); ok {
			x.Annotations[key] = cut(s, maxAnnotationValue)
		}
	}
	x.User = cut(x.User, maxShort)
	if x.Cause != nil {
		for i := range x.Cause.Exceptions {
			x.Cause.Exceptions[i].Message = cutBytes(x.Cause.Exceptions[i].Message, maxPacket)
		}
	}
	if x.SQL != nil {
		x.SQL.URL, x.SQL.SanitizedQuery = cutBytes(x.SQL.URL, maxPacket), cutBytes(x.SQL.SanitizedQuery, maxPacket)
	}
}

// nameRune reports whether X-Ray allows r in a name.
func nameRune(r rune) bool {
	switch r {
	case ' ', '\t', '\n', '\r', '_', '.', ':', '/', '%', '&', '#', '=', '+', '-', '@':
		return true
	}
	return unicode.IsLetter(r) || unicode.IsNumber(r)
}
