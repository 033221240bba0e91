package tracing

import (
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// Callers choose many strings of a document, such as the URL of a request. These are cut
// when they are recorded, not when the document is written, because a document may wait in
// the queue. Cut strings are copied, so that they do not keep the rest in memory.

// The maximum lengths of strings, in characters.
const (
	maxShort = 250  // X-Ray's limit for strings without a more specific limit
	maxURL   = 2000 // for URLs and user agents
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

// cutBytes returns at most the first n bytes of s, without a partial character at the end.
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

// boundMethod returns a method that does not keep the request line in memory: net/http
// returns a substring of it.
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

// boundSegment cuts the strings that the SDK recorded. The caller holds x's lock.
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
