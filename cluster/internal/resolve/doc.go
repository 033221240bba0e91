// Package resolve keeps the hosts of DNS names up to date, as Envoy's STRICT_DNS and
// LOGICAL_DNS clusters do.
//
// A [Resolver] looks each of its names up again and again, in a goroutine per name, and
// calls [Config.OnUpdate] with all hosts whenever those of a name change:
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
// After a look-up that succeeded: [Config.RefreshRate], or with [Config.RespectTTL] the
// smallest TTL of the addresses (of the first address with [Config.Logical]) and of the
// aliases that lead to them, unless that is zero; then up to [Config.Jitter] more. After one
// that failed: RefreshRate, or with [Config.FailureBase] an exponential backoff.
//
// # What differs from Envoy
//
//   - A name that exists no longer, or has no address, keeps its last hosts and counts as
//     update_empty. Envoy's STRICT_DNS removes them. Without earlier hosts there is no
//     difference. With Logical both count such a look-up as failed and keep the host.
//   - With the lookup family [All], the addresses of a family whose look-up failed stay while
//     the other family succeeds. Envoy removes them.
//   - The backoff after failures belongs to a name, not to the cluster. In Envoy a hundred
//     names that fail once reach the longest backoff together, and one that succeeds resets
//     the backoff of all others.
//   - A TTL counts for a day at most.
//   - A resolver is ready when the first look-up of every name has ended. Envoy waits for that
//     of one name.
//   - Without RespectTTL and without [Config.Servers] the operating system's resolver is
//     asked, with its own order of addresses. Envoy keeps the order of the response.
package resolve
