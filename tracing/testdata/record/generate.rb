# Makes random inputs for record.rb, of a group: header, annotation, env, sampling, trace, client, rack or udp.
#
#   ruby generate.rb SEED COUNT GROUP > inputs.json
require 'json'

SEED, COUNT, GROUP = ARGV[0].to_i, ARGV[1].to_i, ARGV[2]
R = Random.new(SEED)

def pick(*all) = all[R.rand(all.size)]
def chance(p) = R.rand < p
def some(max, &f) = Array.new(R.rand(max + 1), &f)
def hex(n) = Array.new(n) { '0123456789abcdef'[R.rand(16)] }.join

ROOT = '1-67891233-abcdef012345678912345678'
PARENT = '53995c3f42cd8ad8'

def root
  pick(ROOT, ROOT, ROOT, "1-#{hex(8)}-#{hex(24)}", '', 'nope', "#{ROOT}\n", "#{ROOT}=", "2-#{ROOT[2..]}", ROOT.upcase, ROOT[0..-2], "#{ROOT},", '1-67891233 -abcdef012345678912345678')
end

def parent = pick(PARENT, PARENT, hex(16), '', 'zz', PARENT.upcase, "#{PARENT}0", "#{PARENT}\n", 'é')

def field
  k = pick('Foo', 'Lineage', 'Self', 'a', 'root', 'Sampled2', 'x y', "t\tab", 'é', '', 'Baz', 'k-1')
  v = pick('bar', 'a:1|b:2', '', 'a=b=c', '==', ' v ', "t\tab", 'ü', 'x' * 30, 'x' * 600, "\x01", '1;2', '"q"', ',')
  pick("#{k}=#{v}", "#{k}=#{v}", k, "=#{v}", "#{k}==#{v}")
end

def header
  parts = []
  parts << "Root=#{root}" if chance(0.8)
  parts << "Parent=#{parent}" if chance(0.5)
  parts << "Sampled=#{pick('1', '1', '1', '0', '?', '', '01', '1=', '=1', 'true')}" if chance(0.8)
  parts.concat(some(3) { field })
  parts.concat(Array.new(40) {|i| "k#{i}=v" }) if chance(0.03)
  parts << pick("Root=#{root}", "Sampled=0", "Parent=#{parent}", 'Foo=again') if chance(0.15)
  parts.shuffle!(random: R) if chance(0.4)
  s = parts.join(pick(';', ';', ';', '; ', ' ;', ';;'))
  s += ';' if chance(0.1)
  chance(0.03) ? pick('', ' ', ';', '=', '===', '=;=', 'Foo') : s
end

def gen_header = {'kind' => 'header', 'input' => {'header' => header}}

def scalar
  pick(1, 0, -5, 1.5, 1.0, -0.25, 1e20, 1e-7, 123456789012345678901234567890, true, false, nil, '', 'v', 'ü', "a\nb", '"', '\\', '</', "\u2028", 'x' * 1001, 'é' * 1200,
    {'float' => pick('nan', 'inf', '-inf')}, {'symbol' => 'sym'}, {'repeat' => 'v', 'times' => 999 + R.rand(4)})
end

def compound
  pick([1, 'a', nil], [], {'map' => {'a' => 1}}, {'map' => {}}, {'time' => R.rand(2_000_000_000)}, [[1], 'ü'], [true, {'map' => {'k' => 'v'}}])
end

def annotation_key
  pick('k', 'key-name', 'a.b', '名前', '!!!', '', '-', '_', 'a b', 'A-1', 'x' * 499, {'repeat' => 'k', 'times' => 501}, {'symbol' => 's-1'}, 5, 1.5, true, 'hostname2', 'a_b', 'a-b', 'ab')
end

def gen_annotation = {'kind' => 'annotation', 'input' => {'pairs' => Array.new(1 + R.rand(4)) { [annotation_key, chance(0.8) ? scalar : compound] }}}

