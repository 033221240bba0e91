package parity

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// script hands out steps, and takes down who got them.
type script struct {
	spec  UpstreamScript
	start time.Time

	mu       sync.Mutex
	taken    map[string]int  // steps of each script; guarded by mu
	attempts []Attempt       // guarded by mu
	arrivals []time.Duration // of the attempts, since start; guarded by mu
	late     time.Duration   // the most that something was late; guarded by mu
	open     int             // attempts whose outcome is not known; guarded by mu
}

func newScript(spec UpstreamScript) *script {
	return &script{spec: spec, start: time.Now(), taken: map[string]int{}}
}

// caseHeader is how an attempt tells which call it belongs to.
const caseHeader = "X-Parity-Case"

// take takes down an attempt, and gives the step for it and the attempt's number.
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

// next picks the next step. The caller holds mu.
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

// stepAt is the nth step, from 0; the last one repeats.
func stepAt(steps []Step, n int) Step {
	for i, step := range steps {
		if n -= max(1, step.Repeat); n < 0 || i == len(steps)-1 {
			return step
		}
	}
	return Step{}
}

// end takes down what became of an attempt.
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

// was takes down how late something was that began at an instant and was to take
// so long.
func (s *script) was(began time.Time, d time.Duration) {
	late := time.Since(began) - d
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = max(s.late, late)
}

// lateness is the most that something was late.
func (s *script) lateness() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.late
}

// settled waits until the outcome of all attempts is known, or for so long.
func (s *script) settled(patience time.Duration) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 {
			return
		}
	}
}

// seen gives the attempts, and when they came since the instant from.
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

// attemptHeaders is what is taken down of a request's head.
func attemptHeaders(req *http.Request, body int) map[string]string {
	headers := map[string]string{}
	for name, values := range req.Header {
		switch name {
		case caseHeader, "User-Agent", "Accept-Encoding", "Connection": // not of the call, but of who makes it
		default:
			headers[strings.ToLower(name)] = strings.Join(values, ",")
		}
	}
	if req.ContentLength > 0 || (req.ContentLength == 0 && req.Header.Get("Content-Length") != "") {
		headers["content-length"] = strconv.Itoa(body)
	}
	return headers
}

// String names the step as recordings do.
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

// missing is how much less of the body comes than was announced, when the answer
// is cut off.
const missing = 10
