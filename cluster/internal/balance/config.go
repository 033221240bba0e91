package balance

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// Policy is a load balancing policy: it chooses one of the usable hosts.
type Policy uint8

// The load balancing policies.
const (
	// RoundRobin uses the hosts in turn. If weights differ, it uses an earliest deadline
	// first schedule.
	RoundRobin Policy = iota
	// LeastRequest prefers hosts with few active requests.
	LeastRequest
	// Random picks a random host. It ignores weights.
	Random
	// RingHash looks up the hash of the request in a ring of the hosts' hashes.
	RingHash
	// Maglev looks up the hash of the request in a table.
	Maglev
	// PeakEWMA compares two random hosts and picks the one with the lower product of
	// latency and active requests. It is Finagle's; Envoy does not have it.
	PeakEWMA

	policies
)

// String returns the name of the policy as in Envoy's configuration, such as
// "ROUND_ROBIN".
func (p Policy) String() string {
	switch p {
	case RoundRobin:
		return "ROUND_ROBIN"
	case LeastRequest:
		return "LEAST_REQUEST"
	case Random:
		return "RANDOM"
	case RingHash:
		return "RING_HASH"
	case Maglev:
		return "MAGLEV"
	case PeakEWMA:
		return "PEAK_EWMA"
	default:
		return fmt.Sprintf("Policy(%d)", uint8(p))
	}
}

// hashes reports whether the policy uses the hash of the request.
func (p Policy) hashes() bool { return p == RingHash || p == Maglev }

// Zero is the number 0 in fields of Config whose zero value means a default.
const Zero = -1

// Config configures a Balancer. The zero value is round robin with Envoy's defaults.
type Config struct {
	// Policy is the load balancing policy. 0 is RoundRobin.
	Policy Policy
	// LeastRequest configures the policy LeastRequest.
	LeastRequest LeastRequestConfig
	// RingHash configures the policy RingHash.
	RingHash RingHashConfig
	// Maglev configures the policy Maglev.
	Maglev MaglevConfig
	// ConsistentHashing configures RingHash and Maglev.
	ConsistentHashing ConsistentHashingConfig
	// PeakEWMA configures the policy PeakEWMA.
	PeakEWMA PeakEWMAConfig

	// PanicThreshold is the share of available hosts, in percent, below which all hosts
	// of a priority are used. 0 means 50, and [Zero] means 0: never. Fractions are
	// truncated. Mirrors common_lb_config.healthy_panic_threshold.
	PanicThreshold float64
	// Locality is where the caller runs. The zero value is an unknown locality.
	// Mirrors node.locality.
	Locality Locality
	// LocalityWeighted chooses localities by their weights and their health. Mirrors
	// common_lb_config.locality_weighted_lb_config.
	LocalityWeighted bool
	// ZoneAware prefers hosts of the caller's locality, as long as they have capacity.
	// ZoneAware together with LocalityWeighted is an error; hash policies ignore it. Nil
	// means no preference. Mirrors common_lb_config.zone_aware_lb_config, which is on by
	// default in Envoy.
	ZoneAware *ZoneAware
	// SlowStart reduces the weight of new hosts. It needs RoundRobin, LeastRequest or
	// PeakEWMA; with another policy it is an error.
	SlowStart SlowStart
	// ContinueSchedules continues weighted schedules at their position when the hosts
	// change. By default, as in Envoy, each change restarts them at the same position, so
	// that with very frequent changes some hosts are never used.
	ContinueSchedules bool

	// Rand returns random numbers. It must be safe for concurrent use. Nil means
	// [rand.Uint64].
	Rand func() uint64
}

// LeastRequestConfig mirrors Envoy's least_request_lb_config.
type LeastRequestConfig struct {
	// ChoiceCount is the number of random hosts that are compared if all have the same
	// weight; the same host can occur twice. 0 means 2, the minimum.
	ChoiceCount int
	// ActiveRequestBias determines how much active requests reduce the weight of a host if
	// the weights differ: weight / (active + 1) ^ bias. 0 means 1, and [Zero] means 0.
	ActiveRequestBias float64
	// FullScan compares all hosts instead of ChoiceCount, and picks a random one of the
	// best. Mirrors selection_method: FULL_SCAN.
	FullScan bool
}

// RingHashConfig mirrors Envoy's ring_hash_lb_config.
type RingHashConfig struct {
	// MinSize is the minimum number of entries of the ring. 0 means 1,024. Mirrors
	// minimum_ring_size.
	MinSize uint64
	// MaxSize is the maximum number of entries. 0 means 8,388,608, the limit; it must
	// not be less than MinSize. Mirrors maximum_ring_size.
	MaxSize uint64
	// Function hashes the entries. The caller hashes requests.
	Function HashFunction
}

