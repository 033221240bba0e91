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
	for i, v := 0, reflect.ValueOf(a); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the test does not set %s", v.Type().Field(i).Name)
		}
	}
	want := httpAttempt{of: a.of}
	if a.reset(); !reflect.DeepEqual(a, want) {
		t.Errorf("after reset it is %+v, want %+v", a, want)
	}
}
