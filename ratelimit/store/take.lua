-- Decides every take of a batch in one call. The arithmetic is that of core/bucket.py, step by step.
--
-- KEYS     one counter per take (the same one may come more than once), then the index of blocks of this slot
-- ARGV[1]  the takes, packed as core/budget.py packs them
-- ARGV[2]  the time in microseconds, or "" for this server's (tests move the clock)
-- returns  per take: code (u8), remaining, wait_us, reset_us (doubles)
--
-- A counter's value is its state as doubles, and after a violation the end of the block and the number of strikes.
local unpack_from, pack, floor, max, min = struct.unpack, struct.pack, math.floor, math.max, math.min
local TOKEN_BUCKET, FIXED_WINDOW = 0, 1
local GREEDY, RESCALES, FORCED, UNBLOCKING = 1, 2, 4, 8
local SLACK = 1 + 1e-12

local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function has(flags, flag)
  return floor(flags / flag) % 2 == 1
end

local function token_bucket(state, flags, requests, window, burst, hits)
  local capacity, at, level = burst * window, now, 0
  if state then
    local before, held
    level, before, held = unpack_from('<ddd', state)
    if held ~= capacity and has(flags, RESCALES) then level = level * capacity / held end
    if now > before then level = max(0, level - (now - before) * requests) else at = before end
  end
  local asked = hits * window
  local over = level + (hits ~= 0 and asked or window) > capacity * SLACK
  if hits < 0 then
    over, level = false, max(0, level + asked)
  elseif hits > 0 and (not over or has(flags, FORCED)) then
    level = level + asked
  end
  local left, wait, reset = max(0, floor((capacity * SLACK - level) / window)), window, window
  if requests > 0 then
    reset = level / requests
    if over then
      wait = min(level + (has(flags, FORCED) and window or max(asked, window)) - capacity, level) / requests
    elseif level % window > 0 then
      wait = (level % window) / requests
    else
      wait = level > 0 and window / requests or 0
    end
  end
  return over, left, wait, reset, level > 0 and pack('<ddd', level, at, capacity), reset
end

local function fixed_window(state, flags, requests, window, _, hits)
  local number, count = floor(now / window), 0
  if state then
    local counted, at, held = unpack_from('<ddd', state)
    if at >= number then
      count, number = counted, at
      if held ~= requests and has(flags, RESCALES) and held ~= 0 then count = count * requests / held end
    end
  end
  local over = count + hits > requests
  if hits == 0 and not has(flags, GREEDY) then over = count + 1 > requests end
  if hits < 0 then
    over, count = false, max(0, count + hits)
  elseif hits > 0 and (not over or has(flags, GREEDY) or has(flags, FORCED)) then
    count = count + hits
  end
  local left = (number + 1) * window - now
  return over, max(0, floor(requests - count)), left, left, count > 0 and pack('<ddd', count, number, requests), left
end

local function sliding_wait(count, before, elapsed, window, requests, hits)
  local room = requests - hits
  if room < 0 then return 2 * window - elapsed end
  if count <= room then
    return before > 0 and max(0, window * (1 - (room - count) / before) - elapsed) or 0
  end
  return window - elapsed + window * (1 - room / count)
end

local function sliding_window(state, flags, requests, window, _, hits)
  local number, count, before = floor(now / window), 0, 0
  if state then
    local at, held
    count, before, at, held = unpack_from('<dddd', state)
    if at < number then
      before = at == number - 1 and count or 0
      count = 0
    else
      number = at
    end
    if held ~= requests and has(flags, RESCALES) and held ~= 0 then
      count, before = count * requests / held, before * requests / held
    end
  end
  local elapsed = max(0, now - number * window)
  local carried = before * (window - elapsed) / window
  local over = count + carried + (hits ~= 0 and hits or 1) > requests * SLACK
  if hits < 0 then
    over, count = false, max(0, count + hits)
  elseif hits > 0 and (not over or has(flags, GREEDY) or has(flags, FORCED)) then
    count = count + hits
  end
  local wait = over and sliding_wait(count, before, elapsed, window, requests, max(hits, 1)) or window - elapsed
  local reset = (count > 0 and 2 or 1) * window - elapsed
  local new = (count > 0 or before > 0) and pack('<dddd', count, before, number, requests)
  return over, max(0, floor(requests * SLACK - (count + carried))), wait, reset, new, reset
end

local blob, position, answers = ARGV[1], 1, {}
local index = KEYS[#KEYS]
for i = 1, #KEYS - 1 do
  local key = KEYS[i]
  local kind, flags, requests, window, burst, hits, count, forget
  kind, flags, requests, window, burst, hits, count, forget, position = unpack_from('<BBddddBd', blob, position)
  local blocks = position
  position = position + 8 * count

  local size = kind == 2 and 32 or 24
  local value = redis.call('GET', key)
  local state, ends, strikes = value or nil, 0, 0
  if value and #value > size then
    ends, strikes = unpack_from('<dd', value, size + 1)
    if string.sub(value, 1, size) == string.rep('\0', size) then state = nil end
  end

  if ends > now and not has(flags, UNBLOCKING) and hits >= 0 and not has(flags, FORCED) then
    answers[i] = pack('<Bddd', 2, 0, ends - now, ends - now)
  else
    local step = kind == TOKEN_BUCKET and token_bucket or kind == FIXED_WINDOW and fixed_window or sliding_window
    local over, left, wait, reset, new, life = step(state, flags, requests, window, burst, hits)
    local code = over and 1 or 0
    if over and hits > 0 and not has(flags, UNBLOCKING) and not has(flags, FORCED) then
      strikes = (ends > 0 and now - ends <= forget) and strikes + 1 or 1
      local duration = unpack_from('<d', blob, blocks + 8 * (min(strikes, count) - 1))
      ends = now + duration
      code, left, wait, reset, new, life = 3, 0, duration, duration, nil, 0
      redis.call('ZADD', index, ends, key)
      redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
      redis.call('EXPIRE', index, 367 * 86400)
    end
    if ends > 0 and now - ends <= forget then
      new = (new or string.rep('\0', size)) .. pack('<dd', ends, strikes)
      life = max(life, ends - now + forget)
    end
    if new and new ~= value then
      redis.call('SET', key, new, 'PX', floor(life / 1000) + 1000)
    elseif value and not new then
      redis.call('DEL', key)
    end
    answers[i] = pack('<Bddd', code, left, wait, reset)
  end
end
return table.concat(answers)
