// Package outlier is Envoy's outlier detection as a pure core: it decides, from the
// results of calls alone, which hosts of a cluster are worse than they may be, and for how
// long they are ejected. It mirrors Envoy 1.40, message OutlierDetection and statistics
// outlier_detection.*.
//
// # Model
//
// A [Detector] holds the hosts of one cluster. It has no clock, no timer and no goroutine:
// each method takes the instant at which it happens. Results arrive through
// [Detector.Report]; what Envoy does once per interval happens in [Detector.Tick]. Five kinds
// of detection exist:
//
//   - a run of 5xx responses, of gateway failures (502, 503, 504), or of failures of local
//     origin. A run is detected in the Report that completes it, and starts anew then,
//     whether the host is ejected or not;
//   - a success rate too far below the mean of all hosts, and a percentage of failures that
//     is too high. Both are judged by Tick, over the results since the tick before.
//
// A detection ejects the host if the cluster has room for one more ejected host
// ([Config.MaxEjectionPercent]) and if the enforcing percentage of its kind says so. The
// host returns at the first tick after its ejection time, which grows with each ejection and
// shrinks with each interval in which the host was not ejected. With
// [Config.DetectDegradedHosts], a response that carries x-envoy-degraded marks its host as
// degraded in the same manner.
//
// # Driving a Detector
//
// Report and Tick return a [Step]. Its Events say what changed. If its Next is not zero, the
// caller arranges for one call of Tick at that instant:
//
//	step := detector.Report(host, outlier.Result{Outcome: outlier.RequestFailed, Code: 503}, time.Now())
//	if !step.Next.IsZero() {
//		time.AfterFunc(time.Until(step.Next), tick)
//	}
//
// At most one Next is outstanding at a time. A detector that has nothing to do has none, and
// costs nothing until the next result: ticks that change nothing are left out, and those that
// follow stay on the same grid of intervals.
//
// # Differences from Envoy
//
//   - A host that is beyond the success rate and beyond the failure percentage at the same
//     tick is ejected once. Envoy ejects it twice, so that its ejection lasts twice as long
//     and ejections_active never falls back to 0. Both detections count here too.
//   - Envoy counts results in worker threads and ejects in its main thread; results that
//     arrive in between still count. Here a detection acts before Report returns.
//   - What began at a tick has lasted for n intervals at the nth tick that follows. In Envoy it
//     may have lasted for a little less, depending on the load of the machine; an ejection
//     then ends one tick later, or shrinks one tick later.
//   - The jitter of an ejection and that of a degradation are two values, not one.
package outlier
