package cluster

import (
	"time"
	"weak"

	"github.com/pillion-go/pillion/internal/report"
)

// mergeWindow collects changes of health. The first change is published immediately; the changes
// within the window after it are published together at its end. The cluster's mu guards it. Mirrors
// Envoy's update_merge_window.
type mergeWindow struct {
	length time.Duration
	last   time.Duration // the time of the last publication; 0 for never
	timer  *time.Timer   // armed while a change waits; nil otherwise
}

// published records a publication and drops the waiting changes, which it includes.
func (w *mergeWindow) published(now time.Duration) {
	w.stop()
	w.last = now
}

// stop drops the waiting changes.
func (w *mergeWindow) stop() {
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}

// healthChanged publishes the health of the hosts, now or at the end of the window. The caller holds
// mu.
func (c *Cluster) healthChanged() {
	w, now := &c.merge, c.now()
	c.stats.members(c.hosts)
	switch {
	case c.closed || w.timer != nil:
	case w.last == 0 || now-w.last >= w.length:
		c.publish(now)
	default:
		w.timer = later(c, w.last+w.length-now, (*Cluster).windowEnded)
	}
}

// windowEnded publishes the waiting changes.
func (c *Cluster) windowEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed && c.merge.timer != nil {
		c.merge.stop() // a later change starts another timer, also if Rand panics in publish
		c.publish(c.now())
	}
}

// publish makes picks use the health of the hosts. The caller holds mu.
func (c *Cluster) publish(now time.Duration) {
	_ = c.balancer.Refresh(now) // the hosts were accepted before
	c.merge.published(now)
	c.stats.tables(c.balancer.Stats())
}

// later calls do with c after d, unless c is no longer referenced then.
func later(c *Cluster, d time.Duration, do func(*Cluster)) *time.Timer {
	ref := weak.Make(c)
	return time.AfterFunc(d, func() {
		defer randPanicked()
		if c := ref.Value(); c != nil {
			do(c)
		}
	})
}

// randPanicked reports a panic of Rand in a goroutine of the cluster. It is to be deferred.
func randPanicked() {
	if p := recover(); p != nil {
		report.Panic("the function Rand of a cluster", p)
	}
}
