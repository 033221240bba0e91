package settings

import (
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	const such = "a duration such as 5*time.Second"
	for _, test := range []struct {
		value   time.Duration
		instead []string
		want    string
	}{
		{0, nil, ""},
		{time.Millisecond, []string{"0 for 15s"}, ""},
		{-1, nil, "is negative; write " + such},
		{-time.Second, []string{"0 for 15s"}, "is negative; write " + such + ", or 0 for 15s"},
		{30, []string{"0 for 15s", "timeout.Unlimited"}, "is below 1ms; did you forget the unit? Write " + such + ", 0 for 15s, or timeout.Unlimited"},
	} {
		if got := Duration(test.value, test.instead...); got != test.want {
			t.Errorf("%v: got %q, want %q", test.value, got, test.want)
		}
	}
}

func TestAtLeast(t *testing.T) {
	const want = "is below 1s; did you forget the unit? Write a duration such as 5*time.Second, or 0 for 10s"
	if got := AtLeast(time.Second-1, time.Second, "0 for 10s"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := AtLeast(time.Second, time.Second, "0 for 10s"); got != "" {
		t.Errorf("got %q for the least value, want none", got)
	}
}

func TestCount(t *testing.T) {
	for _, test := range []struct {
		value   int64
		instead []string
		want    string
	}{
		{0, nil, ""},
		{7, []string{"0 for 1024"}, ""},
		{-1, nil, "is negative; write 1 or more"},
		{-2, []string{"0 for 3"}, "is negative; write 1 or more, or 0 for 3"},
		{-2, []string{"0 for 3", "retry.Zero for none"}, "is negative; write 1 or more, 0 for 3, or retry.Zero for none"},
	} {
		if got := Count(test.value, test.instead...); got != test.want {
			t.Errorf("%d: got %q, want %q", test.value, got, test.want)
		}
	}
}
