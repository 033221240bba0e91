package parity

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Difference is a value that is different from the expected one.
type Difference struct {
	Path string // as in Case.Volatile
	Want string // "" if the value must not exist
	Got  string
}

// String formats the difference as one line.
func (d Difference) String() string { return fmt.Sprintf("%s: got %q, want %q", d.Path, d.Got, d.Want) }

// Compare lists the differences between a play and the recording, after the rules that
// apply to the scenario have changed the expectation. documented reports whether one of the
// rules changed anything.
func (c *Case) Compare(got *Played, rules []Rule) (differences []Difference, documented []string) {
	want := c.Observed.clone()
	pools := true // are compared
	for _, r := range rules {
		if !r.Applies(&c.Scenario) {
			continue
		}
		before := want.view()
		r.Change(&c.Scenario, want, got)
		if !maps.Equal(before, want.view()) {
			documented = append(documented, r.Name)
			pools = pools && !r.OfCalls
		}
	}
	if !pools {
		want.withoutPool()
		got.withoutPool()
	}
	have := got.Observed
	if want.Summary != nil {
		have.Summary = have.summarize()
		have.Downstream, have.AccessLog, have.Attempts = nil, nil, nil
	}
	differences = c.compareViews(want.view(), have.view())
	if c.Scenario.hashesAddresses() {
		differences = c.compareRenamed(want.view(), have)
	}
	differences = append(differences, got.compareTimeLeft(want)...)
	if c.Scenario.Statistical {
		differences = append(differences, c.compareGaps(got)...)
	}
	return differences, documented
}

// clone returns a copy of o that rules can change.
func (o *Observed) clone() *Observed {
	text, err := json.Marshal(o)
	if err != nil {
		panic(err) // o was read from JSON
	}
	made := &Observed{}
	if err := json.Unmarshal(text, made); err != nil {
		panic(err)
	}
	return made
}

// view contains all values that are compared, by path.
type view map[string]string

// view extracts the values by which a library can be compared.
func (o *Observed) view() view {
	v := view{}
	for i, a := range o.Downstream {
		v.answer(fmt.Sprintf("/downstream/%d", i), a)
	}
	for i, l := range o.AccessLog {
		v.logged(fmt.Sprintf("/access_log/%d", i), l)
	}
	for i, at := range o.Attempts {
		v.attempt(fmt.Sprintf("/upstream_attempts/%d", i), at)
	}
	v["/downstream#len"] = strconv.Itoa(len(o.Downstream))
	v["/access_log#len"] = strconv.Itoa(len(o.AccessLog))
	v["/upstream_attempts#len"] = strconv.Itoa(len(o.Attempts))
	if s := o.Summary; s != nil {
		v.counts("/summary/downstream/", s.Downstream)
		v.counts("/summary/access_log/", s.AccessLog)
		v.counts("/summary/upstream_attempts/", s.Attempts)
	}
	v.numbers("/stats_nonzero/", o.Stats)
	v.numbers("/histogram_counts/", o.Histograms)
	for name, numbers := range o.Snapshots {
		v["/snapshots/"+name] = "taken"
		v.numbers("/snapshots/"+name+"/", numbers)
	}
	return v
}

// summarize counts equal entries, in the format of recordings.
func (o *Observed) summarize() *Summary {
	s := &Summary{Downstream: map[string]int{}, AccessLog: map[string]int{}, Attempts: map[string]int{}}
	for _, a := range o.Downstream {
		s.Downstream[fmt.Sprintf("status=%d error=%s", a.Status, a.Error)]++
	}
	for _, l := range o.AccessLog {
		host := l.Host
		if host == "" {
			host = "<nil>"
		}
		s.AccessLog[fmt.Sprintf("code=%d flags=%s details=%s attempts=%d host=%s", l.Code, l.Flags, l.Details, l.Attempts, host)]++
	}
	for _, at := range o.Attempts {
		s.Attempts[fmt.Sprintf("host=%s step=%s", at.Host, at.Step)]++
	}
	return s
}

func (v view) counts(path string, counts map[string]int) {
	for what, n := range counts {
		v.set(path+what, strconv.Itoa(n))
	}
}

// set adds a value that is not empty.
func (v view) set(path, value string) {
	if value != "" {
		v[path] = value
	}
}

func (v view) answer(path string, a Answer) {
	v.set(path+"/case", a.Case)
	v.set(path+"/status", strconv.Itoa(a.Status))
	v.set(path+"/body", abbreviated(a.Body))
	v.set(path+"/error", errorClass(a.Error))
	for name, value := range a.Headers {
		switch {
		case name == "server" || name == "x-envoy-upstream-service-time": // added by a proxy
		case name == "content-length" && value == "0": // equal to none
		default:
			v.set(path+"/headers/"+name, localAddress.ReplaceAllString(plainly(name, value), "//<addr>"))
		}
	}
	for name, value := range a.Trailers {
		v.set(path+"/trailers/"+name, plainly(name, value))
	}
	for i, code := range a.Informational {
		v.set(fmt.Sprintf("%s/informational/%d", path, i), strconv.Itoa(code))
	}
}