// HashFunction is the hash function of the entries of a ring.
type HashFunction uint8

// The hash functions of Envoy's ring.
const (
	XXHash      HashFunction = iota // xxHash64
	MurmurHash2                     // 64 bits, as std::hash<string> in GNU's libstdc++
)

// MaglevConfig mirrors Envoy's maglev_lb_config.
type MaglevConfig struct {
	// TableSize is the number of entries, a prime number. 0 means 65,537; at most
	// 5,000,011.
	TableSize uint64
}

// ConsistentHashingConfig mirrors Envoy's consistent_hashing_lb_config.
type ConsistentHashingConfig struct {
	// UseHostname hashes the hostnames of hosts instead of their addresses.
	UseHostname bool
	// BalanceFactor, in percent, limits the active requests of a host to that share of
	// the average; a pick beyond the limit uses another host. 0 means no limit; any other
	// value below 100 is an error. Mirrors hash_balance_factor.
	BalanceFactor uint32
	// Active is the number of active requests of the whole cluster, which BalanceFactor
	// needs.
	Active *atomic.Int64
}

// PeakEWMAConfig configures the policy PeakEWMA.
type PeakEWMAConfig struct {
	// Decay is the time after which an observed latency has lost 63 % of its weight. 0
	// means 10s, as in Finagle.
	Decay time.Duration
}

// ZoneAware mirrors Envoy's common_lb_config.zone_aware_lb_config. It needs
// Config.Locality and Membership.Local.
type ZoneAware struct {
	// RoutingEnabled is the share of picks, in percent, that prefer the zone. 0 means 100,
	// and [Zero] means 0.
	RoutingEnabled float64
	// MinClusterSize is the minimum number of healthy hosts in priority 0; with fewer
	// hosts, zones have no effect. 0 means 6; 1 means no minimum.
	MinClusterSize uint64
	// FailTrafficOnPanic makes picks return no host in panic.
	FailTrafficOnPanic bool
	// ForceLocalZone, if positive, is a number of healthy hosts: if the caller's locality
	// has as many, all requests use its hosts. Mirrors force_local_zone.min_size.
	ForceLocalZone uint32
	// ByWeight compares the localities by the weights of their healthy hosts, not their
	// number. Mirrors locality_basis: HEALTHY_HOSTS_WEIGHT.
	ByWeight bool
}

// SlowStart mirrors Envoy's slow_start_config.
type SlowStart struct {
	// Window is the time after which a new host has its full weight. 0 means no slow start.
	Window time.Duration
	// Aggression is the speed: the weight is multiplied by (age/Window)^(1/Aggression).
	// 0 means 1: the weight grows linearly.
	Aggression float64
	// MinWeightPercent is the minimum share of its weight that a new host has. 0 means 10,
	// and [Zero] means 0.
	MinWeightPercent float64
}

const (
	defaultPanicThreshold = 50
	defaultMinRing        = 1024
	maxRing               = 8 << 20
	defaultTable          = 65537
	maxTable              = 5000011
	defaultMinCluster     = 6
	defaultDecay          = 10 * time.Second
)

// complete returns c with its defaults. The error joins the errors of all fields.
func (c Config) complete() (Config, error) {
	err := c.check()
	setDefault(&c.LeastRequest.ChoiceCount, 2)
	setFloat(&c.LeastRequest.ActiveRequestBias, 1)
	setDefault(&c.RingHash.MinSize, defaultMinRing)
	setDefault(&c.RingHash.MaxSize, maxRing)
	setDefault(&c.Maglev.TableSize, defaultTable)
	setDefault(&c.PeakEWMA.Decay, defaultDecay)
	setFloat(&c.PanicThreshold, defaultPanicThreshold)
	setDefault(&c.SlowStart.Aggression, 1)
	setFloat(&c.SlowStart.MinWeightPercent, 10)
	if c.ZoneAware != nil {
		zone := *c.ZoneAware
		setFloat(&zone.RoutingEnabled, 100)
		setDefault(&zone.MinClusterSize, defaultMinCluster)
		c.ZoneAware = &zone
	}
	if c.Rand == nil {
		c.Rand = rand.Uint64
	}
	if c.Policy == RingHash && c.RingHash.MinSize > c.RingHash.MaxSize {
		err = errors.Join(err, bad("RingHash.MinSize", "%d is more than MaxSize, %d; write a smaller one", c.RingHash.MinSize, c.RingHash.MaxSize))
	}
	return c, err
}

