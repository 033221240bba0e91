package envoy

import (
	"math"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"
)

var grpcTimeout = regexp.MustCompile(`^([0-9]{1,8})([HMSmun])$`)

// slowGRPCTimeout is GRPCTimeout by the text of gRPC's protocol, with numbers that do not overflow.
func slowGRPCTimeout(value string) (time.Duration, bool) {
	parts := grpcTimeout.FindStringSubmatch(value)
	if parts == nil {
		return 0, false
	}
	unit := map[string]int64{"H": 3600e9, "M": 60e9, "S": 1e9, "m": 1e6, "u": 1e3, "n": 1}[parts[2]]
	n, _ := new(big.Int).SetString(parts[1], 10)
	n.Mul(n, big.NewInt(unit))
	if longest := big.NewInt(int64(longestGRPCTimeout)); n.Cmp(longest) > 0 {
		n = longest
	}
	return time.Duration(n.Int64()), true
}

// FuzzGRPCTimeout parses any text. Its invariants: the result is neither negative nor longer than
// the longest, and equals that of the slow model.
func FuzzGRPCTimeout(f *testing.F) {
	for _, value := range []string{
		"", "1", "S", "0n", "1H", "2M", "3S", "4m", "5u", "6n", "99999999H", "876000H", "876001H", "100000000n", "00000001S",
		"+1S", "-1S", "1_0S", "0x1S", "1s", "1.5S", " 1S", "1S ", "1 S", "1SS", "١S",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := GRPCTimeout(value)
		if want, wantOK := slowGRPCTimeout(value); got != want || ok != wantOK {
			t.Errorf("%q: got %v, %v, want %v, %v", value, got, ok, want, wantOK)
		}
		if got < 0 || got > longestGRPCTimeout {
			t.Errorf("%q: got %v", value, got)
		}
	})
}

// FuzzExpectedTimeout compares with a parser of integers without bounds. Its invariants: only
// digits are a number of milliseconds; 0, and what does not fit into 32 bits, is no limit; a limit
// is positive and stays the same when it is formatted and parsed again.
func FuzzExpectedTimeout(f *testing.F) {
	for _, value := range []string{"", "0", "1", "15000", "4294967295", "4294967296", "-1", "+1", "1.5", " 1", "1 ", "0x10", "1_000", "007", "９"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		want := time.Duration(0)
		digits := value != "" && strings.Trim(value, "0123456789") == ""
		if n, ok := new(big.Int).SetString(value, 10); digits && ok && n.IsUint64() && n.Uint64() <= math.MaxUint32 {
			want = time.Duration(n.Uint64()) * time.Millisecond
		}
		got, ok := ExpectedTimeout(value)
		if ok != (want > 0) || ok && got != want {
			t.Errorf("%q: got %v, %v, want %v", value, got, ok, want)
		}
		if again, _ := ExpectedTimeout(Milliseconds(got)); ok && again != got {
			t.Errorf("%q: got %v, and %v after formatting and parsing", value, got, again)
		}
	})
}

// FuzzMilliseconds compares with exact arithmetic that rounds up and never returns 0.
func FuzzMilliseconds(f *testing.F) {
	for _, d := range []int64{0, 1, -1, 999_999, 1_000_000, 1_000_001, math.MaxInt64, math.MaxInt64 - 1, math.MinInt64} {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, nanoseconds int64) {
		want := new(big.Int).Add(big.NewInt(nanoseconds), big.NewInt(999_999))
		want.Div(want, big.NewInt(1_000_000)) // rounds down, as Euclid does
		if want.Sign() <= 0 {
			want.SetInt64(1)
		}
		if got := Milliseconds(time.Duration(nanoseconds)); got != want.String() {
			t.Errorf("%d: got %s, want %v", nanoseconds, got, want)
		}
	})
}

// FuzzIsGRPC compares with the text of the rule: the media type is application/grpc, alone or
// with a suffix after a plus sign; gRPC-Web and other case do not match.
func FuzzIsGRPC(f *testing.F) {
	for _, value := range []string{"", "application/grpc", "application/grpc+proto", "application/grpc-web", "application/grpc;x", "Application/grpc", " application/grpc", "application/grpc+"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		want := value == "application/grpc" || strings.HasPrefix(value, "application/grpc+")
		if got := IsGRPC(value); got != want {
			t.Errorf("%q: got %v, want %v", value, got, want)
		}
	})
}
