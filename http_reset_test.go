package pillion

import (
	"net/http"
	"reflect"
	"testing"

	"github.com/pillion-go/pillion/policy"
)

// TestHTTPAttempt_reset sets all fields: what reset leaves would reach the next call.
func TestHTTPAttempt_reset(t *testing.T) {
	a := httpAttempt{
		of: &policy.Attempt{}, guarded: true, header: http.Header{}, body: &body{}, room: &wireContext{},
		resp: &http.Response{}, source: &source{}, wire: &wire{}, replay: &replayReader{}, sizes: &sizes{},
	}
	for field, v := range reflect.ValueOf(a).Fields() {
		if v.IsZero() {
			t.Errorf("the test does not set %s", field.Name)
		}
	}
	of := a.of
	a.reset()
	for field, v := range reflect.ValueOf(a).Fields() {
		if kept := field.Name == "of"; v.IsZero() == kept {
			t.Errorf("after reset %s is %v", field.Name, v)
		}
	}
	if a.of != of {
		t.Error("reset changed the attempt")
	}
}
