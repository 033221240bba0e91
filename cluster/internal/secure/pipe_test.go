package secure

import (
	"io"
	"net"
	"sync"
	"time"
)

// end is one end of a connection in memory. Unlike those of net.Pipe, writing does not wait for
// the reader, whose TLS may want to write itself before it reads all.
type end struct {
	net.Conn // not used
	in, out  chan []byte
	once     sync.Once
	rest     []byte
}

// pipe returns the ends of a connection in memory.
func pipe() (a, b net.Conn) {
	there, back := make(chan []byte, 1000), make(chan []byte, 1000)
	return &end{in: back, out: there}, &end{in: there, out: back}
}

func (e *end) Read(b []byte) (int, error) {
	if len(e.rest) == 0 {
		rest, ok := <-e.in
		if !ok {
			return 0, io.EOF
		}
		e.rest = rest
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func (e *end) Write(b []byte) (int, error) {
	e.out <- append([]byte(nil), b...)
	return len(b), nil
}

func (e *end) Close() error {
	e.once.Do(func() { close(e.out) })
	return nil
}

func (*end) SetDeadline(time.Time) error      { return nil }
func (*end) SetWriteDeadline(time.Time) error { return nil }
func (*end) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (*end) LocalAddr() net.Addr              { return &net.TCPAddr{} }
