"""How entries of a shared stream go from one consumer to another, in the server, each in one step.

Keys, and what replies begin with, are as in ``redis_shared_scripts``.
"""

from __future__ import annotations

from typing import Final

from runner.clients.redis import Script
from runner.sources.redis_read_scripts import LOOK_AT, SET_BACK
from runner.sources.redis_read_size import STEP
from runner.sources.redis_scripts import COUNTS_ATTEMPTS
from runner.sources.redis_shared_scripts import IN_TURN, LOOK_ALIVE, RUN_ID, TRIMMED_PENDING

# No entry was touched later than its consumer was heard of; one that shows less idle time was touched by a clock that
# has gone back since, and shows none until that has caught up.
_CONSUMERS: Final = """
local function consumers()
  local all = redis.pcall('XINFO', 'CONSUMERS', KEYS[2], ARGV[2])
  if all.err then
    return all.err
  end
  local shown = {}
  for i, consumer in ipairs(all) do
    shown[i] = {}
    for j = 1, #consumer, 2 do
      shown[i][consumer[j]] = consumer[j + 1]
    end
  end
  return nil, shown
end
"""

# Of a consumer that has nothing left. Redis 6.2 refuses it when it is full; that is no reason to fail, and it is tried
# again by whoever looks at it next.
_DELETE: Final = """
local function delete(consumer)
  redis.pcall('XGROUP', 'DELCONSUMER', KEYS[2], ARGV[2], consumer)
end
"""

# Not XAUTOCLAIM: from Redis 7 on it takes away every pending entry that it meets and that is not in the stream any
# more, however lively the consumer is that works on it; before, it does not even name them.
SCAN: Final = Script(
    RUN_ID
    + TRIMMED_PENDING
    + LOOK_ALIVE
    + _CONSUMERS
    + _DELETE
    + """
local failed, shown = consumers()
if failed then
  return {'error', failed}
end
local least, most = tonumber(ARGV[3]), tonumber(ARGV[7])
local found, is_found, is_alive, idle, waits = {}, {}, {}, {}, ''
local next_consumer, next_id = '', '-'
local function note(id)
  if not is_found[id] then
    is_found[id] = true
    found[#found + 1] = id
  end
end
local function note_all_of(consumer, from)
  local page
  if consumer['idle'] >= least then
    page = redis.call('XPENDING', KEYS[2], ARGV[2], from, '+', most - #found, consumer['name'])
  else
    page = redis.call('XPENDING', KEYS[2], ARGV[2], 'IDLE', ARGV[3], from, '+', most - #found, consumer['name'])
  end
  for _, entry in ipairs(page) do
    note(entry[1])
  end
  if #found >= most then
    next_consumer, next_id = consumer['name'], page[#page][1]
  end
end
local is_reached = ARGV[5] == ''
for _, consumer in ipairs(shown) do
  local name, from = consumer['name'], '-'
  if name == ARGV[5] then
    is_reached, from = true, ARGV[6]
  end
  local is_like_us = string.sub(name, 1, #ARGV[9]) == ARGV[9]
  idle[name] = consumer['idle']
  is_alive[name] = name == ARGV[1] or (is_like_us and idle[name] < least)
  if name == ARGV[1] then
    -- What is ours is found by the page below, as that of every consumer that is alive.
  elseif consumer['pending'] > 0 then
    failed = idle[name] == 0 and look_alive(KEYS[2], name)
    if failed then
      return {'error', failed}
    end
    if ARGV[11] ~= '' and waits == '' and #redis.call('XPENDING', KEYS[2], ARGV[2], '-', ARGV[11], 1, name) > 0 then
      waits = '1'
    end
    if is_reached and next_consumer == '' and (idle[name] >= least or name == ARGV[8]) then
      note_all_of(consumer, from)
    end
  elseif is_like_us and idle[name] >= tonumber(ARGV[10]) then
    delete(name)
  end
end
local page = redis.call('XPENDING', KEYS[2], ARGV[2], ARGV[4], '+', 1000)
for _, entry in ipairs(page) do
  local id, name = entry[1], entry[2]
  local is_nobodys = math.max(entry[3], idle[name]) >= least
  if name == ARGV[1] or (is_nobodys and not (is_alive[name] and is_trimmed(KEYS[2], id))) then
    note(id)
  end
end
local last = #page == 1000 and page[1000][1]
local is_whole = not last or last == '18446744073709551615-18446744073709551615'
return {'ok', run_id(), waits, is_whole and '-' or '(' .. last, found, next_consumer, next_id}
"""
)
"""Look for entries that nobody keeps, and delete consumers that have none and were not heard of for long.
ARGV: consumer, group, milliseconds after which an entry is nobody's, the first id of the page to look at, the silent
consumer to begin with or "", the first id of its entries, how many of such to find, the consumer for what was handed
back, the beginning of our consumers' names, milliseconds after which one without entries is deleted, and an id or "".
Reply: ok, the server's run id or "", "1" when other consumers have entries up to the given id, the first id of the next
page, the ids that were found, and the silent consumer and the id at which to go on, "" and ``-`` behind the last.

The whole of a consumer that is silent, and of every other a page at a time: its own heartbeat keeps what it has, and
what it does not know of (a reply was lost) it looks for itself, so what is ours is found whatever it shows. What was
trimmed cannot be kept by a heartbeat, and is left to its consumer while that is heard of: it may well be settled. A
consumer that shows no idle time at all may have been heard of by a clock that has gone back: it was now, then."""

