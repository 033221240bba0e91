package pillion

import (
	"math/big"
	"regexp"
	"testing"
	"time"
)

var grpcTimeout = regexp.MustCompile(`^([0-9]{1,8})([HMSmun])$`)

// slowGRPCTimeout is parseGRPCTimeout by the words of gRPC's protocol, with numbers
// that do not overflow.
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

// FuzzGRPCTimeout reads anything. What is read is never negative nor longer than
// the longest, and is what the slow model finds.
func FuzzGRPCTimeout(f *testing.F) {
	for _, value := range []string{
		"", "1", "S", "0n", "1H", "2M", "3S", "4m", "5u", "6n", "99999999H", "876000H", "876001H", "100000000n", "00000001S",
		"+1S", "-1S", "1_0S", "0x1S", "1s", "1.5S", " 1S", "1S ", "1 S", "1SS", "١S",
	} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, ok := parseGRPCTimeout(value)
		if want, wantOK := slowGRPCTimeout(value); got != want || ok != wantOK {
			t.Errorf("%q: got %v, %v, want %v, %v", value, got, ok, want, wantOK)
		}
		if got < 0 || got > longestGRPCTimeout {
			t.Errorf("%q: got %v", value, got)
		}
	})
}
