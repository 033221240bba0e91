package tracing

import (
	"bytes"
	"encoding/json"
	"net"
	"testing"
	"time"
)

// listenUDP returns a daemon on the loopback interface. next returns its next document.
func listenUDP(t *testing.T) (addr *net.UDPAddr, next func(*testing.T) sentDocument) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	buf := make([]byte, 1<<16)
	return conn.LocalAddr().(*net.UDPAddr), func(t *testing.T) sentDocument {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		_, body, _ := bytes.Cut(buf[:n], []byte("\n"))
		var d sentDocument
		if err := json.Unmarshal(body, &d); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		return d
	}
}