// plainly returns the value of a field without gRPC's encoding, because the same value can
// be encoded in several ways.
func plainly(name, value string) string {
	switch {
	case name == "grpc-message":
		return percents.ReplaceAllStringFunc(value, func(code string) string {
			n, err := strconv.ParseUint(code[1:], 16, 8)
			if err != nil {
				return code
			}
			return string([]byte{byte(n)})
		})
	case strings.HasSuffix(name, "-bin"):
		return strings.TrimRight(value, "=")
	}
	return value
}

// percents matches an encoded byte of a grpc-message.
var percents = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// localAddress matches an address, which differs from play to play.
var localAddress = regexp.MustCompile(`//127\.0\.0\.1:\d+`)

// abbreviated cuts a body as recordings do.
func abbreviated(body string) string {
	const most = 400
	if len(body) > most && !strings.HasSuffix(body, "...") {
		return body[:most] + "..."
	}
	return body
}

// errorClass reports whether a caller received no response, or a broken body. The rest of
// the text depends on the client.
func errorClass(text string) string {
	switch {
	case text == "":
		return ""
	case strings.HasPrefix(text, "body: "):
		return "broken body"
	}
	return "no answer"
}

func (v view) logged(path string, l Logged) {
	v.set(path+"/case", l.Case)
	v.set(path+"/response_code", strconv.Itoa(l.Code))
	v.set(path+"/response_code_details", l.Details)
	v.set(path+"/response_flags", l.Flags)
	v.set(path+"/response_flags_long", l.LongFlags)
	v.set(path+"/upstream_cluster", l.Cluster)
	v.set(path+"/upstream_request_attempt_count", strconv.Itoa(l.Attempts))
}

func (v view) attempt(path string, at Attempt) {
	v.set(path+"/case", at.Case)
	v.set(path+"/host", at.Host)
	v.set(path+"/method", at.Method)
	v.set(path+"/path", at.Path)
	v.set(path+"/step", at.Step)
	v.set(path+"/outcome", at.Outcome)
	v.set(path+"/body_len", strconv.Itoa(at.BodyLen))
	for name, value := range at.Headers {
		switch name {
		case "x-envoy-internal", "x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto": // added by a proxy
		case "x-request-id":
			if value != "<present>" && len(value) != len("00000000-0000-0000-0000-000000000000") { // set by the caller
				v.set(path+"/headers/"+name, value)
			}
		case timeLeftHeader: // see compareTimeLeft
		case "content-length":
			if value != "0" { // 0 is equal to none
				v.set(path+"/headers/"+name, value)
			}
		default:
			v.set(path+"/headers/"+name, value)
		}
	}
}

// numbers adds the statistics that a library can have and that are not 0.
func (v view) numbers(path string, numbers map[string]uint64) {
	for name, n := range numbers {
		if name = ofUpstream(name); n != 0 && (isShared(name) || isSharedHistogram(name) || isFault(name)) {
			v[path+name] = strconv.FormatUint(n, 10)
		}
	}
}

// compareViews lists the differences, in the order of their paths.
func (c *Case) compareViews(want, got view) []Difference {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var found []Difference
	for _, path := range slices.Sorted(maps.Keys(all)) {
		w, g := want[path], got[path]
		if w != g && !c.allowed(path, w, g) {
			found = append(found, Difference{Path: path, Want: w, Got: g})
		}
	}
	return found
}

// allowed reports whether a value may differ from the first recorded one, because it was
// different in another recorded play.
func (c *Case) allowed(path, want, got string) bool {
	seen := []string{want}
	volatile, isVolatile := c.Volatile[recordedPath(path)]
	for _, raw := range volatile {
		seen = append(seen, plain(raw))
	}
	if strings.HasPrefix(path, "/summary/") || isVolatile && drawsFaults(&c.Scenario) {
		return proportionate(want, got)
	}
	if !isVolatile {
		return false
	}
	if strings.HasPrefix(path, "/upstream_attempts/") {
		return want != "" && got != "" // the order of concurrent attempts
	}
	return slices.Contains(seen, got) || between(got, seen)
}

// proportionate reports whether two counts of many may have the same probability.
func proportionate(want, got string) bool {
	w, okWant := number(want)
	g, okGot := number(got)
	return okWant && okGot && math.Abs(float64(w-g)) <= 4*math.Sqrt(float64(max(w, g)))
}

// plain converts a volatile value to the format of a view.
func plain(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text // "" for null
	}
	return string(raw)
}

// between reports whether got is a number from the smallest to the largest of seen, where a
// missing value is 0.
func between(got string, seen []string) bool {
	n, ok := number(got)
	if !ok {
		return false
	}
	least, most := n, n
	for i, s := range seen {
		m, ok := number(s)
		if !ok {
			return false
		}
		if i == 0 {
			least, most = m, m
		}
		least, most = min(least, m), max(most, m)
	}
	return least <= n && n <= most
}

func number(s string) (int64, bool) {
	if s == "" {
		return 0, true
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
