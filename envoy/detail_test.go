package envoy

import (
	"strings"
	"testing"
)

// known are all details of this package.
func known() []*Detail {
	return []*Detail{
		ViaUpstream, ConnectionRefused, ConnectionReset, ConnectionFailure, ConnectionTimeout, DNSFailure, NoHealthyUpstream,
		ConnectionTermination, RemoteReset, RemoteRefusedStream, MalformedResponse, ConnectionTerminationAfter, RemoteResetAfter,
		MalformedResponseAfter, StreamDuration, StreamIdle, ResponseTimeout, PerTryTimeout, PerTryIdleTimeout, CallerGone,
	}
}

// TestDetails pins that every Detail has its own text, and a whole local reply or none.
func TestDetails(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range known() {
		text := d.String()
		if text == "" || seen[text] || strings.ContainsAny(text, " \n") {
			t.Errorf("got text %q, want its own, without spaces", text)
		}
		seen[text] = true
		status, body := d.LocalReply(false)
		if status != d.LocalStatus() || (status != 0) != (body != "") || status != 0 && d.Flags() == 0 && d != StreamDuration {
			t.Errorf("%s: got %d, %q and %v, want a local reply with a body and flags, or none", text, status, body, d.Flags())
		}
	}
}

// TestDetail_pairs pins that each detail within a response has one before the response.
func TestDetail_pairs(t *testing.T) {
	for _, d := range known() {
		before, after := d.BeforeResponse(), d.AfterResponse()
		if before.BeforeResponse() != before || after.AfterResponse() != after {
			t.Errorf("%v: got %v before and %v after the response, want no more of them", d, before, after)
		}
		if before != d && before.AfterResponse() != d {
			t.Errorf("%v: got %v, want back what it came from", d, before.AfterResponse())
		}
	}
}

// TestDetail_nil pins that the methods of a nil Detail return zero values.
func TestDetail_nil(t *testing.T) {
	var d *Detail
	status, body := d.LocalReply(true)
	if d.String() != "" || d.Flags() != 0 || d.LocalStatus() != 0 || d.Overloaded() || d.Counter() != "" || status != 0 || body != "" {
		t.Errorf("got %q, %v, %d, %q, want nothing", d, d.Flags(), status, body)
	}
	if d.BeforeResponse() != nil || d.AfterResponse() != nil || !d.Equal(nil) || d.Equal(ViaUpstream) {
		t.Error("got another Detail than nil")
	}
}

// TestNewDetail pins that a new Detail equals only itself.
func TestNewDetail(t *testing.T) {
	spec := DetailSpec{Text: "fault_filter_abort", Flags: FI, Status: 418, Body: "fault filter abort", Overloaded: true, Counter: "aborts_injected"}
	d := NewDetail(spec)
	status, body := d.LocalReply(true)
	if d.String() != spec.Text || d.Flags() != FI || status != 418 || body != spec.Body || !d.Overloaded() || d.Counter() != spec.Counter {
		t.Errorf("got %v, %v, %d, %q, %v, %q, want %+v", d, d.Flags(), status, body, d.Overloaded(), d.Counter(), spec)
	}
	if d.Equal(NewDetail(spec)) || !d.Equal(d) {
		t.Error("got a Detail that equals another one, or not itself")
	}
}

// TestGRPCStatus pins Envoy's table.
func TestGRPCStatus(t *testing.T) {
	want := map[int]int{400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
	for status := range 1000 {
		code, ok := want[status]
		if !ok {
			code = 2
		}
		if got := GRPCStatus(status); got != code {
			t.Errorf("%d: got %d, want %d", status, got, code)
		}
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		flags       Flags
		short, long string
	}{
		{0, "-", "-"},
		{UO, "UO", "UpstreamOverflow"},
		{URX | UF, "URX,UF", "UpstreamRetryLimitExceeded,UpstreamConnectionFailure"},
		{DF | UH | DC, "UH,DC,DF", "NoHealthyUpstream,DownstreamConnectionTermination,DnsResolutionFailed"},
		{
			1<<17 - 1, "DI,URX,UO,UH,UT,UR,UF,UC,NR,FI,RL,DC,SI,UMSDR,UPE,NC,DF",
			"DelayInjected,UpstreamRetryLimitExceeded,UpstreamOverflow,NoHealthyUpstream,UpstreamRequestTimeout,UpstreamRemoteReset," +
				"UpstreamConnectionFailure,UpstreamConnectionTermination,NoRouteFound," +
				"FaultInjected,RateLimited,DownstreamConnectionTermination,StreamIdleTimeout," +
				"UpstreamMaxStreamDurationReached,UpstreamProtocolError,NoClusterFound,DnsResolutionFailed",
		},
	}
	for _, test := range tests {
		if test.flags.String() != test.short || test.flags.Long() != test.long {
			t.Errorf("%b: got %s, %s, want %s, %s", test.flags, test.flags, test.flags.Long(), test.short, test.long)
		}
	}
	if f := UO | UF; !f.Has(UO) || !f.Has(UO|UF) || f.Has(UO|UC) || !f.Has(0) {
		t.Errorf("%v: Has is wrong", f)
	}
	if len(flagNames) != 17 || DF != 1<<16 {
		t.Errorf("got %d names, and DF is %b", len(flagNames), DF)
	}
}

// TestFlags_unknown pins that flags without a name print their number.
func TestFlags_unknown(t *testing.T) {
	for i := range 256 {
		f := Flags(i << 20)
		if known := strings.Contains(f.String(), "("); f != 0 && !known || f.String() != f.Long() {
			t.Errorf("%b: got %q and %q, want its number", uint32(f), f, f.Long())
		}
	}
}
