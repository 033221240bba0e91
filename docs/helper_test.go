package docs_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
)

// roundTripper is a function as an [http.RoundTripper].
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// kitchen is a server in memory. It responds with its statuses, one after the other, and
// then with 200.
func kitchen(statuses ...int) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		status := http.StatusOK
		if len(statuses) != 0 {
			status, statuses = statuses[0], statuses[1:]
		}
		return respond(req, status), nil
	})
}

// down is a server in memory that responds with 503 to each request for host.
func down(host string) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if req.URL.Host == host {
			return respond(req, http.StatusServiceUnavailable), nil
		}
		return respond(req, http.StatusOK), nil
	})
}

func respond(req *http.Request, status int) *http.Response {
	if req.Body != nil {
		_ = req.Body.Close()
	}
	text := "soup"
	if status != http.StatusOK {
		text = http.StatusText(status)
	}
	header := http.Header{}
	if status == http.StatusTooManyRequests {
		header.Set("Retry-After", "1")
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(text)), Request: req}
}

// get returns the text of a page. A status other than 200 is an error.
func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	return string(text), err
}

// withoutTime is a logger to the standard output. It leaves the time out, which would
// differ in each run.
func withoutTime() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// menus is a driver of database/sql. Its first query fails, as after a deadlock; the next
// ones return one row.
type menus struct{ queries int }

var errDeadlock = errors.New("deadlock found when trying to get lock")

func (m *menus) Open(string) (driver.Conn, error)           { return m, nil }
func (m *menus) Begin() (driver.Tx, error)                  { return nil, errors.ErrUnsupported }
func (m *menus) Close() error                               { return nil }
func (m *menus) Prepare(string) (driver.Stmt, error)        { return m, nil }
func (m *menus) NumInput() int                              { return -1 }
func (m *menus) Exec([]driver.Value) (driver.Result, error) { return nil, errors.ErrUnsupported }

func (m *menus) Query([]driver.Value) (driver.Rows, error) {
	if m.queries++; m.queries == 1 {
		return nil, errDeadlock
	}
	return &oneRow{}, nil
}

// oneRow is a result of one row.
type oneRow struct{ read bool }

func (r *oneRow) Columns() []string { return []string{"name"} }
func (r *oneRow) Close() error      { return nil }

func (r *oneRow) Next(to []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, to[0] = true, "leek soup"
	return nil
}

// connector opens connections of one driver.
type connector struct{ of driver.Driver }

func driverOf(d driver.Driver) driver.Connector { return connector{d} }

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.of.Open("") }
func (c connector) Driver() driver.Driver                        { return c.of }

// hosts starts servers that respond with these statuses, for as long as the test binary runs.
func hosts(statuses ...int) (addresses []string) {
	for _, status := range statuses {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		addresses = append(addresses, s.Listener.Addr().String())
	}
	return addresses
}
