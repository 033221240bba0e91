# Records the outputs of the Ruby gem aws-xray for inputs of the kinds in ../golden/README.md.
#
#   ruby -I aws-xray/lib record.rb < inputs.json > recordings.json
#
# It needs the gem's source (cookpad/aws-xray, commit 7406105), Rack 2.2 and Faraday 1.1. Input and
# output are {"group", "cases": [{"id", "kind", "config", "input"}]}; the output's cases have
# "output" too. Each case runs in a separate process.
require 'json'
require 'socket'
require 'timeout'

GEM_LIB = $LOAD_PATH.find {|p| File.exist?(File.join(p, 'aws/xray.rb')) }
APP = File.basename(__FILE__)

class Boom < StandardError; end

# special converts a value of a case to the value that it describes.
def special(v)
  case v
  when Array then v.map {|e| special(e) }
  when Hash
    if v.key?('repeat') then v['repeat'] * v['times']
    elsif v.key?('hex')
      s = [v['hex']].pack('H*')
      v['encoding'] ? s.force_encoding(v['encoding']) : s
    elsif v.key?('float') then {'nan' => Float::NAN, 'inf' => Float::INFINITY, '-inf' => -Float::INFINITY}.fetch(v['float'].downcase)
    elsif v.key?('symbol') then v['symbol'].to_sym
    elsif v.key?('time') then Time.at(v['time']).utc
    elsif v.key?('map') then special(v['map'])
    else v.transform_values {|e| special(e) }
    end
  else v
  end
end

# Normalise numbers ids and removes the parts that differ from run to run.
class Normalise
  def initialize(input)
    @given = JSON.generate(input).delete(' ')
    @ids, @roots = {}, {}
  end

  def id(s)
    return s if s.nil? || s.empty? || @given.include?(s)
    @ids[s] ||= "<id:#{@ids.size + 1}>"
  end

  def root(s)
    return s unless s.is_a?(String) && s.match?(/\A1-[0-9a-f]{8}-[0-9a-f]{24}\z/) && !@given.include?(s)
    @roots[s] ||= "<root:#{@roots.size + 1}>"
  end

  def text(s)
    s.gsub(/1-[0-9a-f]{8}-[0-9a-f]{24}/) {|m| root(m) }.gsub(/Parent=([0-9a-f]{16})/) { "Parent=#{id($1)}" }
  end

  def texts(v)
    case v
    when String then text(v)
    when Array then v.map {|e| texts(e) }
    when Hash then v.transform_values {|e| texts(e) }
    else v
    end
  end

  def document(d)
    d.to_h do |k, v|
      [k, case k
          when 'id', 'parent_id' then id(v)
          when 'trace_id' then root(v)
          when 'start_time', 'end_time' then '<time>'
          when 'annotations' then v['hostname'] == Socket.gethostname ? v.merge('hostname' => '<hostname>') : v
          when 'metadata' then metadata(v)
          when 'http' then http(v)
          when 'cause' then cause(v)
          else v
          end]
    end
  end

  def http(v)
    v['request'] && v['request']['url'] ? v.merge('request' => v['request'].merge('url' => ports(v['request']['url']))) : v
  end

  def ports(s) = s.gsub(/127\.0\.0\.1:\d+/, '127.0.0.1:<port>').gsub(/port \d+/, 'port <port>')

  def metadata(v)
    c = v['caller']
    return v unless c.is_a?(Hash) && c['stack'].is_a?(Array)
    v.merge('caller' => {'stack' => stack(c['stack']), 'truncated' => c['truncated'] == 0 ? 0 : '<positive>'})
  end

  def cause(v) = v.merge('working_directory' => '<cwd>/', 'exceptions' => v['exceptions'].map {|e| exception(e) })

  def exception(e)
    e.to_h do |k, v|
      [k, case k
          when 'id' then id(v)
          when 'truncated' then v == 0 ? 0 : '<positive>'
          when 'stack' then stack(v)
          when 'message' then ports(v.to_s)
          else v
          end]
    end
  end

  def stack(frames)
    first = frames.first && frames.first['path']
    shown = if first.nil? then nil
            elsif first.end_with?(APP) then '<app>'
            elsif first.include?('lib/aws/xray/') then "<gem>/#{first[%r{aws/xray/.*}]}"
            else "<ruby-library>/#{File.basename(first)}"
            end
    {'<stack>' => {
      'frames' => [10, 100, 250].include?(frames.size) ? frames.size : '<below-cap>',
      'each_has_path_line_label' => frames.all? {|f| f['path'] && f['line'] && f['label'] },
      'line_type' => frames.map {|f| f['line'].class.to_s }.uniq.join(','),
      'first_path' => shown,
    }}
  end
