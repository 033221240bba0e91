package tracing

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The parts of Ruby, Rack 2.2.22 and URI on which the gem's output depends.

// rubySplit is String#split: empty strings at the end are dropped.
func rubySplit(s, sep string) []string {
	parts := strings.Split(s, sep)
	for len(parts) > 0 && parts[len(parts)-1] == "" {
		parts = parts[:len(parts)-1]
	}
	return parts
}

// rubyInteger is Integer(s): prefixes, underscores and surrounding spaces are allowed.
func rubyInteger(s string) (int64, error) {
	return strconv.ParseInt(strings.TrimSpace(s), 0, 64)
}

var rubyFloatForm = regexp.MustCompile(`^\s*[+-]?(?:0[xX][0-9a-fA-F.pP+-]+|(?:\d+(?:_\d+)*)?(?:\.\d+(?:_\d+)*)?(?:[eE][+-]?\d+(?:_\d+)*)?)\s*$`)

// rubyFloat is Float(s).
func rubyFloat(s string) (float64, error) {
	trimmed := strings.TrimSpace(s)
	if !rubyFloatForm.MatchString(s) || trimmed == "" || strings.HasPrefix(strings.TrimLeft(trimmed, "+-"), "e") {
		return 0, fmt.Errorf("invalid value for Float(): %q", s)
	}
	if strings.Contains(trimmed, "0x") && !strings.Contains(trimmed, "p") { // Go requires an exponent
		trimmed += "p0"
	}
	f, err := strconv.ParseFloat(strings.ReplaceAll(trimmed, "_", ""), 64)
	if err != nil && f == 0 {
		return 0, err
	}
	return f, nil
}

var leadingInteger = regexp.MustCompile(`^\s*([+-]?\d+)`)

// rubyToI is to_i.
func rubyToI(v any) int {
	switch v := value(v).(type) {
	case nil:
		return 0
	case int:
		return v
	case float64:
		return int(v)
	case string:
		if m := leadingInteger.FindStringSubmatch(v); m != nil {
			n, _ := strconv.Atoi(m[1])
			return n
		}
	}
	return 0
}

// rubyMatches reports whether Ruby's regular expression matches s. An expression that Go
// cannot compile matches nothing.
func rubyMatches(expression, s string) bool {
	expression = strings.NewReplacer(`\Z`, `\n?\z`, `\h`, `[0-9a-fA-F]`).Replace(expression)
	re, err := regexp.Compile("(?m)" + expression)
	return err == nil && re.MatchString(s)
}

const (
	pchar    = `(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})`
	userChar = `(?:[A-Za-z0-9\-._~!$&'()*+,;=:]|%[0-9A-Fa-f]{2})`
	regName  = `(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})`
)

var uriForm = regexp.MustCompile(`^(?:([A-Za-z][A-Za-z0-9+\-.]*):)?(?://(?:(` + userChar + `*)@)?(\[[0-9A-Fa-f:.]+\]|` + regName + `*)(?::([0-9]*))?)?((?:/|` + pchar + `)*)(?:\?([^#]*))?(?:#((?:[/?]|` + pchar + `)*))?$`)

// rubyURI is URI.parse(s) without query and fragment, as text. ok is false if s cannot be
// parsed.
func rubyURI(s string) (bare string, ok bool) {
	m := uriForm.FindStringSubmatch(s)
	if m == nil || strings.Contains(s, "\n") {
		return s, false
	}
	scheme, user, host, port, path := strings.ToLower(m[1]), m[2], m[3], m[4], m[5]
	var b strings.Builder
	if scheme != "" {
		b.WriteString(scheme + ":")
	}
	if strings.Contains(s, "//") && (host != "" || strings.HasPrefix(strings.TrimPrefix(s, m[1]+":"), "//")) {
		b.WriteString("//")
		if user != "" {
			b.WriteString(user + "@")
		}
		b.WriteString(host)
		if port != "" && (scheme != "http" || port != "80") && (scheme != "https" || port != "443") {
			b.WriteString(":" + port)
		}
	}
	return b.String() + path, true
}

// rackRequestOf returns a request as Rack sees it.
type rackRequestOf struct {
	env map[string]string
}

// get returns a variable, "" if it is not set.
func (r rackRequestOf) get(name string) string { return r.env[name] }

func (r rackRequestOf) scheme() string {
	proto, _, _ := strings.Cut(r.get("HTTP_X_FORWARDED_PROTO"), ",")
	allowed := func(s string) bool { return s == "http" || s == "https" }
	switch {
	case r.get("HTTPS") == "on", r.get("HTTP_X_FORWARDED_SSL") == "on":
		return "https"
	case allowed(r.get("HTTP_X_FORWARDED_SCHEME")):
		return r.get("HTTP_X_FORWARDED_SCHEME")
	case allowed(proto):
		return proto
	}
	return r.get("rack.url_scheme")
}

