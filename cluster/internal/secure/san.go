package secure

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// SANType is the type of a subject alternative name.
type SANType int

const (
	// AnySAN is a name of type DNS, URI, IP or email address.
	AnySAN SANType = iota
	// DNS is a host name, which may have a wildcard.
	DNS
	// URI is a URI, such as a SPIFFE ID.
	URI
	// IP is an IP address, such as 10.0.0.1 or 2001:db8::1.
	IP
	// Email is an email address.
	Email
)

// tags of the types in a certificate, RFC 5280 section 4.2.1.6.
func (t SANType) tag() int { return [...]int{-1, 2, 6, 7, 1}[t] }

// Match is the kind of comparison of a name with a value.
type Match int

const (
	// Exact matches a name that is equal to the value. For names of type DNS, case is ignored,
	// and the wildcard of a name such as *.example.com matches any first label of the value.
	Exact Match = iota
	// Prefix matches a name that begins with the value.
	Prefix
	// Suffix matches a name that ends with the value.
	Suffix
	// Contains matches a name that contains the value.
	Contains
	// Regex matches a name if the value, a regular expression of package regexp, matches the
	// whole name.
	Regex
)

// Matcher matches names of certificates. It mirrors Envoy's SubjectAltNameMatcher with its
// StringMatcher.
type Matcher struct {
	// Type is the type of name. AnySAN mirrors Envoy's older match_subject_alt_names.
	Type SANType
	// Match is the kind of comparison with Value.
	Match Match
	// Value is the value. It must not be empty, except with Exact.
	Value string
	// IgnoreCase ignores the case of ASCII letters. IgnoreCase with Regex is an error.
	IgnoreCase bool
}

// SPIFFE returns the matcher of a SPIFFE ID, such as "spiffe://mesh/ns/recipes".
func SPIFFE(id string) Matcher { return Matcher{Type: URI, Value: id} }

// sanMatcher is a valid Matcher.
type sanMatcher struct {
	Matcher
	regex *regexp.Regexp
}

func matchers(all []Matcher) ([]sanMatcher, error) {
	var checked []sanMatcher
	var errs []error
	for i, m := range all {
		c, err := m.check(fmt.Sprintf("SANs[%d]", i))
		checked, errs = append(checked, c), append(errs, err)
	}
	return checked, errors.Join(errs...)
}

func (m Matcher) check(field string) (sanMatcher, error) {
	c := sanMatcher{Matcher: m}
	switch {
	case m.Type < AnySAN || m.Type > Email:
		return c, bad(field+".Type", int(m.Type), "write one of the constants")
	case m.Match < Exact || m.Match > Regex:
		return c, bad(field+".Match", int(m.Match), "write one of the constants")
	case m.Match != Exact && m.Value == "":
		return c, bad(field+".Value", `""`, "write a text: the empty one matches every name")
	case m.Match != Regex:
		if m.IgnoreCase {
			c.Value = lower(m.Value)
		}
		return c, nil
	case m.IgnoreCase:
		return c, bad(field+".IgnoreCase", true, "write (?i) in the regular expression")
	}
	regex, err := regexp.Compile(`\A(?:` + m.Value + `)\z`)
	if err != nil {
		return c, fmt.Errorf("secure: Config.%s.Value: %w", field, err)
	}
	c.regex = regex
	return c, nil
}

// name is a subject alternative name.
type name struct {
	tag  int // its type
	text string
}

// matches reports whether m matches n.
func (m *sanMatcher) matches(n name) bool {
	if !m.wants(n.tag) {
		return false
	}
	if m.Match == Exact && n.tag == DNS.tag() {
		return matchDNS(m.Value, n.text)
	}
	if m.Match == Regex {
		return m.regex.MatchString(n.text)
	}
	text := n.text
	if m.IgnoreCase {
		text = lower(text)
	}
	return compare(m.Match, text, m.Value)
}

func (m *sanMatcher) wants(tag int) bool {
	if m.Type != AnySAN {
		return tag == m.Type.tag()
	}
	return tag == DNS.tag() || tag == URI.tag() || tag == IP.tag() || tag == Email.tag()
}

func compare(how Match, text, value string) bool {
	switch how {
	case Prefix:
		return strings.HasPrefix(text, value)
	case Suffix:
		return strings.HasSuffix(text, value)
	case Contains:
		return strings.Contains(text, value)
	default:
		return text == value
	}
}

// matchDNS reports whether the name pattern of a certificate matches host. As in Envoy, the first
// label of pattern can be or contain a wildcard.
func matchDNS(host, pattern string) bool {
	host, pattern = lower(host), lower(pattern)
	if host == pattern {
		return true
	}
	label, domain, ok := strings.Cut(pattern, ".")
	hostLabel, hostDomain, hostOK := strings.Cut(host, ".")
	if !ok || !hostOK || domain != hostDomain || strings.Contains(domain, "*") || strings.HasPrefix(label, "xn--") {
		return false
	}
	before, after, wild := strings.Cut(label, "*")
	return wild && !strings.Contains(after, "*") && (label == "*" || len(label) <= len(hostLabel)+1) &&
		strings.HasPrefix(hostLabel, before) && strings.HasSuffix(hostLabel, after)
}

// lower returns s with ASCII letters in lower case. s need not be valid UTF-8.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	return string(b)
}

// names returns the unchanged subject alternative names of cert. Package x509 does not keep the
// text of URIs.
func names(cert *x509.Certificate) []name {
	var all []name
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var values []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &values); err != nil || len(rest) > 0 {
			continue
		}
		for _, v := range values {
			if v.Class == asn1.ClassContextSpecific {
				all = append(all, name{v.Tag, text(v)})
			}
		}
	}
	return all
}

func text(v asn1.RawValue) string {
	if v.Tag != IP.tag() {
		return string(v.Bytes)
	}
	addr, ok := netip.AddrFromSlice(v.Bytes)
	if !ok {
		return ""
	}
	return addr.String()
}
