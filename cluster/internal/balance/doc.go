// Package balance chooses the host of each request as Envoy does.
//
// A [Balancer] is built once from a [Config]. [Balancer.Update] receives the
// hosts of the cluster, partitions them by priority, health and locality into an
// immutable [Snapshot], builds the tables that the load balancing policy needs,
// and publishes both through one atomic pointer. [Balancer.Pick] reads that
// pointer: it takes no lock, but for weighted schedules, and it never allocates.
//
//	b, err := balance.New(balance.Config{Policy: balance.LeastRequest})
//	err = b.Update(balance.Membership{Hosts: hosts}, now)
//	host, info := b.Pick(balance.Request{})
//
// # A pick
//
// A pick makes three choices, in this order:
//
//  1. The priority, by the load that [Snapshot] assigns to each: the share of its
//     hosts that are available times the overprovisioning factor, higher priorities
//     first. A priority whose available hosts are fewer than the panic threshold is
//     in panic: all its hosts are used, whatever their health.
//  2. The hosts within the priority: the healthy ones, the degraded ones, all of
//     them in panic, or those of one locality, which is chosen by locality weights
//     ([Config.LocalityWeighted]) or by zone ([Config.ZoneAware]).
//  3. The host, by [Config.Policy].
//
// [Request.Reject] can reject the host; the pick is then made again, up to
// [Request.MaxAttempts] times, and the last host stands.
//
// Ring hash and Maglev make the first choice with the hash of the request and the
// others with a table per priority, as in Envoy: they ignore zones, degraded hosts
// and [Request.Previous].
//
// # Time and chance
//
// The package has no clock and no random state of its own. Instants are durations
// since an origin that the caller chooses, the same for all calls that concern one
// Balancer; only slow start and peak EWMA look at them. Random numbers come from
// [Config.Rand]; those that cannot change a pick are not drawn.
//
// # Hosts
//
// A [Host] outlives updates: it keeps its flags, active requests and latency when its
// [Endpoint] changes. It can belong to several Balancers, such as one for each subset
// of a cluster. A change of flags counts from the next [Balancer.Refresh].
//
// # Differences from Envoy
//
// [PeakEWMA] is Finagle's. [Config.ContinueSchedules], [Request.Attempt] and
// [Request.LeaveZoneAfter] have no counterpart in Envoy. A host without a hostname is hashed by its address when
// hostnames are asked for; Envoy hashes the empty string, so that all such hosts
// collide. Two hosts with the same hash key have the same hashes in a ring: all
// requests use the first of them, in the order of [Membership]; in Envoy the order is
// unspecified. Least request draws two hosts with one random number.
package balance
