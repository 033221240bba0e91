// Package envoy is Envoy's vocabulary: response flags, response code details, the local replies
// that go with them, the names of headers and how their values are written and read.
//
// It knows no call and no policy, and imports none of the packages that do.
package envoy
