package health_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pillion-go/pillion/cluster/internal/health"
)

var (
	_ health.Dialer = (*net.Dialer)(nil)
	_ health.Dialer = (*tls.Dialer)(nil)
)

// listen runs serve for each connection, with its number, until the test ends.
func listen(t *testing.T, serve func(conn net.Conn, number int)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for number := 1; ; number++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn, number)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// respond sends parts, one after another, for each request of 4 bytes.
func respond(parts ...string) func(net.Conn, int) {
	return func(conn net.Conn, _ int) {
		request := make([]byte, 4)
		for {
			if _, err := conn.Read(request); err != nil {
				return
			}
			for _, part := range parts {
				if _, err := conn.Write([]byte(part)); err != nil {
					return
				}
				time.Sleep(time.Millisecond) // so that parts arrive apart
			}
		}
	}
}

func hang(conn net.Conn, _ int) { _, _ = io.Copy(io.Discard, conn) }

func closeFirst(net.Conn, int) {}

func probe(t *testing.T, p *health.TCPProber, limit time.Duration) health.Verdict {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	return p.Probe(ctx)
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	ping := func(receive ...string) health.TCPConfig {
		c := health.TCPConfig{Send: []byte("ping")}
		for _, r := range receive {
			c.Receive = append(c.Receive, []byte(r))
		}
		return c
	}
	passed := health.Verdict{Result: health.Passed}
	for name, test := range map[string]struct {
		config  health.TCPConfig
		address string
		limit   time.Duration
		want    health.Verdict
	}{
		"connect":              {health.TCPConfig{}, listen(t, hang), 0, passed},
		"refused":              {health.TCPConfig{}, gone, 0, health.Verdict{Failure: health.Network}},
		"closed after connect": {health.TCPConfig{}, listen(t, closeFirst), 0, passed},
		"send without receive": {ping(), listen(t, closeFirst), 0, passed},
		"pong":                 {ping("pong"), listen(t, respond("pong")), 0, passed},
		"pong among others":    {ping("po", "ng"), listen(t, respond("--po--ng--")), 0, passed},
		"pong in parts":        {ping("pong", "!"), listen(t, respond("p", "on", "g", "!")), 0, passed},
		"wrong order":          {ping("ng", "po"), listen(t, respond("pong")), 50 * time.Millisecond, health.Verdict{Failure: health.NetworkTimeout}},
		"no pong":              {ping("pong"), listen(t, hang), 50 * time.Millisecond, health.Verdict{Failure: health.NetworkTimeout}},
		"closed before pong":   {ping("pong"), listen(t, closeFirst), 0, health.Verdict{Failure: health.Network}},
		"receive alone": {health.TCPConfig{Receive: [][]byte{[]byte("220")}}, listen(t, func(conn net.Conn, n int) {
			_, _ = conn.Write([]byte("220 ready\r\n"))
			hang(conn, n)
		}), 0, passed},
		"flood": {ping("pong"), listen(t, func(conn net.Conn, _ int) {
			var err error
			for err == nil {
				_, err = conn.Write(bytes.Repeat([]byte("po"), 4096))
			}
		}), 50 * time.Millisecond, health.Verdict{Failure: health.NetworkTimeout}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := health.NewTCPProber(test.config, &net.Dialer{}, "tcp", test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			limit := test.limit
			if limit == 0 {
				limit = 10 * time.Second
			}
			got := probe(t, p, limit)
			if diff := cmp.Diff(test.want, got, cmpopts.IgnoreFields(health.Verdict{}, "Err")); diff != "" {
				t.Errorf("(-want +got):\n%s\n%v", diff, got.Err)
			}
		})
	}
}

// TestTCPReuse: the connection is kept, unless CloseConnections says otherwise, and one that
// the host closed fails one check.
func TestTCPReuse(t *testing.T) {
	t.Parallel()
	for closing, want := range map[bool]int{false: 1, true: 3} {
		connections := make(chan int, 10)
		address := listen(t, func(conn net.Conn, number int) {
			connections <- number
			respond("pong")(conn, number)
		})
		c := health.TCPConfig{Send: []byte("ping"), Receive: [][]byte{[]byte("pong")}, CloseConnections: closing}
		p, err := health.NewTCPProber(c, &net.Dialer{}, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if v := probe(t, p, 10*time.Second); v.Result != health.Passed {
				t.Errorf("got %+v, want passed", v)
			}
		}
		p.Close()
		if got := len(connections); got != want {
			t.Errorf("CloseConnections %v: got %d connections for 3 checks, want %d", closing, got, want)
		}
	}
	address := listen(t, func(conn net.Conn, _ int) {
		_, _ = conn.Read(make([]byte, 4))
		_, _ = conn.Write([]byte("pong"))
	})
	p, err := health.NewTCPProber(health.TCPConfig{Send: []byte("ping"), Receive: [][]byte{[]byte("pong")}}, &net.Dialer{}, "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i, want := range []health.Result{health.Passed, health.Failed, health.Passed} {
		if got := probe(t, p, 10*time.Second); got.Result != want {
			t.Errorf("check %d of a host that closes: got %+v, want result %v", i+1, got, want)
		}
	}
}

// pipes makes connections whose other end is closed.
type pipes struct{}

func (pipes) DialContext(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	return near, far.Close()
}

// TestTCPWriteFails: a connection that cannot be written to is a failure of the network, and is
// not kept.
func TestTCPWriteFails(t *testing.T) {
	t.Parallel()
	p, err := health.NewTCPProber(health.TCPConfig{Send: []byte("ping"), Receive: [][]byte{[]byte("pong")}}, pipes{}, "tcp", "")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := probe(t, p, 10*time.Second); got.Result != health.Failed || got.Failure != health.Network || !errors.Is(got.Err, io.ErrClosedPipe) {
			t.Errorf("got %+v, want a failure of the network, %v", got, io.ErrClosedPipe)
		}
	}
}

func TestTCPCheck(t *testing.T) {
	t.Parallel()
	_, err := health.NewTCPProber(health.TCPConfig{Receive: [][]byte{[]byte("a"), nil}}, &net.Dialer{}, "tcp", "")
	if want := "health: TCPConfig.Receive[1]: the segment is empty; remove it"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