def gen_env
  env = {}
  if chance(0.5)
    env['AWS_XRAY_LOCATION'] = pick('localhost:2000', '127.0.0.1:3000', 'xray.local:2000', '[::1]:2000', '[fe80::1]:2000', '[1:2:3:4:5:6:7:8]:2000', '::1:2000', 'localhost', 'localhost:',
      ':2000', '', ':', '::', 'localhost:0', 'localhost:65535', 'localhost:65536', 'localhost:-1', 'localhost:+2000', 'localhost:2_000', 'localhost:0b11', 'localhost:0o17', 'localhost:017', 'localhost:09',
      'a:1:2', 'a:1:', ' a:1', 'a :1', 'a: 1', "a:1\n", 'http://a:1', 'a/b:1', 'a:1/', 'udp:a:1 tcp:b:2', 'ü:1', 'a:1e3', 'a:2000.0', '[::1]', '[]:1', 'a]:1')
  end
  env['AWS_XRAY_NAME'] = pick('svc', '', ' ', 'bad(name)') if chance(0.4)
  if chance(0.5)
    env['AWS_XRAY_SAMPLING_RATE'] = pick('0.3', '0', '1', '1.0', '0.0', '-0', '', ' ', ' 0.5 ', '0.2_5', '1_0', '_1', '.5', '5.', '1.', '0.', '1.e-2', '1e-3', '1E-3', '1e', 'e3', '2', '-1', '-0.5', '1.0000001', 'NaN', 'nan', 'Infinity', 'inf', '-inf',
      '0x1', '0x0.8p0', '0x.8', '10%', '0,5', '0.5f', '+0.5', '++1', '1/2', '0.5.1', "0.5\n")
  end
  env['AWS_XRAY_EXCLUDED_PATHS'] = pick('/a', '/a,/b', '/a, /b', ',', '', ' ', '/a,,/b,', 'health', '/a?x', '*', '/a,*', '/a#b', '/ü', '/a b', ' /a ,/b', "/a\t") if chance(0.4)
  env['AWS_XRAY_DAEMON_ADDRESS'] = pick('127.0.0.1:3000', 'udp:127.0.0.1:1 tcp:127.0.0.1:2', 'tcp:127.0.0.1:2 udp:[::1]:1', '', 'nowhere', '127.0.0.1') if chance(0.15)
  env['AWS_XRAY_TRACING_NAME'] = pick('x', '') if chance(0.15)
  env['AWS_XRAY_CONTEXT_MISSING'] = pick('LOG_ERROR', 'IGNORE_ERROR', 'RUNTIME_ERROR', 'log', '') if chance(0.1)
  env['AWS_XRAY_SDK_DISABLED'] = pick('true', 'FALSE', '1', '') if chance(0.1)
  {'kind' => 'env', 'input' => {'env' => env}}
end

def gen_sampling
  rate = pick(0, 1, 0.5, 0.01, 0.001, 0.99, 0.999999, 1.01, 1.5, 100, -1, -0.5, -0.01, -2, 1.0, 0.0, {'float' => 'nan'}, {'float' => 'inf'}, R.rand.round(3))
  input = {'rate' => rate, 'trials' => pick(1, 50, 500, 5000, 20000)}
  input['header'] = chance(0.5) ? header : pick('Sampled=1', 'Sampled=0', 'Sampled=?') if chance(0.5)
  {'kind' => 'sampling', 'input' => input}
end

def name = pick('a', 'work', 'db.local:3306', 'GET /a?b={c}', '', 'x' * 201, '検索', "a\nb", 'svc-🍳', 'a*b', {'repeat' => 'n', 'times' => 300}, ' s', 'q"q')

def url
  pick('http://h/p?q=1#f', 'https://h:8443/a', 'http://h', 'http://h/', 'http://h:80/p', 'https://h:443/', 'HTTP://H/P', 'http://u:secret@h/p', 'http://u@h/p?q', '/p?q=1', 'h/p', 'http://h/a b?q=1', 'http://h/ü', 'http://h/%zz', 'http://h/%20',
    '', 'mysql2://127.0.0.1:3306', '//h/p', 'http://h/@scope', 'http://h/?', 'http://h/p?a=u:p@h', 'http://[::1]:80/p')
end

def values(f)
  some(3) { [f.call, chance(0.85) ? scalar : compound] }.to_h
end

def metadata_value
  pick(scalar, compound, {'map' => {'x' => scalar}}, {'map' => {}}, {'map' => {'x' => 1, 'y' => [nil]}}, [{'float' => 'nan'}], {'map' => {'x' => {'float' => 'inf'}}})
end

def metadata = some(3) { [pick('k', 'n', 'nested', 'default', 'tracing_sdk2', 'ü', '', 'a b'), metadata_value] }.to_h

