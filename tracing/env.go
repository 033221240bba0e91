package tracing

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pillion-go/pillion/tracing/internal/daemonenv"
)

// FromEnv returns c with the values of the environment. A variable that is set and not
// empty replaces its field. FromEnv reads the variables of the X-Ray SDK and of the gem. If
// both are set, the SDK's variable wins, because AWS's platforms set it:
//
//	field            the SDK's, which wins       the gem's
//	Name             AWS_XRAY_TRACING_NAME       AWS_XRAY_NAME
//	Daemon           AWS_XRAY_DAEMON_ADDRESS     AWS_XRAY_LOCATION
//	SamplingRate                                 AWS_XRAY_SAMPLING_RATE (0 to 1)
//	ExcludedPaths                                AWS_XRAY_EXCLUDED_PATHS (comma-separated)
//	ContextMissing   AWS_XRAY_CONTEXT_MISSING
//	Disabled         AWS_XRAY_SDK_DISABLED (true or false)
//
// The error joins an error for each bad value, with the name of its variable; the field of
// a bad value is not changed. A bad value is an error even if another variable wins.
//
//	cfg, err := tracing.FromEnv(tracing.Config{Name: "recipes"})
func FromEnv(c Config) (Config, error) { return fromEnv(c, os.Getenv) }

func fromEnv(c Config, getenv func(string) string) (Config, error) {
	var bad []error
	for _, v := range variables() { // later variables win
		value := getenv(v.name)
		if value == "" {
			continue
		}
		if err := v.set(&c, value); err != nil {
			bad = append(bad, fmt.Errorf("tracing: %s: %w", v.name, err))
		}
	}
	return c, errors.Join(bad...)
}

// variable is an environment variable that FromEnv reads.
type variable struct {
	name string
	set  func(c *Config, value string) error
}

func variables() []variable {
	return []variable{
		{"AWS_XRAY_NAME", setName},
		{"AWS_XRAY_TRACING_NAME", setName},
		{"AWS_XRAY_LOCATION", setLocation},
		{daemonenv.Variable, setDaemon},
		{"AWS_XRAY_SAMPLING_RATE", setRate},
		{"AWS_XRAY_EXCLUDED_PATHS", setExcluded},
		{"AWS_XRAY_CONTEXT_MISSING", setMissing},
		{"AWS_XRAY_SDK_DISABLED", setDisabled},
	}
}

func setName(c *Config, value string) error {
	c.Name = value
	return nil
}

func setLocation(c *Config, value string) error {
	if err := checkAddress(value); err != nil {
		return err
	}
	c.Daemon = value
	return nil
}

func setDaemon(c *Config, value string) error {
	if _, err := parseDaemon(value); err != nil {
		return err
	}
	c.Daemon = value
	return nil
}

// setRate sets the sampling rate. As in the gem, a rate of 0 means never.
func setRate(c *Config, value string) error {
	rate, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !(rate >= 0 && rate <= 1) {
		return fmt.Errorf("%q is not a number from 0 to 1; write 0.05 for 5%%", value)
	}
	if c.SamplingRate = rate; rate == 0 {
		c.SamplingRate = Never
	}
	return nil
}

func setExcluded(c *Config, value string) error {
	paths := strings.Split(value, ",")
	for i := range paths {
		paths[i] = strings.TrimSpace(paths[i])
	}
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == "" })
	var wrong []error
	for _, path := range paths {
		wrong = append(wrong, checkPath(path))
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	c.ExcludedPaths = paths
	return nil
}

func setMissing(c *Config, value string) error {
	switch value {
	case "IGNORE_ERROR":
		c.ContextMissing = MissingIgnored
	case "LOG_ERROR", "RUNTIME_ERROR":
		c.ContextMissing = MissingReported
	default:
		return fmt.Errorf("%q is unknown; write LOG_ERROR, IGNORE_ERROR or RUNTIME_ERROR", value)
	}
	return nil
}

func setDisabled(c *Config, value string) error {
	switch strings.ToLower(value) {
	case "true":
		c.Disabled = true
	case "false":
		c.Disabled = false
	default:
		return fmt.Errorf("%q is not a boolean; write true or false", value)
	}
	return nil
}
