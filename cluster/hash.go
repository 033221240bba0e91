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

// HashPolicy says what of a call is hashed. Exactly one of Header, Cookie and QueryParameter is
// set. Several policies are combined. Mirrors hash_policy of Envoy's RouteAction; what a client
// has not, such as the address of a downstream connection, is left out.
type HashPolicy struct {
	// Header names a request header, or one of :authority, :method and :path.
	Header string `json:"header,omitempty"`

	// Cookie names a cookie of the request. One that is missing is not made, as Envoy does with
	// ttl.
	Cookie string `json:"cookie,omitempty"`

	// QueryParameter names a parameter of the URL's query. Its first value is hashed.
	QueryParameter string `json:"query_parameter,omitempty"`

	// Terminal has the policies after this one ignored if there is a hash by now.
	Terminal bool `json:"terminal,omitempty"`
}

// check returns what is wrong with a Route.
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

// hash returns the hash of a call. It is not ok if nothing can be hashed.
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

// value returns what of a call is hashed.
func (p *HashPolicy) value(c *policy.Call) (value string, ok bool) {
	switch {
	case p.Header != "":
		return header(c, p.Header)
	case p.Cookie != "":
		return cookie(c, p.Cookie)
	}
	return parameter(c.Request().Query, p.QueryParameter)
}

// header returns the values of a header, in order and joined as Envoy hashes them.
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

// parameter returns the first value of a parameter of a query.
func parameter(query, name string) (value string, ok bool) {
	values, _ := url.ParseQuery(query) // what cannot be read is left out
	if !values.Has(name) {
		return "", false
	}
	return values.Get(name), true
}
