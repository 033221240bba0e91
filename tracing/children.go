package tracing

import (
	"errors"
	"reflect"

	"github.com/aws/aws-xray-sdk-go/v2/xray"
)

// The SDK keeps the subsegments of its subsegments in a field that it does not
// export, and its own emitter is the only one that can read it. They are read by
// reflection: pinned to the one version that is known, checked when a tracer is made, and
// covered by a test. Nothing is ever written there.
//
//nolint:gochecknoglobals // the index of a field in a type never changes
var childrenField, childrenKnown = findChildren()

func findChildren() ([]int, bool) {
	f, ok := reflect.TypeFor[xray.Segment]().FieldByName("rawSubsegments")
	if !ok || f.Type != reflect.TypeFor[[]*xray.Segment]() {
		return nil, false
	}
	return f.Index, true
}

var errUnknownSDK = errors.New("tracing: this version of aws-xray-sdk-go keeps subsegments in another way than v2.0.3; pin v2.0.3")

// children gives the subsegments that the SDK made within x. The caller holds x's
// lock. Those of a document of ours are sent on their own, and are none.
func children(x *xray.Segment) []*xray.Segment {
	if owner(x) != nil {
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