var spacesAndCommas = regexp.MustCompile(`[,\s]+`)

func splitHeader(v string) []string {
	v = strings.TrimSpace(v)
	if v == "" {
		return nil
	}
	return rubySplit(spacesAndCommas.ReplaceAllString(v, ","), ",")
}

func wrapIPv6(host string) string {
	if !strings.HasPrefix(host, "[") && strings.Count(host, ":") > 1 {
		return "[" + host + "]"
	}
	return host
}

func (r rackRequestOf) authority() string {
	if v, ok := r.env["HTTP_X_FORWARDED_HOST"]; ok {
		if parts := splitHeader(v); len(parts) != 0 {
			return wrapIPv6(parts[0])
		}
	}
	if v, ok := r.env["HTTP_HOST"]; ok {
		return v
	}
	return r.get("SERVER_NAME") + ":" + r.get("SERVER_PORT")
}

var authorityForm = regexp.MustCompile(`^(\[(.*)\]|[\d.]+|[a-zA-Z0-9.\-_]+)(?::(\d+))?$`)

// splitAuthority returns host, address and port.
func splitAuthority(a string) (host, address, port string) {
	m := authorityForm.FindStringSubmatch(a)
	if m == nil {
		return a, a, ""
	}
	if m[2] != "" {
		return m[1], m[2], m[3]
	}
	return m[1], m[1], m[3]
}

func (r rackRequestOf) hostWithPort() string {
	authority := r.authority()
	host, _, port := splitAuthority(authority)
	if port != "" && port == map[string]string{"http": "80", "https": "443"}[r.scheme()] {
		return host
	}
	return authority
}

func (r rackRequestOf) path() string { return r.get("SCRIPT_NAME") + r.get("PATH_INFO") }

func (r rackRequestOf) url() string {
	url := r.scheme() + "://" + r.hostWithPort() + r.path()
	if q := r.get("QUERY_STRING"); q != "" {
		url += "?" + q
	}
	return url
}

var rackProxies = regexp.MustCompile(`(?i)^(?:127\.0\.0\.1$|(?:10|172\.(?:1[6-9]|2[0-9]|30|31)|192\.168)\.|::1$|fd[0-9a-f]{2}:.+|localhost$|unix$|unix:)`)

func rejectTrusted(addresses []string) (others []string) {
	for _, a := range addresses {
		if !rackProxies.MatchString(a) {
			others = append(others, a)
		}
	}
	return others
}

// ip is Rack::Request#ip.
func (r rackRequestOf) ip() string {
	remote := splitHeader(r.get("REMOTE_ADDR"))
	if others := rejectTrusted(remote); len(others) != 0 {
		return others[0]
	}
	var forwarded []string
	for _, a := range splitHeader(r.get("HTTP_X_FORWARDED_FOR")) {
		_, address, _ := splitAuthority(wrapIPv6(a))
		forwarded = append(forwarded, address)
	}
	switch others := rejectTrusted(forwarded); {
	case len(others) != 0:
		return others[len(others)-1]
	case len(forwarded) != 0:
		return forwarded[0]
	case len(remote) != 0:
		return remote[0]
	}
	return ""
}

// trustedHere reports whether an address is a trusted proxy by default in this package.
func trustedHere(s string) bool {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return s == "" || s == "@" || strings.HasPrefix(s, "/")
	}
	a = a.Unmap()
	return a.IsLoopback() || a.IsPrivate()
}

// peerIP returns the client's address by the rule of this package: the last that is not a
// trusted proxy.
func (r rackRequestOf) peerIP() string {
	bare := func(s string) string {
		s = strings.TrimSpace(s)
		if _, err := netip.ParseAddr(s); err == nil {
			return s
		}
		if ap, err := netip.ParseAddrPort(s); err == nil {
			return ap.Addr().String()
		}
		if host, port, ok := strings.Cut(s, ":"); ok && !strings.Contains(port, ":") {
			return host
		}
		return strings.Trim(s, "[]")
	}
	client := r.get("REMOTE_ADDR")
	if !trustedHere(client) {
		return client
	}
	parts := strings.Split(r.get("HTTP_X_FORWARDED_FOR"), ",")
	for _, part := range slices.Backward(parts) {
		if a := bare(part); a != "" {
			client = a
			if !trustedHere(a) {
				break
			}
		}
	}
	return client
}