// check returns the errors of fields that do not depend on others.
func (c *Config) check() error {
	var errs []error
	reject := func(wrong bool, field, format string, args ...any) {
		if wrong {
			errs = append(errs, bad(field, format, args...))
		}
	}
	reject(c.Policy >= policies, "Policy", "%d is not a policy", c.Policy)
	reject(c.LeastRequest.ChoiceCount != 0 && c.LeastRequest.ChoiceCount < 2, "LeastRequest.ChoiceCount", "%d is less than 2; write 2 or more, or 0 for 2", c.LeastRequest.ChoiceCount)
	reject(!atLeastZero(c.LeastRequest.ActiveRequestBias), "LeastRequest.ActiveRequestBias", "%v is negative; use Zero for 0", c.LeastRequest.ActiveRequestBias)
	reject(c.RingHash.MinSize > maxRing, "RingHash.MinSize", "%d is more than %d", c.RingHash.MinSize, maxRing)
	reject(c.RingHash.MaxSize > maxRing, "RingHash.MaxSize", "%d is more than %d", c.RingHash.MaxSize, maxRing)
	reject(c.RingHash.Function > MurmurHash2, "RingHash.Function", "%d is not a hash function", c.RingHash.Function)
	reject(c.Maglev.TableSize > maxTable, "Maglev.TableSize", "%d is more than %d", c.Maglev.TableSize, maxTable)
	reject(c.Maglev.TableSize <= maxTable && c.Maglev.TableSize != 0 && !prime(c.Maglev.TableSize), "Maglev.TableSize", "%d is not a prime number; write one such as 65537, or 0 for 65537", c.Maglev.TableSize)
	reject(c.ConsistentHashing.BalanceFactor != 0 && c.ConsistentHashing.BalanceFactor < 100, "ConsistentHashing.BalanceFactor", "%d is less than 100", c.ConsistentHashing.BalanceFactor)
	reject(c.ConsistentHashing.BalanceFactor != 0 && c.ConsistentHashing.Active == nil, "ConsistentHashing.Active", "nil; BalanceFactor needs the active requests of the cluster")
	reject(c.PeakEWMA.Decay < 0, "PeakEWMA.Decay", "%v is negative; write a duration such as 10*time.Second, or 0 for 10s", c.PeakEWMA.Decay)
	reject(!percentage(c.PanicThreshold), "PanicThreshold", "%v is not between 0 and 100; use Zero for 0", c.PanicThreshold)
	if c.ZoneAware != nil {
		reject(c.LocalityWeighted, "ZoneAware", "LocalityWeighted is set, too; remove one of the two")
		reject(!percentage(c.ZoneAware.RoutingEnabled), "ZoneAware.RoutingEnabled", "%v is not between 0 and 100; use Zero for 0", c.ZoneAware.RoutingEnabled)
	}
	reject(c.SlowStart.Window != 0 && c.SlowStart.Window < time.Millisecond, "SlowStart.Window", "%v is less than 1ms; write a duration such as time.Minute, or 0 for no slow start", c.SlowStart.Window)
	reject(c.SlowStart.Window > 0 && (c.Policy.hashes() || c.Policy == Random), "SlowStart", "has no effect with %v; remove it, or write another policy", c.Policy)
	reject(!(c.SlowStart.Aggression >= 0), "SlowStart.Aggression", "%v is negative; write a number above 0, or 0 for 1", c.SlowStart.Aggression)
	reject(!percentage(c.SlowStart.MinWeightPercent), "SlowStart.MinWeightPercent", "%v is not between 0 and 100; use Zero for 0", c.SlowStart.MinWeightPercent)
	return errors.Join(errs...)
}

func bad(field, format string, args ...any) error {
	return fmt.Errorf("balance: Config.%s: "+format, append([]any{field}, args...)...)
}

// setDefault replaces the zero value by a default.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// setFloat is setDefault for a field in which Zero means 0.
func setFloat(field *float64, value float64) {
	if setDefault(field, value); *field == Zero {
		*field = 0
	}
}

func atLeastZero(v float64) bool { return v >= 0 || v == Zero }

func percentage(v float64) bool { return v >= 0 && v <= 100 || v == Zero }

// prime reports whether n is a prime number.
func prime(n uint64) bool {
	if n < 2 {
		return false
	}
	for f := uint64(2); f*f <= n; f++ {
		if n%f == 0 {
			return false
		}
	}
	return true
}

// panicThreshold returns the threshold in whole percents.
func (c *Config) panicThreshold() uint32 { return wholePercent(c.PanicThreshold) }

// wholePercent truncates a percentage like Envoy's
// PROTOBUF_PERCENT_TO_ROUNDED_INTEGER_OR_DEFAULT: 29 becomes 28, because 29/100*100 is a
// little less than 29.
func wholePercent(percent float64) uint32 { return uint32(100 * (percent / 100)) }
