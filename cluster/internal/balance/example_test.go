package balance_test

import (
	"fmt"

	"github.com/pillion-go/pillion/cluster/internal/balance"
)

func Example() {
	hosts := []*balance.Host{
		balance.NewHost(balance.Endpoint{Address: "10.0.0.1:80"}),
		balance.NewHost(balance.Endpoint{Address: "10.0.0.2:80"}),
		balance.NewHost(balance.Endpoint{Address: "10.0.0.3:80", Priority: 1}),
	}
	b, err := balance.New(balance.Config{Policy: balance.RingHash})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.Update(balance.Membership{Hosts: hosts}, 0); err != nil {
		fmt.Println(err)
		return
	}
	request := balance.Request{Hash: balance.Hash("user 7"), HasHash: true}
	host, info := b.Pick(request)
	fmt.Println(host.Endpoint().Address, "of priority", info.Priority)

	// The outlier detector ejects the host.
	host.SetFlags(balance.FailedOutlierCheck)
	if err := b.Refresh(0); err != nil {
		fmt.Println(err)
		return
	}
	host, info = b.Pick(request)
	fmt.Println(host.Endpoint().Address, "of priority", info.Priority)
	// Output:
	// 10.0.0.2:80 of priority 0
	// 10.0.0.1:80 of priority 0
}

// A retry avoids the hosts of the attempts before it. When the rejected picks are used
// up, the last host stands.
func ExampleRequest_reject() {
	a, c := balance.NewHost(balance.Endpoint{Address: "a:80"}), balance.NewHost(balance.Endpoint{Address: "c:80"})
	b, err := balance.New(balance.Config{Rand: func() uint64 { return 0 }})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := b.Update(balance.Membership{Hosts: []*balance.Host{a, c}}, 0); err != nil {
		fmt.Println(err)
		return
	}
	retry := balance.Request{Reject: func(h *balance.Host) bool { return h == a }, MaxAttempts: 1}
	host, info := b.Pick(retry)
	fmt.Println(host.Endpoint().Address, "after", info.Picks, "picks")
	retry.Reject = func(*balance.Host) bool { return true }
	host, info = b.Pick(retry)
	fmt.Println(host.Endpoint().Address, "rejected:", info.Rejected)
	// Output:
	// c:80 after 2 picks
	// c:80 rejected: true
}
