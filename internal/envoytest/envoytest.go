// Package envoytest finds and runs a real Envoy, for tests that compare with it.
package envoytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// startTime is how long Envoy may take to start.
const startTime = 20 * time.Second

// Find returns the path of a real Envoy: the one that PILLION_ENVOY names, or envoy on PATH; "" if
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
	// Egress is host and port of its listener, if it has only one.
	Egress string
	// Listeners is host and port of each listener, by its name.
	Listeners map[string]string

	dir    string // of its files
	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{}
	admin  string // host and port of the admin page
}

// Start runs an Envoy with one worker and the configuration that config returns for the folder of
// its files, as JSON or YAML. The configuration has one listener, and an admin page at any port. It
// must be closed.
func Start(ctx context.Context, binary string, config func(dir string) ([]byte, error)) (*Envoy, error) {
	return StartMany(ctx, binary, 1, config)
}

// StartMany is Start for a configuration with a number of listeners.
func StartMany(ctx context.Context, binary string, listeners int, config func(dir string) ([]byte, error)) (*Envoy, error) {
	dir, err := os.MkdirTemp("", "envoytest")
	if err != nil {
		return nil, err
	}
	e := &Envoy{dir: dir, ended: make(chan struct{})}
	if err := e.start(ctx, binary, listeners, config); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

func (e *Envoy) start(ctx context.Context, binary string, listeners int, config func(dir string) ([]byte, error)) error {
	text, err := config(e.dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(e.File("envoy.yaml"), text, 0o600); err != nil {
		return err
	}
	e.cmd = exec.CommandContext(ctx, binary, "-c", e.File("envoy.yaml"), "--use-dynamic-base-id", "--concurrency", "1", //nolint:gosec // the caller says which
		"--admin-address-path", e.File("admin"), "--file-flush-interval-msec", "10", "--log-level", "warning")
	e.cmd.Stdout, e.cmd.Stderr = &e.output, &e.output
	if err := e.cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(e.ended)
		_ = e.cmd.Wait() // it is killed in the end
	}()
	return e.await(ctx, listeners)
}

// File is the path of one of its files.
func (e *Envoy) File(name string) string { return filepath.Join(e.dir, name) }

// await waits for the listeners.
func (e *Envoy) await(ctx context.Context, listeners int) error {
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-e.ended:
			return fmt.Errorf("envoytest: Envoy ended: %s", e.output.String())
		default:
		}
		address, err := os.ReadFile(e.File("admin"))
		if err != nil {
			continue
		}
		e.admin = string(address)
		if e.Listeners, err = e.listeners(ctx); err == nil && len(e.Listeners) == listeners {
			e.Egress = e.only()
			return nil
		}
	}
	return errors.New("envoytest: Envoy was not ready in time")
}

// only returns host and port of the only listener, "" if there are more.
func (e *Envoy) only() (address string) {
	if len(e.Listeners) == 1 {
		for _, address = range e.Listeners {
			return address
		}
	}
	return ""
}

// listeners returns host and port of each listener, by its name.
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

// Close kills it, removes its files, and returns what it wrote.
func (e *Envoy) Close() (output string) {
	if e.cmd != nil && e.cmd.Process != nil {
		_ = e.cmd.Process.Kill() // it may have ended
		<-e.ended
		output = e.output.String()
	}
	_ = os.RemoveAll(e.dir) // a temporary directory
	return output
}
