// Package resolve keeps the hosts of DNS names up to date, as in Envoy's STRICT_DNS and
// LOGICAL_DNS clusters.
//
// A [Resolver] looks up each of its names repeatedly, in a goroutine per name, and calls
// [Config.OnUpdate] with all hosts whenever those of a name change:
//
//	r, err := resolve.New(resolve.Config{
//		Targets:  []resolve.Target{{Name: "recipes.internal", Port: 8080}},
//		OnUpdate: func(hosts []resolve.Host) { … },
//	})
//	if err != nil { … }
//	r.Start()
//	defer r.Close()
//	err = r.WaitReady(ctx)
//
// # The time between lookups
//
// After a successful lookup it is [Config.RefreshRate]. With [Config.RespectTTL] it is the
// smallest TTL of the addresses (of the first address with [Config.Logical]) and of their
// aliases, unless that is zero. A random time below [Config.Jitter] is added. After a failed
// lookup it is RefreshRate, or with [Config.FailureBase] an exponential backoff.
//
// # Differences from Envoy
//
//   - A name that no longer exists, or has no address, keeps its previous hosts, and the lookup
//     counts as update_empty. Envoy's STRICT_DNS removes the hosts. Without previous hosts there
//     is no difference. With Logical, such a lookup has failed and the host remains, here and in
//     Envoy.
//   - With the lookup family [All], the addresses of a family whose lookup failed remain if the
//     lookup of the other family succeeds. Envoy removes them.
//   - Each name has its own backoff after failures. In Envoy the cluster has one: a hundred
//     names that fail once reach the longest backoff together, and a name that succeeds resets
//     the backoff of all others.
//   - A TTL is at most one day.
//   - A resolver is ready when the first lookup of every name has ended. Envoy waits only for
//     one name.
//   - Without RespectTTL and [Config.Servers] the system's resolver is used, which orders
//     addresses by its own rules. Envoy keeps the order of the response.
package resolve
