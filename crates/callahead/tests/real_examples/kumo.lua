-- As much of KumoMTA's Lua API as the example uses, by KumoMTA's reference: requests go out for real, by perl. Plays RCPT for addresses:
-- lua5.4 kumo.lua SERVER TOKEN ADDRESS... prints a line for each, "accepted" or the code and text of kumo.reject.

-- JSON as KumoMTA gives it to Lua: objects and arrays are tables.
local function parse(text, at)
  at = text:find('%S', at)
  local first = text:sub(at, at)
  if first == '{' or first == '[' then
    local result, close = {}, first == '{' and '}' or ']'
    at = text:find('%S', at + 1)
    while text:sub(at, at) ~= close do
      local key, value = #result + 1, nil
      if first == '{' then
        key, at = parse(text, at)
        at = assert(text:match('^%s*:()', at), 'a colon is missing')
      end
      value, at = parse(text, at)
      result[key] = value
      at = assert(text:match('^%s*,?%s*()', at))
    end
    return result, at + 1
  elseif first == '"' then
    local ends = at
    repeat
      ends = assert(text:find('["\\]', ends + 1), 'a string has no end')
      if text:sub(ends, ends) == '\\' then ends = ends + 1; first = nil else first = '"' end
    until first
    return load('return ' .. text:sub(at, ends):gsub('\\/', '/'):gsub('\\u(%x%x%x%x)', '\\u{%1}'))(), ends + 1
  end
  local word, ends = text:match('^([%w.+-]+)()', at)
  assert(word, 'this is no JSON')
  return ({ ['true'] = true, ['false'] = false })[word] or tonumber(word), ends
end

local GET = [[perl -MHTTP::Tiny -e 'my $a = HTTP::Tiny->new(timeout => 35)->get($ARGV[0], {headers => {Authorization => "Bearer $ARGV[1]"}});]]
  .. [[ print $a->{status}, "\n", $a->{content}' '%s' '%s']]

local events, logged = {}, {}
local kumo = {
  on = function(name, handler) events[name] = handler end,
  reject = function(code, text) error({ code = code, text = text }) end,
  log_error = function(text) table.insert(logged, text) end,
  serde = { json_parse = function(text) return (parse(text, 1)) end },
  http = {
    build_client = function(options)
      assert(options.timeout == '35s')
      return {
        get = function(_, url)
          local token
          return {
            bearer_auth = function(_, given) token = given end,
            send = function()
              local pipe = assert(io.popen(GET:format(url, token)))
              local status, content = pipe:read('l'), pipe:read('a')
              pipe:close()
              -- By HTTP::Tiny 599 is what could not be sent.
              if status == '599' then error(content) end
              local read = false
              return {
                status_code = function() assert(not read); return tonumber(status) end,
                text = function() read = true; return content end,
              }
            end,
          }
        end,
      }
    end,
  },
}
package.preload.kumo = function() return kumo end

require('callahead'):setup { server = arg[1], token = arg[2] }
for at = 3, #arg do
  local address = arg[at]
  local authn_id = address:match '^authenticated:' and 'anna' or nil
  address = address:gsub('^authenticated:', '')
  local recipient = { email = address, user = address:match '^(.*)@', domain = address:match '@(.*)$' }
  local values = { authn_id = authn_id, received_from = at % 2 == 0 and '[2001:db8::7]:4711' or '192.0.2.7:4711' }
  local meta = {
    get_meta = function(_, name) return values[name] end,
    set_meta = function(_, name, value) values[name] = value end,
  }
  events.smtp_server_mail_from({ email = at == 4 and '' or 'some+one@sender.example' }, meta)
  local accepted, reply = pcall(events.smtp_server_rcpt_to, recipient, meta)
  print(accepted and 'accepted' or type(reply) == 'table' and reply.code .. ' ' .. reply.text or reply)
end
events = {}
require('callahead'):setup { server = arg[1], token = arg[2], handler = false }
assert(not events.smtp_server_rcpt_to and not events.smtp_server_mail_from)
for _, line in ipairs(logged) do print('logged ' .. line) end
