"""What the Redis source does in the server for a stream that the consumers of its group share, each in one step.

The keys are those of the ordered scripts: a hash for the ``checkpoint``, and the stream. Arguments
begin with our consumer and the group. What a client has given up on may still be on its way, and be carried out after
what was sent later; so what takes or settles entries has a number, the turn: who is in doubt takes the next, it is kept
in the hash under the consumer's name with the server's time, and what comes with a lower one is late. Nothing is done
to an entry but after a look at who has it: an acknowledgement, say, names no consumer, and would take an entry from
whoever works on it. The first member of a reply says what happened; only ``ok`` means that anything was done.
"""

from __future__ import annotations

from typing import Final

from runner.clients.redis import Script
from runner.sources.redis_read_scripts import HAND_OUT
from runner.sources.redis_scripts import BEFORE, CONSUMER_PREFIX, ENDS_AT, NOW, TRIMMED, WRITE

# Neither the group's totals nor XCLAIM tell whose an entry is: each is looked up, all at once where they lie together.
_SORT_OUT: Final = """
local function lowest_and_highest(ids)
  local low, high = ids[1], ids[1]
  for _, id in ipairs(ids) do
    low, high = id < low and id or low, id > high and id or high
  end
  return low, high
end

local function sort_out(key, ids)
  local mine = {}
  local low, high = lowest_and_highest(ids)  -- as texts: what lies outside of them is looked at by itself
  local pending = redis.pcall('XPENDING', key, ARGV[2], low, high, 2 * #ids + 1, ARGV[1])
  if pending.err then
    return pending.err
  end
  for _, entry in ipairs(pending) do
    mine[entry[1]] = true
  end
  local ours, others, nobodys = {}, {}, {}
  for _, id in ipairs(ids) do
    local entry = not mine[id] and redis.call('XPENDING', key, ARGV[2], id, id, 1)[1]
    if mine[id] or (entry and entry[2] == ARGV[1]) then
      ours[#ours + 1] = id
    elseif entry then
      others[#others + 1] = id
    else
      nobodys[#nobodys + 1] = id
    end
  end
  return nil, ours, others, nobodys
end
"""

# "" where we may not ask for it.
RUN_ID: Final = """
local function run_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end
"""

# From Redis 7 on, XCLAIM lets go of a pending entry that is not in the stream any more, and does not answer it.
LEFT_OUT: Final = """
local function left_out(ids, answered)
  local there, rest = {}, {}
  for _, id in ipairs(answered) do
    there[id] = true
  end
  for _, id in ipairs(ids) do
    if not there[id] then
      rest[#rest + 1] = id
    end
  end
  return rest
end
"""

# What is trimmed goes from the front. What was trimmed while it was worked on stays pending, so that somebody tells of
# it should it not be settled: XCLAIM would let go of it.
TRIMMED_PENDING: Final = (
    BEFORE
    + """
local firsts = {}

local function is_trimmed(key, id)
  if not firsts[key] then
    local entry = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    firsts[key] = entry and entry[1] or ''
  end
  return firsts[key] == '' or before(id, firsts[key])
end
"""
)

# Ids have numbers of 64 bits, of which Lua's own keep 53: they are counted on by their digits.
_CHECKPOINT: Final = (
    BEFORE
    + """
local function incremented(digits)
  local head, nines = string.match(digits, '^(%d-)(9*)$')
  local zeros = string.rep('0', #nines)
  if head == '' then
    return '1' .. zeros
  end
  return string.sub(head, 1, -2) .. string.format('%.0f', tonumber(string.sub(head, -1)) + 1) .. zeros
end

local function following(id)
  local milliseconds, number = string.match(id, '^(%d+)-(%d+)$')
  if number == '18446744073709551615' and milliseconds == number then
    return id
  elseif number == '18446744073709551615' then
    return incremented(milliseconds) .. '-0'
  end
  return milliseconds .. '-' .. incremented(number)
end

local function last_delivered()
  for _, list in ipairs(redis.call('XINFO', 'GROUPS', KEYS[2])) do
    local group = members(list)
    if group['name'] == ARGV[2] then
      return group['last-delivered-id']
    end
  end
end

local function checkpoint_now()
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2])
  if pending.err then
    return pending.err
  end
  local behind = following(last_delivered())  -- lower, where the group was set back
  return nil, pending[1] > 0 and before(pending[2], behind) and pending[2] or behind
end
"""
)

