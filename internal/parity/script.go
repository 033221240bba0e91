package parity

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// script returns the steps, and records the attempts that received them.
type script struct {
	spec  UpstreamScript
	start time.Time

	mu       sync.Mutex
	taken    map[string]int  // steps of each script; guarded by mu
	attempts []Attempt       // guarded by mu
	arrivals []time.Duration // of the attempts, since start; guarded by mu
	late     time.Duration   // the maximum delay; guarded by mu
	open     int             // attempts whose outcome is not known yet; guarded by mu
}

func newScript(spec UpstreamScript) *script {
	return &script{spec: spec, start: time.Now(), taken: map[string]int{}}
}

// caseHeader is the header of an attempt that names its call.
const caseHeader = "X-Parity-Case"

// take records an attempt, and returns its step and its number.
func (s *script) take(h Host, conn int, req *http.Request, body int) (step Step, n int) {
	at := Attempt{
		Case: req.Header.Get(caseHeader), Host: h.ID, Conn: conn, Method: req.Method, Path: req.URL.RequestURI(),
		Headers: attemptHeaders(req, body), BodyLen: body,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	step = s.next(h, req.URL.Path)
	at.Seq, at.Step = len(s.attempts)+1, step.String()
	s.attempts = append(s.attempts, at)
	s.arrivals = append(s.arrivals, time.Since(s.start))
	s.open++
	return step, len(s.attempts) - 1
}

// next returns the next step. The caller holds mu.
func (s *script) next(h Host, path string) Step {
	steps, key := s.spec.Script, "script"
	if byPath, ok := s.spec.ByPath[path]; ok {
		steps, key = byPath, "path "+path
	} else if h.Script != nil {
		steps, key = h.Script, "host"
	}
	if key == "host" || s.spec.Scope == "host" {
		key += " of " + h.ID
	}
	n := s.taken[key]
	s.taken[key]++
	return stepAt(steps, n)
}

// stepAt returns the nth step, from 0; the last one repeats.
func stepAt(steps []Step, n int) Step {
	for i, step := range steps {
		if n -= max(1, step.Repeat); n < 0 || i == len(steps)-1 {
			return step
		}
	}
	return Step{}
}

// end records the outcome of an attempt.
func (s *script) end(n int, aborted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.attempts[n].Outcome != "" {
		return
	}
	s.attempts[n].Outcome = "sent"
	if aborted {
		s.attempts[n].Outcome = "aborted_by_peer"
	}
	s.open--
}

// was records the delay of a step that began at the given time and has the given duration.
func (s *script) was(began time.Time, d time.Duration) {
	late := time.Since(began) - d
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = max(s.late, late)
}

// lateness returns the maximum delay.
func (s *script) lateness() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.late
}

// settled waits until the outcomes of all attempts are known, at most for limit.
func (s *script) settled(limit time.Duration) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 {
			return
		}
	}
}

// seen returns the attempts, and the times of their arrival after from.
func (s *script) seen(from time.Time) (attempts []Attempt, arrivals []float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, at := range s.attempts {
		attempts = append(attempts, at)
		arrivals = append(arrivals, milliseconds(s.arrivals[i]-from.Sub(s.start)))
	}
	return attempts, arrivals
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// attemptHeaders returns the request headers that are recorded.
func attemptHeaders(req *http.Request, body int) map[string]string {
	headers := map[string]string{}
	for name, values := range req.Header {
		switch name {
		case caseHeader, "User-Agent", "Accept-Encoding", "Connection": // added by the client, not part of the call
		default:
			headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	if req.ContentLength > 0 || (req.ContentLength == 0 && req.Header.Get("Content-Length") != "") {
		headers["content-length"] = strconv.Itoa(body)
	}
	return headers
}

// String returns the name of the step as in recordings.
func (s Step) String() string {
	switch s.Action {
	case "", "respond":
		return "respond " + strconv.Itoa(s.status())
	case "reset_after_headers":
		return s.Action + " " + strconv.Itoa(s.status())
	case "rst_stream":
		return s.Action + " " + s.Code
	}
	return s.Action
}

func (s Step) status() int {
	if s.Status == 0 {
		return http.StatusOK
	}
	return s.Status
}

func (s Step) delay() time.Duration { return time.Duration(s.DelayMS) * time.Millisecond }

func (s Step) bodyDelay() time.Duration { return time.Duration(s.BodyDelayMS) * time.Millisecond }

// missing returns the number of announced bytes that are not sent if the response is cut
// off.
const missing = 10
