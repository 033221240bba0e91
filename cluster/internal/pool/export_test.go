package pool

// Deafen makes net/http report nothing more about p's connections.
func (p *Pool) Deafen() {
	p.mu.Lock()
	defer p.unlock()
	for _, l := range [...]*connList{&p.ready, &p.busy} {
		for c := l.front; c != nil; c = c.next {
			c.cc.SetStateHook(nil)
		}
	}
}
