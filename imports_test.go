package pillion_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestImports keeps what every user compiles light: whoever guards HTTP calls must
// not build gRPC, Prometheus or the X-Ray SDK for it. What brings them has a package of
// its own.
func TestImports(t *testing.T) {
	heavy := map[string]string{
		"google.golang.org/grpc": "gRPC belongs to the gRPC adapter alone",
		"github.com/prometheus/": "Prometheus belongs to metrics alone",
		"github.com/aws/":        "the X-Ray SDK belongs to tracing alone",
	}
	for _, pkg := range []string{".", "./breaker", "./retry", "./timeout", "./limits"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", pkg, err)
		}
		if !strings.Contains(string(out), "net/http\n") {
			t.Errorf("%s: got %q, want its dependencies", pkg, out)
		}
		for dep := range strings.SplitSeq(string(out), "\n") {
			for prefix, why := range heavy {
				if strings.HasPrefix(dep, prefix) {
					t.Errorf("%s imports %s: %s", pkg, dep, why)
				}
			}
		}
	}
}