# ARGV: 1 consumer, 2 group, 3 turn. A server that has lost what it knew of it lets every one pass.
IN_TURN: Final = """
local kept = redis.call('HMGET', KEYS[1], ARGV[1], 'checkpoint')
if kept[1] and tonumber(string.match(kept[1], '%d+')) > tonumber(ARGV[3]) then
  return {'late'}
end
"""

FORGET_MS: Final = 3_600_000
"""Nothing is on its way to the server for so long, and a consumer that was not heard of for so long is gone."""

IDENTIFY_SHARED: Final = Script(
    NOW
    + WRITE
    + IN_TURN
    + f"""
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if string.find(all[i], '{CONSUMER_PREFIX.decode()}', 1, true) == 1 then
    if tonumber(string.match(all[i + 1], ' (%d+)')) + {FORGET_MS} < now then
      redis.call('HDEL', KEYS[1], all[i])
    end
  end
end
write(ARGV[1], ARGV[3] .. string.format(' %.0f', now))
return {{'ok'}}
"""
)
"""Refuse from now on what was sent with a lower turn. ARGV: consumer, group, turn. Reply: ok; or late."""

# It takes one number to see that all are ours: who knows of all that it was given in this turn and before, of which
# nothing is on its way any more, and has as many as it knows of, has exactly these.
_HAS_AS_MANY: Final = """
local function has_as_many(number)
  local summary = redis.pcall('XPENDING', KEYS[2], ARGV[2])
  for _, consumer in ipairs(summary[4] or {}) do
    if consumer[1] == ARGV[1] then
      return consumer[2] == number
    end
  end
end
"""

JOIN: Final = Script(
    NOW
    + WRITE
    + ENDS_AT
    + """
local kept = redis.call('HMGET', KEYS[1], 'checkpoint', 'owner', 'expires_at', 'lasts')
if kept[2] and kept[2] ~= '' and ends_at(KEYS[1], kept[3], kept[4]) > now then
  return {'held', kept[2]}
end
return {'ok', kept[1] or '', (kept[1] or kept[2]) and '1' or ''}
"""
)
"""What is kept beside the stream. Reply: ok, checkpoint or "", "1" when there was ever anything; held, by whom: another
process of the group reads the stream in order."""

READ_SHARED: Final = Script(
    WRITE
    + TRIMMED
    + _SORT_OUT
    + _CHECKPOINT
    + _HAS_AS_MANY
    + HAND_OUT
    + IN_TURN
    + """
local others, nobodys, checkpoint = {}, {}, ''
if #ARGV > 9 then
  local failed
  local ours = {unpack(ARGV, 10)}
  if not has_as_many(ARGV[9]) then
    failed, ours, others, nobodys = sort_out(KEYS[2], ours)
    if failed then
      return {'error', failed}
    end
  end
  if #ours > 0 then
    redis.call('XACK', KEYS[2], ARGV[2], unpack(ours))
  end
end
if ARGV[4] ~= '' then
  local failed
  failed, checkpoint = checkpoint_now()
  if failed then
    return {'error', failed}
  end
  if kept[2] ~= checkpoint then
    write('checkpoint', checkpoint)
  end
end
if ARGV[5] == '' then
  return {'ok', others, nobodys, checkpoint}
end
local lost = {}
local delivered = redis.pcall('XRANGE', KEYS[2], '-', ARGV[7], 'COUNT', 1)
if delivered.err then
  return {'error', delivered.err}
end
if #delivered == 0 then
  local stream, group = shown(ARGV[2])
  lost = group and trimmed(stream, group) or lost
  if #lost > 0 and ARGV[8] == '' then
    return {'trimmed', others, nobodys, checkpoint, {}, lost}
  end
  pass_over(ARGV[2], lost)
end
local failed, entries = hand_out(ARGV[2], ARGV[1], ARGV[5], ARGV[6])
if failed then
  return {'error', failed}
end
return {'ok', others, nobodys, checkpoint, entries, lost, #entries == 0 and last_delivered() or ''}
"""
)
"""Acknowledge what is ours, keep the group's checkpoint, read on. ARGV: consumer, group, turn, "1" to keep the
checkpoint or "", ``>`` to read what nobody has read or "" to read nothing, how many, an id up to which the group was
given everything, "1" to read on behind what was trimmed unread, how many entries are ours or "", and the ids to
acknowledge.
Reply: ok, the ids that are another's, those that are nobody's, the checkpoint if it was to be kept (the
group's lowest pending id, or the one after the last that it was given where that is lower), the entries, what was
trimmed unread, as in INSPECT, and, where no entry came, the last id that the group was given, else ""; or trimmed, and
the same but the last, where nothing is to be read behind it; or late.

The last id is XINFO GROUPS', which has no entries in it: XREVRANGE and XINFO STREAM would copy one or two of any size,
only for their ids."""

