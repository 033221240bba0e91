// Package balance chooses the host of each request as Envoy does.
//
// A [Balancer] is built once from a [Config]. [Balancer.Update] receives the
// hosts of the cluster, partitions them by priority, health and locality into an
// immutable [Snapshot], builds the tables that the load balancing policy needs,
// and publishes both through one atomic pointer. [Balancer.Pick] reads that
// pointer: it takes no lock, except for weighted schedules, and it never allocates.
//
//	b, err := balance.New(balance.Config{Policy: balance.LeastRequest})
//	err = b.Update(balance.Membership{Hosts: hosts}, now)
//	host, info := b.Pick(balance.Request{})
//
// # A pick
//
// A pick makes three choices, in this order:
//
//  1. The priority, by the load that [Snapshot] assigns to each priority: the share
//     of its available hosts times the overprovisioning factor, lower numbers first.
//     A priority with fewer available hosts than the panic threshold is in panic: all
//     its hosts are used, whatever their health.
//  2. The hosts within the priority: the healthy ones, the degraded ones, all of
//     them in panic, or the hosts of one locality, which is chosen by locality weights
//     ([Config.LocalityWeighted]) or by zone ([Config.ZoneAware]).
//  3. The host, by [Config.Policy].
//
// [Request.Reject] can reject the host; the pick is then repeated, at most
// [Request.MaxAttempts] times. After that the last host is used.
//
// Ring hash and Maglev make the first choice with the hash of the request and the
// others with one table for each priority. As in Envoy, they ignore zones, degraded
// hosts and [Request.Previous].
//
// # Time and random numbers
//
// The package has no clock and no random state. Times are durations since an origin
// that the caller chooses, which must be the same for all calls of one Balancer; only
// slow start and peak EWMA use them. Random numbers come from [Config.Rand], which is
// not called if the number cannot change the pick.
//
// # Hosts
//
// A [Host] outlives updates: it keeps its flags, active requests and latency when its
// [Endpoint] changes. It can belong to several Balancers, such as one for each subset
// of a cluster. A change of flags takes effect at the next [Balancer.Refresh].
//
// # Differences from Envoy
//
// [PeakEWMA] is Finagle's. [Config.ContinueSchedules], [Request.Attempt] and
// [Request.LeaveZoneAfter] have no counterpart in Envoy. If hostnames are hashed, a
// host without a hostname is hashed by its address; Envoy hashes the empty string, so
// that all such hosts collide. Two hosts with the same hash key have the same hashes
// in a ring: all requests use the first of them, in the order of [Membership]; in
// Envoy the order is unspecified. Least request selects two hosts with one random
// number.
package balance
