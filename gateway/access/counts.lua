-- What one API key uses, counted for all gateways at once. Every step is one call, by this server's clock.
-- KEYS: 1 requests of the last minute, 2 tokens of the last minute (member "lease:count"), 3 open requests by the time
-- that they are given up, 4 sums and what each open request holds, 5 spent this day, 6 spent this month.
-- ARGV: 1 what to do, 2 the request's lease, 3 how long a lease lasts (ms); then what each step takes.

local requests, tokens, open, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local step, lease, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
local WINDOW_MS, IDLE_MS, SPENT_MS = 60000, 3600000, 40 * 86400000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function number(value) return tonumber(value or '0') or 0 end
local function text(value) return string.format('%.17g', value) end
local function sum(name) return number(redis.call('HGET', state, name)) end

local function held(of)
  local said = redis.call('HGET', state, 'lease:' .. of)
  if not said then return nil end
  local count, usd = string.match(said, '^(%S+) (%S+)$')
  return number(count), number(usd)
end

local function hold(of, count, usd)
  local count_before, usd_before = held(of)
  redis.call('HSET', state, 'lease:' .. of, text(count) .. ' ' .. text(usd))
  redis.call('HINCRBY', state, 'held_tokens', count - (count_before or 0))
  redis.call('HINCRBYFLOAT', state, 'held_usd', text(usd - (usd_before or 0)))
  redis.call('ZADD', open, now + lease_ms, of)
end

local function let_go(of)
  local count, usd = held(of)
  redis.call('ZREM', open, of)
  if count then
    redis.call('HDEL', state, 'lease:' .. of)
    redis.call('HINCRBY', state, 'held_tokens', 0 - count)
    redis.call('HINCRBYFLOAT', state, 'held_usd', text(-usd))
  end
  if redis.call('ZCARD', open) == 0 then redis.call('HSET', state, 'held_tokens', 0, 'held_usd', 0) end
end

local function forget_old()
  redis.call('ZREMRANGEBYSCORE', requests, '-inf', now - WINDOW_MS)
  local old, gone = redis.call('ZRANGEBYSCORE', tokens, '-inf', now - WINDOW_MS), 0
  for _, member in ipairs(old) do gone = gone + number(string.match(member, ':(%d+)$')) end
  if #old > 0 then
    redis.call('ZREMRANGEBYSCORE', tokens, '-inf', now - WINDOW_MS)
    redis.call('HINCRBY', state, 'minute_tokens', 0 - gone)
  end
  for _, late in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now)) do let_go(late) end
end

-- At least what the database says: it has the whole of what this server has lost, or has not been told.
local function spent(key, known_usd, known_tokens)
  local said = redis.call('HMGET', key, 'usd', 'tokens')
  local usd, count = math.max(number(said[1]), number(known_usd)), math.max(number(said[2]), number(known_tokens))
  if usd > number(said[1]) or count > number(said[2]) then
    redis.call('HSET', key, 'usd', text(usd), 'tokens', text(count))
    redis.call('PEXPIRE', key, SPENT_MS)
  end
  return usd, count
end

local function keep()
  for place = 1, 4 do redis.call('PEXPIRE', KEYS[place], IDLE_MS) end
end

local function left_usd(most_day, most_month, spent_day, spent_month)
  local left = math.huge
  if most_day ~= '' then left = tonumber(most_day) - spent_day end
  if most_month ~= '' then left = math.min(left, tonumber(most_month) - spent_month) end
  return math.max(0, left - sum('held_usd'))
end

local function newest_ends_in(key)
  local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
  return newest[2] and math.max(0, newest[2] + WINDOW_MS - now) or 0
end

local function tokens_free_in(room)
  local left = sum('minute_tokens')
  if left <= room then return 0 end
  local used = redis.call('ZRANGE', tokens, 0, -1, 'WITHSCORES')
  for at = 1, #used, 2 do
    left = left - number(string.match(used[at], ':(%d+)$'))
    if left <= room then return used[at + 1] + WINDOW_MS - now end
  end
  return WINDOW_MS
end

forget_old()

if step == 'enter' then
  local rpm, tpm, concurrent = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
  local tokens_day, tokens_month, refuses, wanted = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[11], number(ARGV[12])
  local usd_d, count_d = spent(KEYS[5], ARGV[13], ARGV[14])
  local usd_m, count_m = spent(KEYS[6], ARGV[15], ARGV[16])
  local why, wait = 'ok', 0
  local left = left_usd(ARGV[9], ARGV[10], usd_d, usd_m)
  local count = redis.call('ZCARD', requests)
  local minute, open_tokens = sum('minute_tokens'), sum('held_tokens')
  if concurrent and redis.call('ZCARD', open) >= concurrent then
    why = 'open'
  elseif rpm and count >= rpm then
    why = 'requests'
    wait = redis.call('ZRANGE', requests, count - rpm, count - rpm, 'WITHSCORES')[2] + WINDOW_MS - now
  elseif tpm and minute + open_tokens + wanted > tpm then
    why, wait = 'tokens', tokens_free_in(tpm - wanted)
  elseif tokens_day and count_d + open_tokens + wanted > tokens_day then
    why = 'tokens_day'
  elseif tokens_month and count_m + open_tokens + wanted > tokens_month then
    why = 'tokens_month'
  elseif refuses == '1' and left <= 0 then
    why = (ARGV[10] ~= '' and usd_m >= tonumber(ARGV[10])) and 'usd_month' or 'usd_day'
  else
    if rpm then
      redis.call('ZADD', requests, now, lease)
      count = count + 1
    end
    hold(lease, wanted, 0)
  end
  keep()
  local resets = { newest_ends_in(requests), newest_ends_in(tokens) }
  return { why, text(wait), count, text(resets[1]), minute, text(resets[2]), sum('held_tokens'), text(left) }
elseif step == 'hold' then
  local usd_d, usd_m = spent(KEYS[5], ARGV[7], '0'), spent(KEYS[6], ARGV[8], '0')
  local left, usd = left_usd(ARGV[5], ARGV[6], usd_d, usd_m), number(ARGV[4])
  if usd > left then return { 0, text(left) } end
  local count, before = held(lease)
  hold(lease, count or 0, (before or 0) + usd)
  keep()
  return { 1, text(left - usd) }
elseif step == 'end' then
  let_go(lease)
  local count = number(ARGV[4])
  if ARGV[6] == '1' and count > 0 then
    redis.call('ZADD', tokens, now, lease .. ':' .. text(count))
    redis.call('HINCRBY', state, 'minute_tokens', count)
  end
  for place = 5, 6 do
    redis.call('HINCRBYFLOAT', KEYS[place], 'usd', ARGV[5])
    redis.call('HINCRBY', KEYS[place], 'tokens', count)
    redis.call('PEXPIRE', KEYS[place], SPENT_MS)
  end
  keep()
elseif step == 'renew' then
  for place = 4, #ARGV do
    if held(ARGV[place]) then redis.call('ZADD', open, now + lease_ms, ARGV[place]) end
  end
  keep()
end
return {}
