-- rspamd asks Callahead's API for every recipient of a message. See README.md beside the folder of this file.
--
-- A message is one answer for all of its recipients. So it is rejected only where each of them is, put off only where none is accepted, and
-- else passed with a symbol. No answer, or one that can't be understood, is never a reject.

local rspamd_http = require "rspamd_http"
local rspamd_logger = require "rspamd_logger"
local ucl = require "ucl"

local N = "callahead"

local settings = {
  server = "http://127.0.0.1:8080",
  token = "",
  -- Seconds. Below task_timeout (8 s in rspamd's options), or rspamd gives up first. Callahead goes on with a callout that takes longer.
  timeout = 6.0,
  -- Recipients of one message that are asked for. With more, the message is passed unless all of these are good.
  max_recipients = 50,
  -- What is done while Callahead does not answer: "soft reject", or "no action".
  when_away = "soft reject",
  -- false: symbols only, rspamd's scores decide.
  actions = true,
}

local opts = rspamd_config:get_all_opt(N)
if not opts then return end
for key, value in pairs(opts) do
  if settings[key] == nil then
    rspamd_logger.errx(rspamd_config, "callahead { %s } is not known and has no effect", key)
  else
    settings[key] = value
  end
end
if settings.token == "" then
  rspamd_logger.errx(rspamd_config, "callahead { token } is missing: recipients can't be verified")
end
settings.server = settings.server:gsub("/+$", "")

local function percent_encoded(text)
  return (text:gsub("[^%w%-._~]", function(octet) return string.format("%%%02X", octet:byte()) end))
end

-- The verdict in an HTTP answer, or nil and what is wrong with it.
local function verdict_of(err, code, body)
  if err then return nil, err end
  local parser = ucl.parser()
  if not parser:parse_string(tostring(body or "")) then return nil, "the answer is not in JSON" end
  local said = parser:get_object()
  if code ~= 200 then return nil, string.format("Callahead answers %s: %s", code, said.detail or "no reason") end
  local answer = said.answer
  if type(answer) ~= "table" or not answer.action then return nil, "the answer has no action" end
  return answer
end

-- What is said of a whole message, when all answers are there.
local function conclude(task, seen)
  for _, recipient in ipairs(seen.reject) do task:insert_result("CALLAHEAD_INVALID", 1.0, recipient) end
  for _, recipient in ipairs(seen.defer) do task:insert_result("CALLAHEAD_UNKNOWN", 1.0, recipient) end
  for _, recipient in ipairs(seen.away) do task:insert_result("CALLAHEAD_AWAY", 1.0, recipient) end
  if not settings.actions or seen.passed then return end

  local function act(action, message)
    task:set_pre_result { action = action, message = message, module = N }
  end
  local put_off = #seen.defer > 0 or (#seen.away > 0 and settings.when_away == "soft reject")
  if #seen.reject > 0 and #seen.defer == 0 and #seen.away == 0 then
    act("reject", seen.text.reject)
  elseif put_off then
    act("soft reject", seen.text.defer or "4.3.5 Recipients can't be verified now; try again later")
  end
end

-- rspamd's own TAGGED_RCPT takes "+tag" away, and Callahead asks for addresses as they are. Where that has happened, "orig" lists the
-- recipients as they came and, behind them, the changed ones.
local function as_they_came(task)
  local all = task:get_recipients({ "smtp", "orig" }) or {}
  local changed = task:get_recipients("smtp") or {}
  if #all <= #changed then return all end
  local came = {}
  for at = 1, #all - #changed do came[at] = all[at] end
  return came
end

-- Who sends the message: for Callahead's log, and so that it makes no more callouts for who asks for many recipients that do not exist.
local function who(task)
  local query = {}
  local ip = task:get_from_ip()
  if ip and ip:is_valid() then table.insert(query, "client=" .. percent_encoded(tostring(ip))) end
  local from = task:get_from("smtp")
  if from and from[1] then table.insert(query, "sender=" .. percent_encoded(from[1].addr or "")) end
  return #query > 0 and "?" .. table.concat(query, "&") or ""
end

local function check(task)
  -- Your own users may write to whom they like.
  if task:get_user() then return end
  local recipients = as_they_came(task)
  local asked = math.min(#recipients, settings.max_recipients)
  -- `passed`: one recipient at least is accepted, is none of Callahead's business, or was not asked for.
  local seen = { reject = {}, defer = {}, away = {}, text = {}, passed = asked < #recipients }
  local left = asked
  local query = who(task)
  for at = 1, asked do
    local recipient = recipients[at].addr
    local function answered(err, code, body)
      local answer, problem = verdict_of(err, code, body)
      if not answer then
        rspamd_logger.errx(task, "callahead: %s can't be verified: %s", recipient, problem)
        table.insert(seen.away, recipient)
      elseif answer.action == "reject" or answer.action == "defer" then
        -- The code says what the reply is, where a domain's reject_code is 450 too: rspamd's "reject" is for good.
        local action = (tonumber(answer.code) or 0) >= 500 and answer.action or "defer"
        table.insert(seen[action], recipient)
        seen.text[action] = string.format("%s %s", answer.enhanced or "", answer.text or "")
      else
        seen.passed = true
      end
      left = left - 1
      if left == 0 then conclude(task, seen) end
    end
    local sent = rspamd_http.request {
      task = task,
      url = string.format("%s/api/v1/recipients/%s/verdict%s", settings.server, percent_encoded(recipient), query),
      headers = { Authorization = "Bearer " .. settings.token },
      timeout = settings.timeout,
      max_size = 65536,
      keepalive = true,
      callback = answered,
    }
    if not sent then answered("the request can't be sent") end
  end
end

local id = rspamd_config:register_symbol {
  name = "CALLAHEAD_CHECK",
  type = "prefilter",
  callback = check,
  flags = "empty,nostat",
  augmentations = { string.format("timeout=%f", settings.timeout) },
}
local symbols = {
  { "CALLAHEAD_INVALID", 4.0, "a recipient does not exist" },
  { "CALLAHEAD_UNKNOWN", 0.0, "a recipient can't be verified for now" },
  { "CALLAHEAD_AWAY", 0.0, "Callahead did not answer for a recipient" },
}
for _, symbol in ipairs(symbols) do
  rspamd_config:register_symbol { name = symbol[1], type = "virtual", parent = id }
  rspamd_config:set_metric_symbol { name = symbol[1], score = symbol[2], description = symbol[3], group = N }
end