# What was read before, behind all but one of the ids that there can be: it brings nothing, and a consumer that asks was
# heard of.
LOOK_ALIVE: Final = """
local function look_alive(key, consumer)
  local nothing = redis.pcall('XREADGROUP', 'GROUP', ARGV[2], consumer, 'COUNT', 1, 'STREAMS', key,
    '18446744073709551615-18446744073709551614')
  return nothing and nothing.err
end
"""

HEARTBEAT: Final = Script(
    RUN_ID
    + _SORT_OUT
    + LEFT_OUT
    + TRIMMED_PENDING
    + LOOK_ALIVE
    + """
local function keep(key, ids)
  local failed, ours, others, nobodys = nil, {}, {}, {}
  if #ids > 0 then
    failed, ours, others, nobodys = sort_out(key, ids)
  end
  if failed then
    return failed
  end
  local there, claimed = {}, {}
  for _, id in ipairs(ours) do
    if not is_trimmed(key, id) then
      there[#there + 1] = id
    end
  end
  if #there > 0 then
    local arguments = {unpack(there)}
    arguments[#arguments + 1] = 'JUSTID'
    claimed = redis.pcall('XCLAIM', key, ARGV[2], ARGV[1], 0, unpack(arguments))
    if claimed.err then
      return claimed.err
    end
  end
  failed = #claimed == 0 and look_alive(key, ARGV[1])
  return failed or {others, nobodys, left_out(there, claimed)}
end

local answers, done = {}, 2
for i, key in ipairs(KEYS) do
  local first, last = done + 2, done + 1 + tonumber(ARGV[done + 1])
  answers[i] = keep(key, {unpack(ARGV, first, last)})
  done = last
end
return {run_id(), unpack(answers)}
""",
    is_divisible=True,
)
"""What is ours stays so for another while; delivery counts stay as they are. The keys are those of streams, in one slot
in a cluster. ARGV: consumer, group, and of each stream how many ids, and these. Reply: the server's run id or "", and
of each stream the ids that are another's, those that are nobody's, and those that were ours, and are nobody's from now
on since they were deleted from among others; or an error's text.

What was trimmed cannot be kept so: others leave it alone as long as they see that we are alive, by SCAN."""

CHARGE_SHARED: Final = Script(
    TRIMMED_PENDING
    + IN_TURN
    + """
local missing, gone = {}, {}
for i = 4, #ARGV, 2 do
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[i], ARGV[i], 1)
  if pending.err then
    return {'error', pending.err}
  end
  local is_ours = pending[1] and pending[1][2] == ARGV[1]
  if is_ours and not is_trimmed(KEYS[2], ARGV[i]) then
    local set = redis.pcall('XCLAIM', KEYS[2], ARGV[2], ARGV[1], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    if set.err then
      return {'error', set.err}
    end
    if #set == 0 then
      gone[#gone + 1] = ARGV[i]
    end
  elseif not is_ours then
    missing[#missing + 1] = ARGV[i]
  end
end
return {'ok', missing, gone}
"""
)
"""Set delivery counts. ARGV: consumer, group, turn, then ids and counts, one after the other. Reply: ok, the ids that
are not ours, and those that were deleted from the stream; or late. What was trimmed is passed over: nobody will be
given it."""
