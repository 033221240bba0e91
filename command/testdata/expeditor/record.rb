# Records what the gem does: reads traces, one JSON a line, and writes them with what was seen of each action and with
# the log. What a trace expects already is replaced.
#
#   ruby -I expeditor/lib -I retryable/lib record.rb < in.jsonl > commands_differences.jsonl
require 'json'
require 'expeditor'
require 'concurrent'
Thread.report_on_exception = false
HANG = 0.6 # seconds after which a call is said to hang
SETTLE = 0.04

$clock = Time.at(1_000_000)
class << Time
  def now; $clock; end
end

class EA < StandardError; end
class EB < StandardError; end
class EA1 < EA; end
class EFatal < Exception; end
KINDS = { 'A'=>EA, 'B'=>EB, 'A1'=>EA1, 'fatal'=>EFatal, 'timeout'=>Timeout::Error,
  'rejection'=>Expeditor::RejectedExecutionError, 'break'=>Expeditor::CircuitBreakError, 'dependency'=>Expeditor::DependencyError,
  'not_started'=>Expeditor::NotStartedError, 'already_started'=>Expeditor::AlreadyStartedError, 'argument'=>ArgumentError,
  'multiple_assignment'=>Concurrent::MultipleAssignmentError, 'standard'=>StandardError, 'any'=>Exception }
NAMES = %w[A1 A B fatal timeout rejection break dependency not_started already_started argument multiple_assignment]
DEFAULTS = { 'A'=>'a failed', 'B'=>'b failed', 'A1'=>'a1 failed', 'fatal'=>'fatal' }
def make(kind, msg)
  return Expeditor::DependencyError.new(EB.new('inner')) if kind == 'dependency'
  m = msg || DEFAULTS[kind] || kind
  KINDS[kind].new(m)
end
def kind(e)
  return 'A1' if e.instance_of?(EA1)
  NAMES.find { |n| e.is_a?(KINDS[n]) } || e.class.name
end
def describe(e)
  k = kind(e)
  h = { 'error'=>k }
  h['msg'] = e.message if %w[A B A1 fatal dependency].include?(k)
  h['inner'] = describe(e.error) if k == 'dependency' && e.error.is_a?(Exception)
  h
end

