package resolve_test

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/pillion-go/pillion/cluster/internal/resolve"
)

func ExampleResolver() {
	r, err := resolve.New(resolve.Config{
		Targets: []resolve.Target{{Name: "recipes.internal", Port: 8080}},
		Family:  resolve.V4Only,
		Lookup: func(context.Context, string, string) ([]resolve.Record, error) { // instead of DNS
			return []resolve.Record{{Addr: netip.MustParseAddr("10.0.0.2")}, {Addr: netip.MustParseAddr("10.0.0.1")}}, nil
		},
		OnUpdate: func(hosts []resolve.Host) {
			for _, h := range hosts {
				fmt.Println(h.Addr)
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	r.Start()
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(r.WaitReady(ctx), len(r.Hosts()))
	// Output:
	// 10.0.0.2:8080
	// 10.0.0.1:8080
	// <nil> 2
}