end

def run_case(c)
  case c['kind']
  when 'header' then run_header(c)
  when 'annotation' then run_annotation(c)
  when 'env' then run_env(c)
  when 'sampling' then run_sampling(c)
  when 'trace', 'rack' then Runner.new(c).send(c['kind'])
  when 'udp' then run_udp(c)
  else raise "unknown kind #{c['kind']}"
  end
end

def load_gem
  require 'aws/xray'
  require 'aws/xray/hooks/net_http'
  require 'aws/xray/faraday'
  Aws::Xray.config.logger.level = Logger::FATAL
end

def run_header(c)
  load_gem
  header = special(c['input']['header'])
  out = {'pairs' => Aws::Xray::HeaderParser.parse(header).to_a}
  [0, 1].each do |rate|
    Aws::Xray.config.sampling_rate = rate
    trace, n = Aws::Xray::Trace.build_from_header_value(header), Normalise.new(c['input'])
    out["at_rate_#{rate}"] = {
      'root' => n.root(trace.root), 'parent' => trace.parent, 'has_parent' => trace.has_parent?, 'sampled' => trace.sampled?,
      'to_header_value' => n.text(trace.to_header_value),
      'child_header_value' => n.text(trace.copy(parent: '<child>').to_header_value),
    }
  end
  out
end

def run_annotation(c)
  load_gem
  h = {}
  c['input']['pairs'].each {|k, v| h[special(k)] = special(v) }
  r = Aws::Xray::AnnotationNormalizer.call(h)
  json = begin
    r.to_json
  rescue StandardError => e
    {'json_error' => e.class.to_s}
  end
  {'pairs' => r.map {|k, v| [k.to_s, v.is_a?(Float) && !v.finite? ? {'float' => v.to_s} : v] }, 'json' => json}
end

# run_env loads the gem, which reads the environment when it is loaded.
def run_env(c)
  ENV.update(c['input']['env'])
  require 'aws/xray'
  cfg = Aws::Xray.config
  o = cfg.client_options
  {'name' => cfg.name, 'client' => o[:sock] ? {'sock' => o[:sock].class.to_s} : {'host' => o[:host], 'port' => o[:port]},
   'excluded_paths' => cfg.excluded_paths, 'sampling_rate' => cfg.sampling_rate,
   'worker' => {'num' => cfg.worker.num, 'max_queue_size' => cfg.worker.max_queue_size},
   'record_caller' => cfg.record_caller_of_http_requests, 'solr_hook_name' => cfg.solr_hook_name}
rescue StandardError => e
  {'raised' => {'class' => e.class.to_s, 'message' => e.message}}
end

def run_sampling(c)
  load_gem
  i = c['input']
  rate = Aws::Xray.config.sampling_rate = special(i['rate'])
  yes = Array.new(i['trials']) { Aws::Xray::Trace.build_from_header_value(special(i['header']) || '').sampled? }.count(true)
  {'fraction_within_0_02_of_rate' => (yes.to_f / i['trials'] - rate).abs <= 0.02, 'all' => yes == i['trials'], 'none' => yes == 0}
end

def configure(c)
  load_gem
  cfg, given = Aws::Xray.config, c['config'] || {}
  cfg.name = given.key?('name') ? special(given['name']) : 'test-app'
  cfg.version = special(given['version']) if given.key?('version')
  cfg.sampling_rate = given.key?('sampling_rate') ? special(given['sampling_rate']) : 1
  cfg.excluded_paths = paths(given['excluded_paths'])
  cfg.record_caller_of_http_requests = given['record_caller'] if given.key?('record_caller')
  cfg.default_annotation = special(given['default_annotation']) if given.key?('default_annotation')
  cfg.default_metadata = special(given['default_metadata']) if given.key?('default_metadata')
  cfg.solr_hook_name = special(given['solr_hook_name']) if given.key?('solr_hook_name')
end

