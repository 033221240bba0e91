// Package tracing records requests and calls in AWS X-Ray, as the Ruby gem aws-xray does.
// Code that uses aws-xray-sdk-go/v2 works within its segments.
//
// A [Tracer] makes segments and sends them to the X-Ray daemon. Its handler begins a
// segment for each request, the policies [Client] and [Attempts] record the calls that are
// made within it, and [StartSubsegment] records other work:
//
//	cfg, err := tracing.FromEnv(tracing.Config{Name: "front"})
//	if err != nil {
//		log.Fatal(err) // each bad variable, by name
//	}
//	tracer, err := tracing.New(cfg)
//	if err != nil {
//		log.Fatal(err) // each bad field
//	}
//	defer tracer.Close(context.Background())
//
//	recipes, err := pillion.New("recipes", Client{Tracer: tracer}, breaker.Config{})
//	if err != nil {
//		log.Fatal(err)
//	}
//	client := &http.Client{Transport: recipes.Transport(nil)}
//	http.ListenAndServe(":8080", tracer.Handler(front(client)))
//
// # What is sent
//
// Each segment and each subsegment is a separate document in a separate packet, sent when
// it ends. The gem does the same; the SDK sends the whole tree of a request at its end. The
// parent of a subsegment is the one in which it was begun. A trace that is not sampled has
// real ids and headers, and sends nothing.
//
// Ending a segment puts it into a bounded queue and never blocks; one goroutine writes the
// documents and sends them. A document that does not fit into the queue or cannot be sent
// is dropped, counted in [Tracer.Stats] and reported to [Config] OnError. A document over
// 64 KiB is split by its subsegments, or cut and marked.
//
// # Untrusted callers
//
// A trace header is trusted from any caller, as in AWS's SDKs; with [Config] IgnoreSampled,
// the configured sampling decides nevertheless. X-Aws-Xray-Name is not trusted, unless
// [Client] CallerNames is set. Strings of a request are cut when they are recorded; at most
// 1 KiB of printable ASCII is sent on.
//
// # With the X-Ray SDK
//
// The segment in the context is an *xray.Segment. So xray.AddAnnotation,
// xray.BeginSubsegment, xray.Capture, xray.SQLContext and the instrumentation of the AWS
// SDK work within segments of this package, and their data is sent through its queue. A
// segment that the SDK began, for example in xray.Handler, is continued: subsegments within
// it are part of its trace. [Segment.XRay] returns the SDK's view of a segment.
//
// Importing this package imports the SDK's package xray, with gRPC and fasthttp. No other
// package of this module does.
//
// # Differences
//
// docs/aws-xray.md lists each difference from the gem and from the SDK, with its reason and
// its test, and describes how to port a service.
package tracing
