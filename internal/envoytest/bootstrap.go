package envoytest

import (
	"maps"
	"net"
	"strconv"
)

// Object is an object of JSON.
type Object = map[string]any

// Address is the address of a socket in a configuration.
func Address(host string, port int) Object {
	return Object{"socket_address": Object{"address": host, "port_value": port}}
}

// Typed is an extension with its configuration, whose type is given without the prefix that all
// types have. It may be nil.
func Typed(name, kind string, config Object) Object {
	typed := Object{"@type": "type.googleapis.com/" + kind}
	maps.Copy(typed, config)
	return Object{"name": name, "typed_config": typed}
}

// Bootstrap is a configuration for [Start]: an admin page and a listener, both at any port, whose
// routes use the clusters. Without routes there is no listener.
func Bootstrap(clusters, routes []Object) Object {
	resources := Object{"clusters": clusters}
	if len(routes) > 0 {
		resources["listeners"] = []Object{listener(routes)}
	}
	return Object{
		"admin": Object{"address": Address("127.0.0.1", 0)},
		"node":  Object{"id": "test", "cluster": "test"}, "static_resources": resources,
	}
}

func listener(routes []Object) Object {
	const types = "envoy.extensions.filters."
	manager := Typed("manager", types+"network.http_connection_manager.v3.HttpConnectionManager", Object{
		"stat_prefix":  "egress",
		"http_filters": []Object{Typed("router", types+"http.router.v3.Router", nil)},
		"route_config": Object{"virtual_hosts": []Object{{"name": "all", "domains": []string{"*"}, "routes": routes}}},
	})
	return Object{
		"name": "egress", "address": Address("127.0.0.1", 0),
		"filter_chains": []Object{{"filters": []Object{manager}}},
	}
}

// Route is a route to a cluster, for the paths below /name/. fields are of its action; they may be nil.
func Route(name string, fields Object) Object {
	action := Object{"cluster": name}
	maps.Copy(action, fields)
	return Object{"match": Object{"prefix": "/" + name + "/"}, "route": action}
}

// Assignment is the load_assignment of a cluster whose hosts are at these addresses, each host:port.
func Assignment(name string, addresses ...string) Object {
	var endpoints []Object
	for _, a := range addresses {
		host, port, _ := net.SplitHostPort(a)
		number, _ := strconv.Atoi(port)
		endpoints = append(endpoints, Object{"endpoint": Object{"address": Address(host, number)}})
	}
	return Object{"cluster_name": name, "endpoints": []Object{{"lb_endpoints": endpoints}}}
}
