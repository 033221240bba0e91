package tracing

import "unicode"

// nameRune reports whether X-Ray allows r in a name.
func nameRune(r rune) bool {
	switch r {
	case ' ', '\t', '\n', '\r', '_', '.', ':', '/', '%', '&', '#', '=', '+', '-', '@':
		return true
	}
	return unicode.IsLetter(r) || unicode.IsNumber(r)
}
