package outlier

import (
	"math"
	"time"
)

// origin is the origin of the results that are evaluated.
type origin uint8

const (
	externalOrigin origin = iota // the responses of the hosts, or all results if origins are not split
	localOrigin
)

func (o origin) successRate() Kind {
	if o == localOrigin {
		return SuccessRateLocalOrigin
	}
	return SuccessRate
}

func (o origin) failurePercentage() Kind {
	if o == localOrigin {
		return FailurePercentageLocalOrigin
	}
	return FailurePercentage
}

func (h *host[K]) rate(o origin) *rate {
	if o == localOrigin {
		return &h.local
	}
	return &h.external
}

// judge evaluates the last interval of every host that is not ejected, by success rate and then
// by failure percentage. It returns the average of the cluster.
func (d *Detector[K]) judge(o origin, now time.Time) Average {
	c := &d.config
	rated, counted := d.eligible(o)
	average := Average{none, none}
	if enough(len(rated), c.SuccessRateMinimumHosts) {
		average = averageOf(rated, o, float64(c.SuccessRateStdevFactor)/1000)
		d.detectRates(rated, o, average, now)
	}
	if enough(len(counted), c.FailurePercentageMinimumHosts) {
		d.detectPercentages(counted, o, now)
	}
	return average
}

// enough reports whether this number of hosts can be evaluated.
func enough(hosts int, least uint32) bool { return hosts > 0 && int64(hosts) >= int64(least) }

// eligible returns the hosts with enough results for each evaluation. It also sets the success
// rates that [Status] shows.
func (d *Detector[K]) eligible(o origin) (rated, counted []*host[K]) {
	c := &d.config
	if !enough(len(d.order), min(c.SuccessRateMinimumHosts, c.FailurePercentageMinimumHosts)) {
		return nil, nil
	}
	for _, h := range d.order {
		r := h.rate(o)
		volume := r.last.total
		if h.ejection.on || volume == 0 {
			continue
		}
		if volume >= uint64(min(c.SuccessRateRequestVolume, c.FailurePercentageRequestVolume)) {
			r.shown = r.percent()
		}
		if volume >= uint64(c.SuccessRateRequestVolume) {
			rated = append(rated, h)
		}
		if volume >= uint64(c.FailurePercentageRequestVolume) {
			counted = append(counted, h)
		}
	}
	return rated, counted
}

// averageOf returns the mean of the hosts' success rates, and the threshold: factor standard
// deviations below it. The order of operations is Envoy's, because rounding errors decide if a
// rate is exactly on the threshold, as that of one of two hosts with a factor of 1. The
// conversions prevent the compiler from fusing operations.
func averageOf[K comparable](hosts []*host[K], o origin, factor float64) Average {
	count, sum, variance := float64(len(hosts)), 0.0, 0.0
	for _, h := range hosts {
		sum += h.rate(o).percent()
	}
	mean := sum / count
	for _, h := range hosts {
		distance := h.rate(o).percent() - mean
		variance += float64(distance * distance)
	}
	return Average{Mean: mean, Threshold: mean - float64(factor*math.Sqrt(variance/count))}
}

func (d *Detector[K]) detectRates(hosts []*host[K], o origin, average Average, now time.Time) {
	for _, h := range hosts {
		if rate := h.rate(o).percent(); rate < average.Threshold {
			d.count(EjectionsSuccessRate)
			d.detect(h, o.successRate(), Event[K]{SuccessRate: rate, Cluster: average}, now)
		}
	}
}

func (d *Detector[K]) detectPercentages(hosts []*host[K], o origin, now time.Time) {
	for _, h := range hosts {
		if rate := h.rate(o).percent(); 100-rate >= float64(d.config.FailurePercentageThreshold) {
			d.detect(h, o.failurePercentage(), Event[K]{SuccessRate: rate}, now)
		}
	}
}
