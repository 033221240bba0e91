package secure_test

import (
	"fmt"

	"github.com/pillion-go/pillion/cluster/internal/secure"
)

func ExampleNew() {
	s, err := secure.New(secure.Config{SNI: "recipes.internal", ALPN: []string{"h2", "http/1.1"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer s.Close()
	config := s.TLSConfig()
	fmt.Println(config.ServerName, config.NextProtos)
	for _, sentence := range s.Suspicious() {
		fmt.Println(sentence)
	}
	// Output:
	// recipes.internal [h2 http/1.1]
	// secure: Config.CA: not set: any certificate of a server is accepted
}

func ExampleMatcher() {
	_, err := secure.New(secure.Config{
		SANs: []secure.Matcher{
			secure.SPIFFE("spiffe://mesh/ns/recipes"),
			{Type: secure.DNS, Match: secure.Suffix, Value: ".recipes.internal"},
		},
	})
	fmt.Println(err)
	// Output: secure: Config.SANs: set without CA: set CA, too
}