# ARGV: 1 consumer, 4 milliseconds after which an entry is nobody's.
_IS_FREE: Final = (
    _CONSUMERS
    + """
local idle

local function idle_of(name)
  if not idle then
    idle = {}
    for _, consumer in ipairs(select(2, consumers())) do
      idle[consumer['name']] = consumer['idle']
    end
  end
  return idle[name]
end

local function is_free(entry)
  local least = tonumber(ARGV[4])
  return entry[2] == ARGV[1] or entry[3] >= least or idle_of(entry[2]) >= least
end
"""
)

TAKE_OVER: Final = Script(
    COUNTS_ATTEMPTS
    + SET_BACK
    + LOOK_AT
    + _IS_FREE
    + IN_TURN
    + """
local entries, counts, gone = {}, {}, {}

local function set_count(id, count)
  return redis.pcall('XCLAIM', KEYS[2], ARGV[2], ARGV[1], 0, id, 'RETRYCOUNT', count, 'JUSTID').err
end

local function want(id)
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], id, id, 1)
  if pending.err then
    return pending.err
  end
  local entry = pending[1]
  if not entry or not is_free(entry) then
    return nil, false
  end
  local there = look_at(id)
  if there.err or #there == 0 then
    gone[#gone + 1] = not there.err and id or nil
    return there.err, false
  end
  local other_count = set_back(entry[4])
  if not counts_attempts(entry[2]) then
    other_count = 0
  end
  counts[#counts + 1] = id
  counts[#counts + 1] = (other_count or entry[4]) + 1
  return other_count and set_count(id, other_count), true
end

local function take(ids)
  local wanted = {}
  for _, id in ipairs(ids) do
    local failed, is_wanted = want(id)
    if failed then
      return failed
    end
    wanted[#wanted + 1] = is_wanted and id or nil
  end
  local claimed = #wanted > 0 and redis.pcall('XCLAIM', KEYS[2], ARGV[2], ARGV[1], 0, unpack(wanted)) or {}
  if claimed.err then
    return claimed.err
  end
  for _, entry in ipairs(claimed) do
    entries[#entries + 1] = entry
  end
end
"""
    + f"""
local done, step = 4, 1
while done < #ARGV and not has_looked_at_enough() do
  local last = math.min(done + step, #ARGV)
  local failed = take({{unpack(ARGV, done + 1, last)}})
  if failed then
    return {{'error', failed}}
  end
  done, step = last, math.min(2 * step, {STEP})
end
return {{'ok', entries, counts, gone, done - 4}}
"""
)
"""Make entries ours that are so already, or nobody's. ARGV: consumer, group, turn, milliseconds after which an entry is
nobody's, and the ids. Reply: ok, the entries, ids and delivery counts one after the other, this delivery included, the
ids of what is not in the stream any more, and how many of the given ids it has got to: behind about a megabyte the rest
is left; or late. What other applications did to an entry is no attempt.

What is gone stays pending until LET_GO: should this reply be lost, it is found again. XCLAIM would let go of it, from
Redis 7 on."""

LET_GO: Final = Script(
    LOOK_AT
    + _IS_FREE
    + IN_TURN
    + """
local done, missing = {}, {}
for i = 5, #ARGV do
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[i], ARGV[i], 1)
  if pending.err then
    return {'error', pending.err}
  end
  local entry = pending[1]
  if not entry then
    missing[#missing + 1] = ARGV[i]
  elseif is_free(entry) then
    local there = look_at(ARGV[i])
    if there.err then
      return {'error', there.err}
    end
    if #there == 0 then
      redis.call('XACK', KEYS[2], ARGV[2], ARGV[i])
      done[#done + 1] = ARGV[i]
    end
  end
end
return {'ok', done, missing}
"""
)
"""Acknowledge what is not in the stream any more, and ours or nobody's. ARGV: as of TAKE_OVER. Reply: ok, the ids that
were acknowledged, and those that were not pending any more; or late."""

HAND_BACK: Final = Script(
    _DELETE
    + LOOK_AT
    + """
local is_told = {}
for i = 6, #ARGV do
  is_told[ARGV[i]] = true
end
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], '-', '+', 1000, ARGV[1])
if pending.err then
  return {'error', pending.err}
end
local gone = {}
for _, entry in ipairs(pending) do
  local id, count = entry[1], entry[4]
  local there = look_at(id)
  if there.err then
    return {'error', there.err}
  end
  if #there > 0 then
    if count % ARGV[5] > 0 then
      count = count - 1
    end
    local moved = redis.pcall('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, id, 'IDLE', ARGV[4], 'RETRYCOUNT',
      string.format('%.0f', count), 'JUSTID')
    if moved.err then
      return {'error', moved.err}
    end
  elseif is_told[id] then
    redis.call('XACK', KEYS[2], ARGV[2], id)
  else
    gone[#gone + 1] = id
  end
  if has_looked_at_enough() then
    break
  end
end
local is_done = #redis.call('XPENDING', KEYS[2], ARGV[2], '-', '+', 1, ARGV[1]) == 0
if is_done then
  delete(ARGV[1])
end
return {'ok', gone, is_done and '1' or ''}
"""
)
"""Whoever comes next may take what we have, which counts as not handed out this time; a consumer with nothing left is
deleted. ARGV: consumer, group, the consumer for what is handed back, for how many milliseconds it is to look untouched,
``ATTEMPT``, and the ids that the reply before has named. Reply: ok, the ids of what is not in the stream any more,
which are acknowledged when they are given with the next call, "1" when nothing is left; after about a megabyte the rest
is left to the next call, too."""
