package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// findEnvoy returns the path of an Envoy, "" if there is none.
func findEnvoy() string {
	if path := os.Getenv("PILLION_ENVOY"); path != "" {
		return path
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return ""
	}
	return path
}

// sidecar is a running Envoy.
type sidecar struct {
	egress string // where it listens for calls
	admin  string
	pid    int
	stop   func()
}

// startSidecar runs Envoy in front of the server. It must be stopped.
func startSidecar(ctx context.Context, binary string, p policy, s *server) (*sidecar, error) {
	config, err := p.envoy(s.Listener.Addr().String(), s.grpc, s.refusing)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "compare-")
	if err != nil {
		return nil, err
	}
	file, admin := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	if err = os.WriteFile(file, config, 0o600); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	ctx, kill := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, binary, "-c", file, "--use-dynamic-base-id", //nolint:gosec // the user names it
		"--concurrency", strconv.Itoa(sidecarThreads), "--admin-address-path", admin, "--log-level", "critical")
	ended := make(chan error, 1)
	e := &sidecar{stop: func() {
		kill()
		for range ended { // until it is closed, when Envoy has ended
		}
		_ = os.RemoveAll(dir)
	}}
	if err = cmd.Start(); err != nil {
		close(ended)
		e.stop()
		return nil, err
	}
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	e.pid = cmd.Process.Pid
	if err = e.await(ctx, admin, ended); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// sidecarThreads is the number of workers that a sidecar usually has.
const sidecarThreads = 2

// startTime is how long Envoy may take to start.
const startTime = 15 * time.Second

// await waits until Envoy listens, and reads where.
func (e *sidecar) await(ctx context.Context, admin string, ended <-chan error) error {
	for deadline := time.Now().Add(startTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("compare: Envoy ended immediately: %w", err)
		default:
		}
		address, err := os.ReadFile(admin) //nolint:gosec // this program chose its name
		if err != nil {
			continue
		}
		e.admin = "http://" + string(address)
		if port, err := e.port(ctx); err == nil {
			e.egress = fmt.Sprintf("http://127.0.0.1:%d", port)
			return nil
		}
	}
	return errors.New("compare: Envoy did not start in time")
}

// port reads the port of Envoy's listener.
func (e *sidecar) port(ctx context.Context) (int, error) {
	var response struct {
		Listeners []struct {
			Local struct {
				Socket struct {
					Port int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := getJSON(ctx, e.admin+"/listeners?format=json", &response); err != nil {
		return 0, err
	}
	if len(response.Listeners) != 1 {
		return 0, errors.New("compare: Envoy has no listener yet")
	}
	return response.Listeners[0].Local.Socket.Port, nil
}

func getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return json.NewDecoder(resp.Body).Decode(into)
}