class Player
  def initialize(t)
    @t = t; @log = []; @lm = Mutex.new; @gates = {}; @entered = {}; @attempts = Hash.new(0); @services = {}; @commands = {}
    @hung = []
    $clock = Time.at(1_000_000)
  end
  def note(*e) @lm.synchronize { @log << e } end
  def gate(n) @lm.synchronize { @gates[n] ||= Concurrent::Event.new } end
  def steps(steps, args, cause)
    v = nil
    steps.each do |s|
      if s.key?('ret') then return s['ret']
      elsif s['raise'] then raise make(s['raise'], s['msg'])
      elsif s['reraise'] then raise cause
      elsif s['args'] then return args
      elsif s['sum'] || s['add'] then return args.sum + (s['add'] || 0)
      elsif s['gate'] then gate(s['gate']).wait
      elsif s['open'] then gate(s['open']).set
      elsif s['hang'] then sleep
      elsif s['swallow'] then begin; steps(s['swallow'], args, cause); rescue Exception; end
      elsif s['sleep_ms'] then sleep(s['sleep_ms'] / 1000.0)
      elsif s['advance_us'] then $clock += Rational(s['advance_us'], 1_000_000)
      else raise "step #{s}"
      end
    end
    v
  end
  def setup
    @t['services'].each do |name, c|
      o = {}
      o[:threshold] = c['threshold'] if c['threshold']
      o[:non_break_count] = c['non_break_count'] if c['non_break_count']
      o[:sleep] = Rational(c['sleep_us'], 1_000_000) if c['sleep_us']
      o[:period] = Rational(c['period_us'], 1_000_000) if c['period_us']
      if (p = c['pool'])
        o[:executor] = Concurrent::ThreadPoolExecutor.new(min_threads: 0, max_threads: p['max_threads'], max_queue: p['max_queue'] || 0, fallback_policy: (p['overflow'] || 'abort').to_sym)
      end
      @services[name] = Expeditor::Service.new(o)
      @services[name].fallback_enabled = c['fallback_enabled'] unless c['fallback_enabled'].nil?
    end
    @t['commands'].each do |c|
      id = c['id']
      @entered[id] = Concurrent::Event.new
      if c.key?('const') then @commands[id] = Expeditor::Command.const(c['const']); next; end
      o = {}
      o[:service] = @services[c['service']] if c['service']
      o[:timeout] = c['timeout_ms'] / 1000.0 if c['timeout_ms']
      o[:timeout] = 0 if c['timeout_ms'] == 0
      blk = proc do |*args|
        n = (@attempts[id] += 1)
        e = ['attempt', id, n]
        e << args if c['log_args']
        note(*e)
        @entered[id].set
        steps(c['body'][[n, c['body'].size].min - 1], args, nil)
      end
      if c['chain_of'] then @commands[id] = @commands[c['chain_of']].chain(o, &blk)
      else
        o[:dependencies] = c['deps'].map { |d| @commands[d] } if c['deps']
        @commands[id] = Expeditor::Command.new(o, &blk)
      end
      fallback(id, c['fallback']) if c['fallback']
    end
  end
  def fallback(id, st)
    @commands[id].set_fallback { |e| note('fallback', id, kind(e)); steps(st, [], e) }
  end
  def options(a)
    r = a['retry']; id = a['cmd']; o = {}
    if r.key?('tries') then o[:tries] = r['tries'] == 'infinite' ? :infinite : r['tries'] end
    case r['sleep']
    when nil
    when 'linear' then o[:sleep] = ->(n) { (n + 1) * 0.1 }
    when 'pow2' then o[:sleep] = ->(n) { 0.1 * 2**n }
    else o[:sleep] = Rational(r['sleep'], 1000)
    end
    unless r['real_sleep']
      o[:sleep_method] = ->(s) do
        us = (s * 1_000_000).round
        note('delay', id, us)
        $clock += Rational(us, 1_000_000)
        raise make('A', nil) if r['sleep_raises']
      end
    end
    o[:on] = list(r['on']) if r['on']
    o[:not] = list(r['not']) if r['not']
    if (m = r['matching'])
      o[:matching] = m.is_a?(Hash) ? Regexp.new(m['regexp'] || m['Regexp']) : m
    end
    if r['cb']
      o[:exception_cb] = ->(e) { note('exception_cb', id, kind(e)) }
      o[:log_method] = ->(n, e) { note('log_method', id, n, kind(e)) }
      o[:ensure] = ->(n) { note('ensure', id, n) }
    end
    o[:bogus] = 1 if r['bogus']
    o
  end
  def list(l) = l.is_a?(Array) ? l.map { |k| KINDS[k] } : KINDS[l]
  def told(v) = { 'value'=>v }
  def bounded
    result = nil
    th = Thread.new { result = begin; yield; rescue Exception => e; describe(e); end }
    unless th.join(HANG)
      @hung << th
      return { 'hang'=>true }
    end
    result
  end
  def settle = sleep(SETTLE)
  def act(a)
    c = @commands[a['cmd']]; s = @services[a['service']]
    case a['op']
    when 'start'
      bounded do
        r = if a['retry'] then c.start_with_retry(current_thread: !!a['current_thread'], **options(a)) else c.start(current_thread: !!a['current_thread']) end
        told(r.equal?(c) ? 'self' : 'other')
      end
    when 'wait' then bounded { c.wait; told('done') }
    when 'get' then bounded { told(c.get) }
    when 'started' then told(!!c.started?)
    when 'set_fallback' then bounded { fallback(a['cmd'], a['fallback']); told('self') }
    when 'hook'
      bounded do
        n = ->(*w) { note('hook', a['cmd'], a['name'], *w); raise EB, 'ErrB' if a['raises'] }
        case a['hook']
        when 'success' then c.on_success { |v| n.(v) }
        when 'failure' then c.on_failure { |e| n.(kind(e)) }
        else c.on_complete { |ok, v, e| n.(ok, v, e && kind(e)) }
        end
        told('ok')
      end
    when 'status'
      st = s.status
      { 'st'=>[st.success, st.failure, st.rejection, st.timeout, st.break, st.dependency], 'open'=>!!s.breaking? }
    when 'run_if_allowed' then bounded { told(s.run_if_allowed { steps(a['body'], [], nil) }) }
    when 'reset' then s.reset_status!; nil
    when 'shutdown' then s.shutdown; nil
    when 'fallback_enabled' then s.fallback_enabled = a['value']; nil
    when 'record' then s.send(a['kind']); nil
    when 'open' then gate(a['gate']).set; nil
    when 'entered' then bounded { @entered[a['cmd']].wait }; nil
    when 'advance' then $clock += Rational(a['us'], 1_000_000); nil
    when 'settle' then settle; nil
    else raise "op #{a}"
    end
  end
  def run
    setup
    @t['actions'].each { |a| e = act(a); e ? a['expect'] = e : a.delete('expect') }
    settle
    log = @lm.synchronize { @log.dup }
    @t.delete('log'); @t.delete('log_by_command')
    if @t['ordered'] == false
      by = {}
      log.each { |e| (by[e[1]] ||= []) << e }
      @t['log_by_command'] = by
    else @t['log'] = log
    end
    @hung.each(&:kill)
    @gates.each_value(&:set)
    @t
  end
end
STDIN.each_line do |l|
  t = JSON.parse(l)
  puts JSON.generate(Player.new(t).run)
  STDOUT.flush
end
exit!(0) # some threads hang
