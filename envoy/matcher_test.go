package envoy

import "testing"

func TestIsToken(t *testing.T) {
	for name, want := range map[string]bool{
		"x-retry": true, "X_Retry.2": true, "!#$%&'*+-.^_`|~": true,
		"": false, "x retry": false, "x-retry:": false, "x\tretry": false, "x\x7f": false, "é": false, ":path": false,
	} {
		if got := IsToken(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}