def server
  spec = {}
  case R.rand(10)
  when 0 then spec['behaviour'] = pick('refused', 'timeout', 'close')
  else
    spec['status'] = pick(200, 200, 201, 204, 301, 304, 400, 404, 418, 429, 499, 500, 503, 599, 600, 999) if chance(0.8)
    spec['body'] = pick('hello', '', 'ü') if chance(0.5) && ![204, 304].include?(spec['status'])
    spec['headers'] = pick({}, {'Content-Type' => 'text/plain'}, {'content-length' => (spec['body'] || '').bytesize.to_s}) if chance(0.2)
  end
  spec
end

def call
  op = {'op' => pick('http', 'http', 'faraday')}
  op['method'] = pick('POST', 'PUT', 'DELETE', 'HEAD') if chance(0.15)
  op['body'] = 'abc' if %w[POST PUT].include?(op['method'])
  op['path'] = pick('/a/b?secret=1', '/p', '/a%20b', '/a?b=1&a=2', '/a b', '/ü', '/@x', '/a;b') if chance(0.3)
  headers = {}
  headers['X-Aws-Xray-Name'] = pick('target-app', 'a', '', 'a*b', 'x' * 210) if chance(0.3)
  headers['Host'] = pick('service-a', 'svc.local', 'svc.local:8080') if chance(0.3)
  headers['User-Agent'] = pick('my-agent/1', 'x' * 2100) if chance(0.15)
  headers['X-Amzn-Trace-Id'] = 'Root=mine' if chance(0.1)
  op['headers'] = headers unless headers.empty?
  op['server'] = server if chance(0.8)
  op['server']&.delete('headers') if op['method'] == 'HEAD'
  if op['op'] == 'http'
    op['style'] = pick('start', 'new') if chance(0.3)
  else
    op['name'] = pick('x', 'target-app', '') if chance(0.3)
    op['raise_error'] = pick('inner', 'outer') if chance(0.2)
  end
  op['swallow'] = true if chance(0.6)
  op
end

# change is an operation on a segment.
def change(sub)
  case R.rand(sub ? 10 : 8)
  when 0 then {'op' => 'annotate', 'values' => values(-> { pick('user-id', 'ok', 'a-b', 'a_b', '!', 'hostname', 'x y', 'k') })}
  when 1 then {'op' => 'metadata', 'values' => metadata}
  when 2 then {'op' => 'http_response', 'status' => status, 'length' => length, 'remote' => chance(0.5)}
  when 3 then {'op' => 'plain_http_response', 'status' => status, 'length' => length}
  when 4
    r = {'method' => pick('GET', 'POST', '', 'x' * 260), 'url' => url}
    r['user_agent'] = pick('ua', '', 'x' * 2001) if chance(0.4)
    r['client_ip'] = pick('192.0.2.1', '') if chance(0.4)
    r['x_forwarded_for'] = chance(0.5) if chance(0.4)
    r['traced'] = chance(0.5) if chance(0.3)
    op = {'op' => 'http_request', 'request' => r}
    op['traced'] = chance(0.5) if chance(0.3)
    op
  when 5 then {'op' => 'set_error', 'flags' => some(3) { [pick('error', 'throttle', 'fault'), chance(0.6)] }.to_h}
  when 6 then {'op' => 'finish'}
  when 7 then {'op' => 'annotate', 'values' => {'server' => 'web-001'}}
  when 8 then {'op' => 'trace_header'}
  when 9 then {'op' => 'set_sql', 'sql' => {'url' => url, 'database_version' => pick('8.0', nil, '', 'v' * 260)}.compact}
  end
end

def status = pick(200, 301, 400, 404, 429, 499, 500, 599, 600, 100, 0, '404', '429x', 'abc', nil, '503 ', 204)
def length = pick(0, 10, '10', 'abc', nil, '', -1, 1.5, '0x10')

$messages = 0
def message = pick('inside', 'later', 'ü', "boom #{$messages += 1}", 'a "quoted" one')

def fail_op = chance(0.8) ? {'op' => 'raise', 'message' => message, 'class' => pick('Boom', 'ArgumentError', 'NotImplementedError')} : {'op' => 'deep_raise', 'depth' => pick(3, 50, 300, 500), 'message' => message}

# ops are operations; seg is the segment on which they are executed: nil, :segment or :sub.
def ops(depth, seg, max = 3)
  some(max) { op(depth, seg) }
end

