-- KumoMTA asks Callahead's API for every recipient. See README.md beside this file. In /opt/kumomta/etc/policy/init.lua:
--
--   local callahead = require 'callahead'
--   callahead:setup { server = 'http://127.0.0.1:8080', token = '...' }

local kumo = require 'kumo'

local mod = {}

local AWAY = "4.3.5 Recipients can't be verified now; try again later"

local function percent_encoded(text)
  return (text:gsub('[^%w%-._~]', function(octet)
    return string.format('%%%02X', octet:byte())
  end))
end

-- Where the sender is kept between MAIL and RCPT.
local SENDER = 'callahead_sender'

-- Who sends: for Callahead's log, and so that it makes no more callouts for who asks for many recipients that do not exist.
local function who(conn_meta)
  local query = {}
  -- "192.0.2.1:1234" or "[2001:db8::1]:1234".
  local peer = conn_meta and conn_meta:get_meta 'received_from'
  local ip = peer and (tostring(peer):match '^%[(.+)%]:%d+$' or tostring(peer):match '^([%d.]+):%d+$')
  if ip then
    table.insert(query, 'client=' .. percent_encoded(ip))
  end
  local sender = conn_meta and conn_meta:get_meta(SENDER)
  if sender then
    table.insert(query, 'sender=' .. percent_encoded(tostring(sender)))
  end
  return #query > 0 and '?' .. table.concat(query, '&') or ''
end

-- The verdict's answer, or nil and what is wrong.
function mod:ask(recipient, conn_meta)
  local asked, answer = pcall(function()
    local path = string.format('/api/v1/recipients/%s/verdict', percent_encoded(recipient))
    local url = self.server .. path .. who(conn_meta)
    local request = self.client:get(url)
    request:bearer_auth(self.token)
    local response = request:send()
    -- The body comes last: behind it the response can't be asked any more.
    local code = response:status_code()
    local said = kumo.serde.json_parse(response:text())
    if code ~= 200 then
      error(string.format('Callahead answers %d: %s', code, said.detail), 0)
    end
    return said.answer
  end)
  if not asked then
    return nil, tostring(answer)
  end
  if type(answer) ~= 'table' or type(answer.action) ~= 'string' then
    return nil, 'the answer has no action'
  end
  return answer
end

-- Keeps a message's sender for the questions about its recipients.
function mod:note_sender(sender, conn_meta)
  conn_meta:set_meta(SENDER, sender.email)
end

-- What is said to RCPT: a code and a text, or nil where there is no objection. A reject is Callahead's own, word for word; where it
-- does not answer, the recipient is put off.
function mod:reply_to(recipient, conn_meta)
  local answer, problem = self:ask(recipient, conn_meta)
  if answer and (answer.action == 'accept' or answer.action == 'none') then
    return nil
  end
  local rejected = answer and answer.action == 'reject' and (answer.code or 0) >= 400
  local deferred = answer and answer.action == 'defer' and (answer.code or 0) >= 400 and answer.code < 500
  if rejected or deferred then
    return answer.code, string.format('%s %s', answer.enhanced or '', answer.text or '')
  end
  kumo.log_error(string.format('callahead: %s is put off: %s', recipient, problem or 'the answer is not understood'))
  return 451, AWAY
end

-- Where Callahead is. Without `handler = false` it also notes the sender at MAIL and answers RCPT; with it, call note_sender and reply_to
-- in handlers of your own.
function mod:setup(options)
  self.server = options.server:gsub('/+$', '')
  self.token = options.token
  -- Callahead answers within 30 s, its callout.timeout.
  self.client = kumo.http.build_client { timeout = '35s' }
  if options.handler == false then
    return
  end
  kumo.on('smtp_server_mail_from', function(sender, conn_meta)
    self:note_sender(sender, conn_meta)
  end)
  kumo.on('smtp_server_rcpt_to', function(recipient, conn_meta)
    -- Your own users may write to whom they like.
    if conn_meta:get_meta 'authn_id' then
      return
    end
    local code, text = self:reply_to(recipient.email, conn_meta)
    if code then
      kumo.reject(code, text)
    end
  end)
end

return mod
