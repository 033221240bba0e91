// Package daemonenv keeps a daemon address that cannot be understood from ending
// the program before main: the X-Ray SDK reads AWS_XRAY_DAEMON_ADDRESS while its
// packages are initialised, and panics when it does not like what it finds.
//
// This package is initialised before the SDK's package xray is, because it imports
// less: Go initialises a package as soon as all that it imports is, in the order of
// import paths, and xray has to wait for google.golang.org/grpc, which sorts behind
// this package. A test starts a process to see it.
package daemonenv

import (
	"os"

	"github.com/aws/aws-xray-sdk-go/v2/daemoncfg"
)

// Variable is what the SDK reads.
const Variable = "AWS_XRAY_DAEMON_ADDRESS"

//nolint:gochecknoglobals // it must happen while packages are initialised, and is written once
var hidden = hide()

// hide takes a value that the SDK would panic at out of the environment. A value
// that the SDK accepts stays, for the programs that use the SDK by themselves.
func hide() string {
	value := os.Getenv(Variable)
	if value == "" || accepted() {
		return ""
	}
	if os.Unsetenv(Variable) != nil {
		return ""
	}
	return value
}

// accepted asks the SDK's own reader.
func accepted() bool {
	_, err := daemoncfg.GetDaemonEndpointsFromEnv()
	return err == nil
}

// Restore puts a hidden value back, once the SDK has been initialised. It gives
// the value, "" when nothing was hidden.
func Restore() string {
	if hidden != "" && os.Getenv(Variable) == "" {
		_ = os.Setenv(Variable, hidden) // it was there before
	}
	return hidden
}
