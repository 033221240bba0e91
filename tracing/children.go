package tracing

import (
	"context"
	"log/slog"
	"reflect"
	"sync"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// The SDK keeps the subsegments of its subsegments in a field that it does not
// export, and its own emitter is the only one that can read it. They are read by
// reflection, from the version that is known. Nothing is ever written there. Where another
// version keeps them otherwise, they are not sent, and the first tracer reports it.
//
//nolint:gochecknoglobals // the index of a field in a type never changes
var (
	childrenField, childrenKnown = findChildren(reflect.TypeFor[xray.Segment]())
	childrenReported             sync.Once
)

// findChildren returns the index of the field of v2.0.3 in the SDK's segment.
func findChildren(segment reflect.Type) ([]int, bool) {
	f, ok := segment.FieldByName("rawSubsegments")
	if !ok || f.Type != reflect.TypeFor[[]*xray.Segment]() {
		return nil, false
	}
	return f.Index, true
}

// reportUnknownSDK logs once that the field is not known.
func reportUnknownSDK() {
	if childrenKnown {
		return
	}
	childrenReported.Do(func() {
		slog.LogAttrs(context.Background(), slog.LevelWarn,
			"tracing: this version of aws-xray-sdk-go keeps subsegments otherwise than v2.0.3: those within its own subsegments are not sent")
	})
}

// children returns the subsegments that the SDK made within x. The caller holds x's
// lock. Those of a document of ours are sent on their own, and are none.
func children(x *xray.Segment) []*xray.Segment {
	if owner(x) != nil || !childrenKnown {
		return nil
	}
	v := reflect.ValueOf(x).Elem().FieldByIndex(childrenField)
	if v.Len() == 0 {
		return nil
	}
	found := make([]*xray.Segment, 0, v.Len())
	for i := range v.Len() {
		if child := (*xray.Segment)(v.Index(i).UnsafePointer()); child != nil {
			found = append(found, child)
		}
	}
	return found
}
