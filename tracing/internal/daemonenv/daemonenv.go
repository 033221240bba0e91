// Package daemonenv prevents an invalid daemon address from ending the program before main:
// the X-Ray SDK reads AWS_XRAY_DAEMON_ADDRESS while its packages are initialized, and
// panics if the value is invalid.
//
// This package is initialized before the SDK's package xray, because it has fewer imports:
// Go initializes a package as soon as all its imports are initialized, in the order of
// import paths, and xray has to wait for google.golang.org/grpc, which sorts after this
// package. A test starts a process to verify this.
package daemonenv

import (
	"os"

	"github.com/aws/aws-xray-sdk-go/v2/daemoncfg"
)

// Variable is the environment variable that the SDK reads.
const Variable = "AWS_XRAY_DAEMON_ADDRESS"

//nolint:gochecknoglobals // it is set once, while packages are initialized
var hidden = hide()

// hide removes from the environment a value at which the SDK would panic. A value that the
// SDK accepts stays, for programs that use the SDK directly.
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

// accepted reports whether the SDK accepts the value.
func accepted() bool {
	_, err := daemoncfg.GetDaemonEndpointsFromEnv()
	return err == nil
}

// Restore puts a hidden value back after the SDK has been initialized. It returns the
// value, or "" if nothing was hidden.
func Restore() string {
	if hidden != "" && os.Getenv(Variable) == "" {
		_ = os.Setenv(Variable, hidden) // the value was set before
	}
	return hidden
}