def op(depth, seg)
  nested = depth > 0
  case R.rand(nested ? 22 : 12)
  when 0, 1, 2, 3 then seg ? change(seg == :sub) : {'op' => 'started?'}
  when 4 then {'op' => 'started?'}
  when 5 then {'op' => 'current'}
  when 6 then {'op' => 'disabled?', 'id' => pick('net_http', 'x')}
  when 7, 8 then call
  when 9 then chance(0.5) ? fail_op : call
  when 10, 11 then seg == :sub ? change(true) : {'op' => 'started?'}
  when 12, 13, 14, 15 then {'op' => 'subsegment', 'name' => name, 'remote' => chance(0.5), 'do' => ops(depth - 1, :sub)}
  when 16 then {'op' => 'trace', 'name' => pick('inner', 'other', '', name), 'do' => ops(depth - 1, :segment)}
  when 17 then {'op' => 'rescue', 'do' => ops(depth - 1, seg)}
  when 18 then {'op' => 'overwrite', 'name' => pick('sns', 'over', 'over', '', 'a*'), 'do' => ops(depth - 1, seg)}
  when 19 then {'op' => 'disable', 'id' => pick('net_http', 'x'), 'do' => ops(depth - 1, seg)}
  when 20 then pick({'op' => 'thread', 'context' => 'copy', 'do' => ops(depth - 1, seg)}, {'op' => 'thread', 'context' => 'none', 'do' => ops(depth - 1, nil)}, {'op' => 'fiber', 'do' => ops(depth - 1, seg)})
  when 21 then pick({'op' => 'given_context', 'do' => ops(depth - 1, seg)}, {'op' => 'rsolr', 'do' => ops(depth - 1, seg)})
  end
end

def config
  c = {}
  c['name'] = pick('configured', '', nil, 'bad(name)', 'x' * 250) if chance(0.08)
  c['version'] = pick('deadbeef', '', 'v' * 300) if chance(0.1)
  c['sampling_rate'] = pick(0, 1, 2, -1, -0.5) if chance(0.08)
  c['record_caller'] = true if chance(0.1)
  c['solr_hook_name'] = pick('solr-dev', '') if chance(0.05)
  c['default_annotation'] = pick({}, {'server' => 'web-001', 'bad-key!' => {'symbol' => 'v'}}, {'n' => nil}, {'a-b' => 1, 'a_b' => 2}, {'!' => 1}, {'list' => [1]}) if chance(0.1)
  c['default_metadata'] = pick({}, {'k' => 1}, {'ns' => {'a' => 1}}, {'k' => 'v', 'nested' => {'x' => nil}}) if chance(0.08)
  c
end

def gen_trace
  input = {}
  input['name'] = pick('test-app', 'other', name) if chance(0.85)
  input['header'] = chance(0.7) ? "Root=#{ROOT};Sampled=1" : header if chance(0.8)
  if chance(0.08)
    input['bare'] = true
    input['do'] = ops(3, nil)
  else
    input['do'] = ops(4, :segment, 4)
  end
  with_config({'kind' => 'trace', 'input' => input})
end

def with_config(c)
  given = config
  given.empty? ? c : c.merge('config' => given)
end

def gen_client
  input = {'name' => 'test-app', 'header' => "Root=#{ROOT};Sampled=#{pick('1', '1', '1', '0')}#{pick('', ';Foo=bar', ';Self=1-2-3')}", 'do' => Array.new(1 + R.rand(2)) { call }}
  with_config({'kind' => 'trace', 'input' => input})
end

