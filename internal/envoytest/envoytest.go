// Package envoytest finds and runs a real Envoy, for tests that compare the library with it.
package envoytest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// startTime is how long Envoy may take to start.
const startTime = 20 * time.Second

// Find returns the path of a real Envoy: the value of PILLION_ENVOY, or envoy on PATH. It returns "" if
// there is none.
func Find() string {
	if binary := os.Getenv("PILLION_ENVOY"); binary != "" {
		return binary
	}
	binary, err := exec.LookPath("envoy")
	if err != nil {
		return ""
	}
	return binary
}

// Envoy is a running Envoy.
type Envoy struct {
	// Egress is the host and port of its listener, after [Envoy.Listen].
	Egress string
	// Listeners is the host and port of each listener, by its name, after [Envoy.ListenAll].
	Listeners map[string]string

	dir    string // of its files
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{}
	admin  string // the host and port of the admin page
}

// Start runs an Envoy with one worker. config returns the configuration, as JSON or YAML; its argument
// is the folder of the Envoy's files. The configuration must have an admin page at any port, which
// responds when Start returns; the listener may open later: see [Envoy.Listen]. The caller must close
// the Envoy.
func Start(ctx context.Context, binary string, config func(dir string) ([]byte, error)) (*Envoy, error) {
	dir, err := os.MkdirTemp("", "envoytest")
	if err != nil {
		return nil, err
	}
	e := &Envoy{dir: dir, ended: make(chan struct{})}
	if err := e.start(ctx, binary, config); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Envoy) start(ctx context.Context, binary string, config func(dir string) ([]byte, error)) error {
	text, err := config(e.dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.File("envoy.yaml"), text, 0o600); err != nil {
		return err
	}
	e.cmd = exec.CommandContext(ctx, binary, "-c", e.File("envoy.yaml"), "--use-dynamic-base-id", "--concurrency", "1", //nolint:gosec // the caller chooses the binary
		"--admin-address-path", e.File("admin"), "--file-flush-interval-msec", "10", "--log-level", "warning")
	e.cmd.Stdout, e.cmd.Stderr = &e.output, &e.output
	if err := e.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(e.ended)
		_ = e.cmd.Wait() // an error: Close kills it
	}()
	return e.await(ctx)
}

// File returns the path of one of its files.
func (e *Envoy) File(name string) string { return filepath.Join(e.dir, name) }

// await waits for the admin page.
func (e *Envoy) await(ctx context.Context) error {
	return e.until(ctx, "an admin page", func() bool {
		address, err := os.ReadFile(e.File("admin"))
		if err != nil {
			return false
		}
		e.admin = string(address)
		_, err = e.Page(ctx, "/ready")
		return err == nil
	})
}

// Listen waits for the only listener, which Egress names then. A listener opens when the clusters are
// ready: hosts with health checks must have been checked.
func (e *Envoy) Listen(ctx context.Context) error {
	if err := e.ListenAll(ctx, 1); err != nil {
		return err
	}
	for _, address := range e.Listeners { // there is one
		e.Egress = address
	}
	return nil
}

// ListenAll waits for n listeners, which Listeners names then.
func (e *Envoy) ListenAll(ctx context.Context, n int) error {
	return e.until(ctx, "its listeners", func() bool {
		found, err := e.listeners(ctx)
		e.Listeners = found
		return err == nil && len(found) == n
	})
}

// until waits until done, as long as Envoy may take to start.
func (e *Envoy) until(ctx context.Context, what string, done func() bool) error {
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-e.ended:
			return fmt.Errorf("envoytest: Envoy ended: %s", start(e.output.String()))
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if done() {
			return nil
		}
	}
	return fmt.Errorf("envoytest: Envoy had not %s within %v", what, startTime)
}

// start returns the start of what Envoy wrote: an error repeats the configuration.
func start(output string) string { return output[:min(len(output), 1000)] }

// listeners returns the host and port of each listener, by its name.
func (e *Envoy) listeners(ctx context.Context) (map[string]string, error) {
	page, err := e.Page(ctx, "/listeners?format=json")
	if err != nil {
		return nil, err
	}
	var listed struct {
		Statuses []struct {
			Name  string `json:"name"`
			Local struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := json.Unmarshal(page, &listed); err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, l := range listed.Statuses {
		found[l.Name] = net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Local.Socket.Port))
	}
	return found, nil
}

// Page reads a page of the admin interface.
func (e *Envoy) Page(ctx context.Context, target string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.admin+target, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // it was read
	return io.ReadAll(resp.Body)
}

// Stats reads the counters and gauges whose names match a regular expression.
func (e *Envoy) Stats(ctx context.Context, filter string) (map[string]uint64, error) {
	text, err := e.Page(ctx, "/stats?filter="+url.QueryEscape(filter))
	if err != nil {
		return nil, err
	}
	stats := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			stats[name] = n
		}
	}
	return stats, nil
}

// Close kills the Envoy, removes its files, and returns its log.
func (e *Envoy) Close() (output string) {
	if e.cmd != nil && e.cmd.Process != nil {
		_ = e.cmd.Process.Kill() // it may have ended
		<-e.ended
		output = e.output.String()
	}
	_ = os.RemoveAll(e.dir) // a temporary directory
	return output
}
