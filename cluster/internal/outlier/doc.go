// Package outlier implements Envoy's outlier detection as a pure core: from the results of
// calls, it determines which hosts of a cluster are ejected, and for how long. It mirrors
// Envoy 1.40, message OutlierDetection and statistics outlier_detection.*.
//
// # Model
//
// A [Detector] holds the hosts of one cluster. It has no clock, no timer and no goroutine:
// each method takes the current time. [Detector.Report] takes results. [Detector.Tick] does
// the work that Envoy does once per interval. There are five kinds of detection:
//
//   - a run of 5xx responses, of gateway failures (502, 503, 504), or of failures of local
//     origin. The Report that completes a run detects it, and a new run starts, whether the
//     host is ejected or not;
//   - a success rate too far below the mean of all hosts, and a percentage of failures that
//     is too high. Tick evaluates both, over the results since the previous tick.
//
// A detection ejects the host if the cluster may have one more ejected host
// ([Config.MaxEjectionPercent]), with the enforcing percentage of its kind as the
// probability. The ejection ends at the first tick after the ejection time, which grows with
// each ejection and shrinks with each interval in which the host was not ejected. With
// [Config.DetectDegradedHosts], a response with x-envoy-degraded marks its host as degraded
// in the same way.
//
// # Driving a Detector
//
// Report and Tick return a [Step]. Its Events describe the changes. If its Next is not zero,
// the caller must call Tick once at that time:
//
//	step := detector.Report(host, outlier.Result{Outcome: outlier.RequestFailed, Code: 503}, time.Now())
//	if !step.Next.IsZero() {
//		time.AfterFunc(time.Until(step.Next), tick)
//	}
//
// At most one Next is outstanding at a time. An idle detector has none, and needs no time
// until the next result: it omits ticks that change nothing, and later ticks stay on the same
// grid of intervals.
//
// # Differences from Envoy
//
//   - A host that is detected by its success rate and its failure percentage at the same tick
//     is ejected once. Envoy ejects it twice, so that its ejection lasts twice as long and
//     ejections_active never falls back to 0. Both detections are counted here too.
//   - Envoy counts results in worker threads and ejects in its main thread; results that
//     arrive in between are counted. Here a detection takes effect before Report returns.
//   - An ejection that began at a tick has lasted for n intervals at the nth tick after it. In
//     Envoy it may have lasted for a little less, depending on the load of the machine, and
//     then ends or shrinks one tick later.
//   - The jitter of an ejection and that of a degradation are two values, not one.
package outlier
