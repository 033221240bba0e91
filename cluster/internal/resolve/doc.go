// Package resolve keeps the hosts of DNS names up to date, as Envoy's STRICT_DNS and
// LOGICAL_DNS clusters do.
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
// # When a name is looked up again
//
// After a lookup that succeeded: [Config.RefreshRate], or with [Config.RespectTTL] the
// smallest TTL of the addresses (of the first address with [Config.Logical]) and of the
// aliases that lead to them, unless that is zero; then up to [Config.Jitter] more. After one
// that failed: RefreshRate, or with [Config.FailureBase] an exponential backoff.
//
// # What differs from Envoy
//
//   - A name that no longer exists, or has no address, keeps its last hosts, and the lookup
//     counts as update_empty. Envoy's STRICT_DNS removes the hosts. Without earlier hosts there
//     is no difference. With Logical both count such a lookup as failed and keep the host.
//   - With the lookup family [All], the addresses of a family whose lookup failed stay while
//     the other family succeeds. Envoy removes them.
//   - The backoff after failures belongs to a name, not to the cluster. In Envoy a hundred
//     names that fail once reach the longest backoff together, and one that succeeds resets
//     the backoff of all others.
//   - A TTL counts for a day at most.
//   - A resolver is ready when the first lookup of every name has ended. Envoy waits for that
//     of one name.
//   - Without RespectTTL and [Config.Servers] the system's resolver is used, which orders
//     addresses by its own rules. Envoy keeps the order of the response.
package resolve