def paths(list) = (list || []).map {|p| p.is_a?(Hash) && p['regexp'] ? Regexp.new(p['regexp']) : special(p) }

# Runner runs operations.
class Runner
  def initialize(c, configured: false)
    @input, @log, @wire, @n = c['input'], [], [], Normalise.new(c['input'])
    return if configured
    configure(c)
    @io = Aws::Xray::TestSocket.new
    Aws::Xray.config.client_options = {sock: @io}
  end

  def trace
    outcome do
      if @input['bare']
        run(@input['do'])
      else
        t = @input['header'] ? Aws::Xray::Trace.build_from_header_value(special(@input['header'])) : Aws::Xray::Trace.generate
        Aws::Xray.trace(name: special(@input['name']), trace: t) {|s| run(@input['do'], s) }
      end
    end
  end

  def rack
    app = @input['app'] || {}
    inner = lambda do |env|
      @env_seen = env.slice('HTTP_X_AMZN_TRACE_ID', 'HTTP_X_AMZN_TRACE_ID_ORIGINAL')
      run(app['do'])
      [app.key?('status') ? app['status'] : 200, special(app['headers'] || {}), []]
    end
    outcome do
      stack = Aws::Xray::Rack.new(inner, excluded_paths: paths(@input['excluded_paths']))
      env = ::Rack::MockRequest.env_for(@input['url'] || '/', method: @input['method'] || 'GET')
      (@input['headers'] || {}).each {|k, v| env["HTTP_#{k.upcase.tr('-', '_')}"] = special(v) }
      env['REMOTE_ADDR'] = @input['remote_addr'] || '127.0.0.1'
      env.merge!(special(@input['env'] || {}))
      status, headers, = stack.call(env)
      @response = {'status' => status, 'headers' => headers.select {|k, _| %w[content-length x-amzn-trace-id].include?(k.downcase) }}
    end
  end

  def outcome
    begin
      yield
    rescue Exception => e # the gem records them all
      raised = {'class' => e.class.to_s, 'message' => @n.ports(e.message)}
    end
    out = {'documents' => @io.string.split("\n").each_slice(2).map {|_, d| @n.document(JSON.parse(d)) }, 'end_not_before_start' => true}
    out['wire_requests'] = @n.texts(@wire) if @called
    out['log'] = @n.texts(@log) unless @log.empty?
    out['raised'] = raised if raised
    out['response'] = @n.texts(@response) if @response
    out['env_seen_by_app'] = @n.texts(@env_seen) if @env_seen
    out['started_after'] = Aws::Xray.started?
    out
  end

  def run(ops, seg = nil) = (ops || []).each {|op| step(op, seg) }

  def step(op, seg)
    ops = op['do']
    case op['op']
    when 'subsegment' then Aws::Xray.start_subsegment(name: special(op['name']), remote: op['remote']) {|s| run(ops, s) }
    when 'trace' then Aws::Xray.trace(name: special(op['name'])) {|s| run(ops, s) }
    when 'annotate' then seg.add_annotation(special(op['values']))
    when 'metadata' then seg.add_metadata(special(op['values']))
    when 'http_response' then seg.set_http_response_with_error(op['status'], op['length'], remote: op['remote'] || false)
    when 'plain_http_response' then seg.set_http_response(op['status'], op['length'])
    when 'http_request' then request(op, seg)
    when 'set_error' then seg.set_error(**op['flags'].transform_keys(&:to_sym))
    when 'set_sql' then seg.set_sql(Aws::Xray::Sql.new(*%w[url database_version].map {|k| special(op['sql'][k]) }))
    when 'finish' then seg.finish
    when 'overwrite' then Aws::Xray.overwrite(name: special(op['name'])) { run(ops, seg) }
    when 'disable' then Aws::Xray.disable_trace(op['id'].to_sym) { run(ops, seg) }
    when 'disabled?' then note(op, 'disabled' => Aws::Xray.disabled?(op['id'].to_sym))
    when 'started?' then note(op, 'started' => Aws::Xray.started?)
    when 'current' then current(op)
    when 'trace_header' then note(op, 'value' => seg.generate_trace.to_header_value)
    when 'raise' then raise Object.const_get(op['class'] || 'Boom'), op['message']
    when 'deep_raise' then deep(op['depth'], op['message'])
    when 'rescue' then guard(op, seg)
    when 'thread' then thread(op, seg)
    when 'fiber' then Fiber.new { run(ops, seg) }.resume
    when 'given_context' then Aws::Xray.with_given_context(Aws::Xray.current_context.copy) { run(ops, seg) }
    when 'rsolr' then Aws::Xray.overwrite(name: Aws::Xray.config.solr_hook_name) { run(ops, seg) }
    when 'http', 'faraday' then call(op)
    else raise "unknown operation #{op['op']}"
    end
  end

  def note(op, entry) = @log << {'op' => op['op']}.merge(entry)

  def current(op)
    Aws::Xray.current_context
    note(op, 'nil' => false)
  rescue Aws::Xray::NotSetError => e
    note(op, 'raised' => e.class.to_s, 'message' => e.message)
  end

  def request(op, seg)
    r = Aws::Xray::Request.build(**{method: nil, url: nil}.merge(special(op['request']).transform_keys(&:to_sym)))
    seg.is_a?(Aws::Xray::Subsegment) ? seg.set_http_request(r, traced: op['traced'] || false) : seg.set_http_request(r)
  end

  def deep(n, message) = n.zero? ? raise(Boom, message) : deep(n - 1, message) + 1

  def guard(op, seg)
    run(op['do'], seg)
  rescue Exception => e
    note(op, 'raised' => e.class.to_s, 'message' => @n.ports(e.message))
  end

  def thread(op, seg)
    context = Aws::Xray.current_context.copy if op['context'] == 'copy'
    t = Thread.new do
      Thread.current.report_on_exception = false
      context ? Aws::Xray.with_given_context(context) { run(op['do'], seg) } : run(op['do'])
    end
    t.join
  end

  def call(op)
    @called = true
    serve(op['server'] || {}) {|port| note(op, 'status' => op['op'] == 'http' ? net_http(op, port) : faraday(op, port)) }
  rescue StandardError => e
    raise unless op['swallow']
    note(op, 'raised' => e.class.to_s)
  end

  def net_http(op, port)
    req = Net::HTTPGenericRequest.new((op['method'] || 'GET'), !op['body'].nil?, op['method'] != 'HEAD', op['path'] || '/')
    (op['headers'] || {}).each {|k, v| req[k] = special(v) }
    req.body = op['body'] if op['body']
    http = Net::HTTP.new('127.0.0.1', port)
    http.read_timeout, http.max_retries = patience(op), 0
    (op['style'] == 'start' ? http.start {|h| h.request(req) } : http.request(req)).code.to_i
  end

  def faraday(op, port)
    conn = Faraday.new("http://127.0.0.1:#{port}", request: {timeout: patience(op)}) do |f|
      f.use Faraday::Response::RaiseError if op['raise_error'] == 'outer'
      f.use Aws::Xray::Faraday, *[op['name'] && special(op['name'])].compact
      f.use Faraday::Response::RaiseError if op['raise_error'] == 'inner'
      f.adapter(:net_http) {|h| h.max_retries = 0 }
    end
    conn.run_request((op['method'] || 'GET').downcase.to_sym, op['path'] || '/', op['body'], special(op['headers'] || {})).status
  end

  # patience is the timeout of a call. It is short if no response will arrive.
  def patience(op) = op.dig('server', 'behaviour') == 'timeout' ? 0.3 : 30

  # serve runs a server for one call.
  def serve(spec)
    listener = TCPServer.new('127.0.0.1', 0)
    port = listener.addr[1]
    if spec['behaviour'] == 'refused'
      listener.close
      return yield(port)
    end
    conns = []
    server = Thread.new do
      loop do
        conns << (conn = listener.accept)
        take(conn)
        case spec['behaviour']
        when 'timeout' then nil
        when 'close' then conn.close
        else answer(conn, spec)
        end
      end
    rescue IOError, SystemCallError
      nil
    end
    yield(port)
  ensure
    server&.kill
    server&.join
    conns&.each {|conn| conn.close unless conn.closed? }
    listener.close unless listener.closed?
  end

  def take(conn)
    line = conn.gets("\r\n")&.chomp or return
    headers = {}
    while (h = conn.gets("\r\n").chomp) != ''
      k, v = h.split(':', 2)
      headers[k.downcase] = v.strip
    end
    conn.read(headers['content-length'].to_i)
    shown = {'X-Aws-Xray-Name' => 'x-aws-xray-name', 'Host' => 'host', 'X-Amzn-Trace-Id' => 'x-amzn-trace-id'}.select {|_, key| headers.key?(key) }
    @wire << {'request_line' => line, 'headers' => shown.transform_values {|key| @n.ports(headers[key]) }}
  end

  def answer(conn, spec)
    body = spec['body'] || ''
    headers = spec['headers'] || {'Content-Length' => body.bytesize.to_s}
    conn.write("HTTP/1.1 #{spec['status'] || 200} X\r\n#{headers.map {|k, v| "#{k}: #{v}\r\n" }.join}Connection: close\r\n\r\n#{body}")
    conn.close
  end
end

class ShortSocket
  def send(*) = 3
  def close; end
end

def client_options(client, port)
  case client
  when 'null' then {sock: Aws::Xray::NullSocket.new}
  when 'short' then {sock: ShortSocket.new}
  when 'unresolvable' then {host: 'bad host name', port: 2000}
  else {host: '127.0.0.1', port: port}
  end
end

def run_udp(c)
  configure(c)
  i, cfg, calls, out = c['input'], Aws::Xray.config, [], {}
  $stderr.reopen(File::NULL)
  server = UDPSocket.new
  server.setsockopt(:SOCKET, :RCVBUF, 1 << 23)
  server.bind('127.0.0.1', 0)
  cfg.client_options = client_options(i['client'], server.addr[1])
  begin
    w = i['worker']
    cfg.worker = Aws::Xray::Worker::Configuration.new(num: w['num'], max_queue_size: w['max_queue_size']) if w
  rescue StandardError => e
    return {'worker_config_raised' => {'class' => e.class.to_s, 'message' => e.message}}
  end
  cfg.segment_sending_error_handler = lambda do |e, _payload, host:, port:|
    calls << {'error' => e.class.to_s, 'host' => host, 'port' => port && '<port>'}
    raise 'boom' if i['handler_raises']
  end
  completed, blocked, runner = 0, false, Runner.new(c, configured: true)
  begin
    Timeout.timeout(i['timeout'] || 10) do
      (i['traces'] || 1).times do
        Aws::Xray.trace(**(i['name'] ? {name: special(i['name'])} : {})) {|s| runner.run(i['do'], s) }
        completed += 1
      end
    end
  rescue Timeout::Error
    blocked = true
  rescue StandardError => e
    out['raised'] = {'class' => e.class.to_s, 'message' => e.message.sub(/\A\d+/, '<n>')}
  end
  packets = []
  packets << server.recvfrom(1 << 16)[0] while server.wait_readable(0.5)
  out.merge!('traces_completed' => completed, 'caller_blocked' => blocked, 'packets' => packets.size)
  out['first_packet'] = packet(packets.first, i) if packets.any? && !i['omit_packet']
  out.merge!('handler_calls' => calls)
end

def packet(p, input)
  p.force_encoding('UTF-8')
  head, doc, = p.split("\n", 3)
  {'lines' => p.count("\n") + 1, 'header_line' => head, 'ends_with_newline' => p.end_with?("\n"),
   'document' => Normalise.new(input).document(JSON.parse(doc)), 'ascii_only' => p.ascii_only?}
end

# in_process runs the block in a separate process.
def in_process
  r, w = IO.pipe
  pid = fork do
    r.close
    $stdin.close
    result = begin
      yield
    rescue Exception => e
      {'recorder_failed' => "#{e.class}: #{e.message} #{e.backtrace.first(3)}"}
    end
    w.write(JSON.generate(result))
    w.close
    exit!(0)
  end
  w.close
  text = r.read
  Process.wait(pid)
  JSON.parse(text, max_nesting: false)
end

require 'rack'
require 'net/http'
require 'io/wait'
require 'faraday'
file = JSON.parse($stdin.read, max_nesting: false)
file['cases'].each do |c|
  c['output'] = in_process { run_case(c) }
  warn "#{c['id']}: #{c['output']['recorder_failed']}" if c['output']['recorder_failed']
end
cases = file['cases'].reject {|c| c['output']['recorder_failed'] }
puts "{\"group\": #{JSON.generate(file['group'])}, \"cases\": [\n#{cases.map {|c| JSON.generate(c) }.join(",\n")}\n]}"
