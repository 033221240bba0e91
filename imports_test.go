package pillion_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const modulePath = "github.com/pillion-go/pillion"

// imported returns the dependencies of a package, without those of its tests.
func imported(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", pkg).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "runtime") {
		t.Fatalf("%s: got %q, want its dependencies", pkg, deps)
	}
	return deps
}

// TestImports keeps light what every program compiles: a program that guards HTTP calls must not
// build gRPC, Prometheus or the X-Ray SDK. What needs them has its own package.
func TestImports(t *testing.T) {
	heavy := map[string]string{
		"google.golang.org/grpc": "gRPC belongs to the gRPC adapter alone",
		"github.com/prometheus/": "Prometheus belongs to metrics alone",
		"github.com/aws/":        "the X-Ray SDK belongs to tracing alone",
	}
	for _, pkg := range []string{".", "./policy", "./breaker", "./retry", "./timeout", "./limits", "./cluster", "./fault", "./ratelimit", "./hedge"} {
		for _, dep := range imported(t, pkg) {
			for prefix, why := range heavy {
				if strings.HasPrefix(dep, prefix) {
					t.Errorf("%s imports %s: %s", pkg, dep, why)
				}
			}
		}
	}
}

// TestImports_direction pins that imports point one way: from package pillion to the policies, from
// those to the engine, and from that to package envoy. Any package may import the others of this
// list that are below it, and internal ones.
func TestImports_direction(t *testing.T) {
	policies := []string{"breaker", "retry", "timeout", "limits", "cluster", "fault", "ratelimit", "hedge", "metrics", "tracing"}
	below := map[string][]string{"envoy": {}, "policy": {"envoy"}}
	for _, pkg := range policies {
		below[pkg] = []string{"envoy", "policy"}
	}
	for pkg, allowed := range below {
		for _, dep := range imported(t, "./"+pkg) {
			name, ours := strings.CutPrefix(dep, modulePath)
			name = strings.TrimPrefix(name, "/")
			own := name == pkg || strings.HasPrefix(name, pkg+"/") || strings.HasPrefix(name, "internal/")
			if ours && !own && !slices.Contains(allowed, name) {
				t.Errorf("%s imports %q, want only %q", pkg, dep, allowed)
			}
		}
	}
}

// TestImports_protocols pins that the engine, Envoy's vocabulary and the policies that need no HTTP
// do not import it.
func TestImports_protocols(t *testing.T) {
	for _, pkg := range []string{"./policy", "./envoy", "./breaker", "./retry", "./timeout", "./hedge"} {
		if slices.Contains(imported(t, pkg), "net/http") {
			t.Errorf("%s imports net/http: it belongs to the HTTP adapter", pkg)
		}
	}
}
