// Package tracing records requests and calls in AWS X-Ray, as the Ruby gem aws-xray
// does, and so that code which uses aws-xray-sdk-go/v2 works within.
//
// A [Tracer] makes segments and sends them to the X-Ray daemon. Its handler begins a
// segment for each request, the policies [Client] and [Attempts] record the calls that are
// made within, and [StartSubsegment] records other work:
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
// Each segment and each subsegment is a document of its own, in a packet of its
// own, sent when it ends: as the gem does it, and unlike the SDK, which sends a request's
// whole tree at its end. A subsegment's parent is the one that it was begun in. A trace
// that is not sampled has real ids and headers, and sends nothing.
//
// Ending a segment puts it into a bounded queue and never waits; one goroutine writes
// the documents and sends them. What does not fit, or cannot be sent, is dropped, counted
// in [Tracer.Stats] and reported to [Config] OnError. A document over 64 KiB is split by
// its subsegments, or cut with a mark.
//
// # What strangers can do
//
// A trace header is believed from any caller, as AWS's SDKs do: [Config] IgnoreSampled
// has the configured sampling decide nevertheless. X-Aws-Xray-Name is not, unless [Client]
// CallerNames is set. What a request brings is cut when it is recorded; what of it is sent
// on has at most 1 KiB of printable ASCII.
//
// # With the X-Ray SDK
//
// The segment in the context is an *xray.Segment, so xray.AddAnnotation,
// xray.BeginSubsegment, xray.Capture, xray.SQLContext and the instrumentation of the AWS
// SDK work within segments of this package, and what they record is sent through its queue. A
// segment that the SDK began, in xray.Handler say, is gone on with: subsegments within it
// are part of its trace. [Segment.XRay] gives the SDK's view of a segment.
//
// Importing this package imports the SDK's package xray, with gRPC and fasthttp; nothing
// else in this module does.
//
// # Differences
//
// docs/aws-xray.md lists each difference from the gem and from the SDK, with its
// reason and its test, and says how to port a service.
package tracing
