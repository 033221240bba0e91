package tracing

import (
	"context"
	"log/slog"
	"reflect"
	"sync"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// The SDK keeps nested subsegments in an unexported field, which only its own emitter can
// read. This package reads the field by reflection, in the known version of the SDK, and
// never writes to it. If another version stores the subsegments elsewhere, they are not
// sent, and the first tracer logs a warning.
//
//nolint:gochecknoglobals // the index of a field in a type never changes
var (
	childrenField, childrenKnown = findChildren(reflect.TypeFor[xray.Segment]())
	childrenReported             sync.Once
)

// findChildren returns the index of the field in the segment type of SDK v2.0.3.
func findChildren(segment reflect.Type) ([]int, bool) {
	f, ok := segment.FieldByName("rawSubsegments")
	if !ok || f.Type != reflect.TypeFor[[]*xray.Segment]() {
		return nil, false
	}
	return f.Index, true
}

// reportUnknownSDK logs once that the field was not found.
func reportUnknownSDK() {
	if childrenKnown {
		return
	}
	childrenReported.Do(func() {
		slog.LogAttrs(context.Background(), slog.LevelWarn,
			"tracing: this version of aws-xray-sdk-go stores subsegments differently from v2.0.3: subsegments within the SDK's own subsegments are not sent")
	})
}

// children returns the subsegments that the SDK made within x. It returns none for a
// document of this package, whose subsegments are sent separately. The caller holds x's
// lock.
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
