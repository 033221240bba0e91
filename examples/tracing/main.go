// Tracing runs three services on loopback: front, recipe and user. They call each other
// through pillion and share one X-Ray trace, which the program prints as a tree. It reads the
// trace from the packets that the services sent.
//
//	go run ./examples/tracing
//	go run ./examples/tracing -daemon 127.0.0.1:2000   # send to this daemon and print no tree
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/pillion-go/pillion"
	"github.com/pillion-go/pillion/breaker"
	"github.com/pillion-go/pillion/retry"
	"github.com/pillion-go/pillion/timeout"
	"github.com/pillion-go/pillion/tracing"
)

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("tracing", flag.ContinueOnError)
	flags.SetOutput(out)
	address := flags.String("daemon", "", "send to the X-Ray daemon at this `address`, and print no tree")
	if err = flags.Parse(args); err != nil {
		return err
	}
	var own *daemon
	if *address == "" {
		if own, err = listen(ctx); err != nil {
			return err
		}
		defer own.close()
		*address = own.address()
	}
	s := &services{daemon: *address}
	front, err := s.start()
	if err != nil {
		return errors.Join(err, s.stop(ctx))
	}
	response := get(ctx, front)
	if err = s.stop(ctx); err != nil { // all documents are sent now
		return err
	}
	if _, err = fmt.Fprintf(out, "GET /menu → %s\n", response); err != nil {
		return err
	}
	if own == nil {
		return nil
	}
	docs, err := own.take(s.sent)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, tree(docs)+legend)
	return err
}

// legend says how to read the tree.
const legend = `
■ is the segment of a service that served a request. The lines below it are its
subsegments: calls, and their attempts (remote). FAULT is a status >= 500.
`

// get requests the menu and returns the status and the body.
func get(ctx context.Context, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/menu?for=two", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return resp.Status + " " + string(body)
}

// services are the three services. Each has its own server and tracer, as if it were a
// process.
type services struct {
	daemon  string
	servers []*httptest.Server
	tracers []*tracing.Tracer
	sent    uint64 // packets; set by stop
}

// start starts user, recipe and front, and returns the URL of front.
func (s *services) start() (url string, err error) {
	user, err := s.serve("user", nil, func(w http.ResponseWriter, _ *http.Request, _ *http.Client, _ string) {
		reply(w, "for two")
	})
	if err != nil {
		return "", err
	}
	failures := 1
	recipe, err := s.serve("recipe", map[string]string{"user": user}, func(w http.ResponseWriter, r *http.Request, c *http.Client, user string) {
		if failures > 0 { // the first attempt: front retries it
			failures--
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		taste := fetch(r.Context(), c, user)
		_ = tracing.Capture(r.Context(), "choose", func(ctx context.Context) error {
			tracing.Current(ctx).Annotate("dish", "soup")
			return nil
		})
		reply(w, "soup "+taste)
	})
	if err != nil {
		return "", err
	}
	return s.serve("front", map[string]string{"recipe": recipe}, func(w http.ResponseWriter, r *http.Request, c *http.Client, recipe string) {
		reply(w, fetch(r.Context(), c, recipe))
	})
}

// handler serves the requests of a service. It may call its upstream at url.
type handler func(w http.ResponseWriter, r *http.Request, c *http.Client, url string)

// serve starts a service that calls at most one upstream, given by name and URL.
func (s *services) serve(name string, upstream map[string]string, h handler) (url string, err error) {
	cfg, err := tracing.FromEnv(tracing.Config{Name: name, Version: "1.0"})
	if err != nil {
		return "", err
	}
	cfg.Name, cfg.Daemon = name, s.daemon
	tracer, err := tracing.New(cfg)
	if err != nil {
		return "", err
	}
	s.tracers = append(s.tracers, tracer)
	client, target := http.DefaultClient, ""
	for callee, address := range upstream {
		u, err := pillion.New(callee,
			tracing.Client{Tracer: tracer},
			timeout.Config{Total: 5 * time.Second},
			retry.Config{On: "5xx", NumRetries: 2},
			tracing.Attempts{Tracer: tracer, Traced: true},
			breaker.Config{},
		)
		if err != nil {
			return "", err
		}
		client, target = &http.Client{Transport: u.Transport(nil)}, address
	}
	server := httptest.NewServer(tracer.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h(w, r, client, target)
	})))
	s.servers = append(s.servers, server)
	return server.URL, nil
}

// stop stops the servers, then the tracers.
func (s *services) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, server := range s.servers {
		server.Close()
	}
	var errs []error
	for _, t := range s.tracers {
		errs = append(errs, t.Close(ctx))
		s.sent += t.Stats().Sent
		if lost := t.Stats().Dropped(); lost != 0 {
			errs = append(errs, fmt.Errorf("tracing: %d documents were dropped", lost))
		}
	}
	return errors.Join(errs...)
}

// fetch calls another service and returns its word.
func fetch(ctx context.Context, c *http.Client, url string) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }() // it has been read
	var word string
	if err := json.NewDecoder(resp.Body).Decode(&word); err != nil {
		return err.Error()
	}
	return word
}

func reply(w http.ResponseWriter, word string) { _ = json.NewEncoder(w).Encode(word) }
