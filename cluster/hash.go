package cluster

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/pillion-go/pillion/cluster/internal/balance"
	"github.com/pillion-go/pillion/policy"
)

// HashPolicy selects a part of the request to hash. Exactly one of Header, Cookie and QueryParameter
// must be set. The hashes of several policies are combined in their order. Mirrors hash_policy of
// Envoy's RouteAction, without the parts that a client does not have, such as the address of a
// downstream connection.
type HashPolicy struct {
	// Header is the name of a request header, or one of :authority, :method and :path. Mirrors
	// header.header_name.
	Header string `json:"header,omitempty"`

	// Cookie is the name of a cookie of the request. A missing cookie is not hashed, and it is not
	// made, unlike in Envoy with ttl. Mirrors cookie.name.
	Cookie string `json:"cookie,omitempty"`

	// QueryParameter is the name of a parameter of the URL's query. Its first value is hashed. Mirrors
	// query_parameter.name.
	QueryParameter string `json:"query_parameter,omitempty"`

	// Terminal ignores the policies after this one if this one or an earlier one found a value to
	// hash. Mirrors terminal.
	Terminal bool `json:"terminal,omitempty"`
}

// check returns the errors of a Route.
func (r *Route) check() error {
	var bad []error
	for i, p := range r.HashPolicy {
		set := 0
		for _, name := range []string{p.Header, p.Cookie, p.QueryParameter} {
			if name != "" {
				set++
			}
		}
		if set != 1 {
			bad = append(bad, fmt.Errorf("cluster: Route.HashPolicy[%d]: %d of Header, Cookie and QueryParameter are set; set one", i, set))
		}
	}
	return errors.Join(bad...)
}

// hash returns the hash of a call. ok is false if there is nothing to hash.
func (r *Route) hash(c *policy.Call) (hash uint64, ok bool) {
	for i := range r.HashPolicy {
		p := &r.HashPolicy[i]
		if value, there := p.value(c); there {
			if next := balance.Hash(value); ok {
				hash = balance.CombineHashes(hash, next)
			} else {
				hash, ok = next, true
			}
		}
		if p.Terminal && ok {
			break
		}
	}
	return hash, ok
}

// value returns the part of a call that p selects.
func (p *HashPolicy) value(c *policy.Call) (value string, ok bool) {
	switch {
	case p.Header != "":
		return header(c, p.Header)
	case p.Cookie != "":
		return cookie(c, p.Cookie)
	}
	return parameter(c.Request().Query, p.QueryParameter)
}

// header returns the values of a header, sorted and joined as in Envoy.
func header(c *policy.Call, name string) (value string, ok bool) {
	switch r := c.Request(); strings.ToLower(name) {
	case ":authority", "host":
		return r.Authority, true
	case ":method":
		return r.Method, true
	case ":path":
		if r.Query != "" {
			return r.Path + "?" + r.Query, true
		}
		return r.Path, true
	}
	switch values := c.RequestHeaderValues(name); len(values) {
	case 0:
		return "", false
	case 1:
		return values[0], true
	default:
		return strings.Join(slices.Sorted(slices.Values(values)), ""), true
	}
}

// cookie returns the value of a cookie.
func cookie(c *policy.Call, name string) (value string, ok bool) {
	for _, line := range c.RequestHeaderValues("Cookie") {
		cookies, err := http.ParseCookie(line)
		if err != nil {
			continue
		}
		for _, found := range cookies {
			if found.Name == name {
				return found.Value, true
			}
		}
	}
	return "", false
}

// parameter returns the first value of a query parameter.
func parameter(query, name string) (value string, ok bool) {
	values, _ := url.ParseQuery(query) // invalid parameters are ignored
	if !values.Has(name) {
		return "", false
	}
	return values.Get(name), true
}