def gen_rack
  headers = {}
  headers['X-Amzn-Trace-Id'] = chance(0.5) ? "Root=#{ROOT};Parent=#{PARENT};Sampled=1" : header if chance(0.8)
  headers['User-Agent'] = pick('curl/8.0', '', 'x' * 2100, {'hex' => '6162ff80c3a963'}, {'hex' => 'e3818263ff', 'encoding' => 'UTF-8'}, 'ü') if chance(0.3)
  headers['X-Forwarded-For'] = pick('203.0.113.7', '203.0.113.7, 10.0.0.1', '10.0.0.1', '', 'unknown', '198.51.100.1,203.0.113.7 , 192.168.0.1', '2001:db8::1', '[2001:db8::1]:80', '203.0.113.7:80', 'fd00::1, ::1', ',,', '127.0.0.2', 'fe80::1', '::ffff:10.0.0.1') if chance(0.3)
  headers['X-Forwarded-Proto'] = pick('https', 'http', 'HTTPS', 'https,http', 'ftp', '') if chance(0.12)
  headers['X-Forwarded-Host'] = pick('outside.example', 'a, b', '') if chance(0.06)
  headers['X-Forwarded-Ssl'] = pick('on', 'off') if chance(0.04)
  headers['Host'] = pick('svc.local', 'svc.local:8080', 'svc.local:80', '[::1]:80') if chance(0.2)
  input = {}
  input['headers'] = headers unless headers.empty?
  input['url'] = pick('/x', '/x?q=1', 'http://www.example.com/a/b?q=1&r=2', 'https://www.example.com:8443/a', 'https://www.example.com/', 'http://www.example.com:80/a', '/a%20b', '/a%2Fb', '/health', '/health/deep', '/%zz1'.sub('%zz1', 'zz')) if chance(0.6)
  input['method'] = pick('POST', 'PUT', 'get', 'BREW') if chance(0.2)
  input['remote_addr'] = pick('10.0.0.9', '198.51.100.4', '::1', 'fd00::1', '2001:db8::2', '127.0.0.2') if chance(0.3)
  input['env'] = pick({'PATH_INFO' => '/x y', 'QUERY_STRING' => 'q=1'}, {'PATH_INFO' => '/a[1]'}, {'QUERY_STRING' => 'a b'}, {'HTTPS' => 'on'}, {'SERVER_PORT' => '8080'}, {'PATH_INFO' => '/ü'}) if chance(0.12)
  excluded = -> { pick(['/health'], [{'regexp' => '/token/.+'}], [{'regexp' => 'heal'}], ['health'], ['/a b'], ['/a%20b'], [''], [{'regexp' => '^x'}], [{'regexp' => ''}], ['/x', '/health']) }
  input['excluded_paths'] = excluded.call if chance(0.1)
  app = {}
  app['status'] = pick(200, 201, 204, 301, 304, 400, 404, 418, 429, 499, 500, 503, 599, 600, 999, 100, 101, 103, 199, 99, 0, 1000, '404', '200') if chance(0.6)
  app['headers'] = pick({'Content-Length' => '5'}, {'content-length' => '7'}, {'X-Amzn-Trace-Id' => 'Root=own'}, {'Content-Length' => 'abc'}, {'Content-Length' => ''}) if chance(0.2)
  app['do'] = ops(3, nil).reject {|o| o['op'] == 'current' } if chance(0.5)
  input['app'] = app
  c = {'kind' => 'rack', 'input' => input}
  given = config
  given['excluded_paths'] = excluded.call if chance(0.1)
  given.empty? ? c : c.merge('config' => given)
end

def gen_udp
  input = {}
  input['client'] = pick('null', 'short', 'unresolvable', 'udp') if chance(0.6)
  input['name'] = pick('svc', 'クックパッド', '', 'x' * 210) if chance(0.4)
  input['traces'] = 1 + R.rand(5) if chance(0.5)
  stops = chance(0.3) && [nil, 'udp'].include?(input['client'])
  input['worker'] = {'num' => stops ? 0 : 1, 'max_queue_size' => pick(0, -1, 1, 2, 3, 4, 5, 10, 10)} if chance(0.5) || stops
  input['timeout'] = 1 if stops
  do_ops = some(3) do
    pick({'op' => 'subsegment', 'name' => name, 'remote' => false, 'do' => []}, {'op' => 'annotate', 'values' => {'k' => pick('v', 'ü', 1)}},
      {'op' => 'metadata', 'values' => {'big' => {'repeat' => 'x', 'times' => pick(10, 64_000, 70_000, 200_000)}}},
      {'op' => 'subsegment', 'name' => 'big', 'remote' => false, 'do' => [{'op' => 'metadata', 'values' => {'big' => {'repeat' => 'x', 'times' => 70_000}}}]})
  end
  do_ops << {'op' => 'annotate', 'values' => {'k' => {'float' => 'nan'}}} if %w[null short].include?(input['client']) && chance(0.2)
  input['do'] = do_ops unless do_ops.empty?
  input['omit_packet'] = true if JSON.generate(do_ops).include?('64000')
  {'kind' => 'udp', 'input' => input}
end

cases = Array.new(COUNT) {|i| {'id' => format('%04d', i)}.merge(send("gen_#{GROUP}")) }
puts JSON.generate('group' => "random-#{GROUP}", 'cases' => cases)
