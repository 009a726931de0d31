"""What the ordered Redis source does in the server, each in one step that nobody can come between.

Every script has the lease's key first and the stream's second, both in one slot. A lease is a hash without a time to
live: ``generation``, ``owner`` ("" when it was given back), ``expires_at`` in the server's milliseconds, the
``checkpoint``, and ``lost``, how many entries are known to have been trimmed unread.
The first member of a reply says what happened; only ``ok`` means that anything was done.
"""

from __future__ import annotations

from typing import Final

from runner.clients.redis import Script

MOST_IDS: Final = 1_000
"""How many ids one call may carry: Lua hands over no more than 8,000 values at once, and a script stops the server."""

_NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

ATTEMPT: Final = 1_000
"""A pending entry's delivery count is this often its attempts, and, on top, how often it was handed out since the last
of them: every read adds one."""

# A full server refuses a script's first write when it may need memory, and no later one. PEXPIRE needs none. What it
# does to the key is undone in the same step.
_WRITE: Final = """
local function write(...)
  redis.call('PEXPIRE', KEYS[1], 86400000)
  redis.call('HSET', KEYS[1], ...)
  redis.call('PERSIST', KEYS[1])
end
"""

# ARGV: 1 owner, 2 generation.
_FENCE: Final = (
    _NOW
    + _WRITE
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'expires_at', 'checkpoint')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return {'lost', held[1] or '', held[2] or ''}
end
"""
)
# Beyond its end a lease may be renewed as long as nobody has taken it, and nothing else.
_FENCE_IN_TIME: Final = (
    _FENCE
    + """
if tonumber(held[3]) <= now then
  return {'lost', '', held[2]}
end
"""
)

LOOK: Final = Script(
    _NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'expires_at')
return {'ok', held[1] or '', string.format('%.0f', tonumber(held[2] or '0') - now)}
"""
)
"""Reply: ok, owner, milliseconds that the lease still has."""

TAKE: Final = Script(
    _NOW
    + _WRITE
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'expires_at', 'checkpoint', 'lost')
if held[1] and held[1] ~= '' and held[1] ~= ARGV[1] and tonumber(held[3]) > now then
  return {'held', held[1]}
end
local generation = string.format('%.0f', math.max(tonumber(held[2] or '0') + 1, now))
write('owner', ARGV[1], 'generation', generation, 'expires_at', string.format('%.0f', now + tonumber(ARGV[2])))
return {'ok', generation, held[4] or '', held[2] and '1' or '', held[5] or '0'}
"""
)
"""ARGV: owner, milliseconds. Reply: ok, generation, checkpoint or "", "1" when the lease was ever taken before, lost.

The generation is the server's time at least, so that it does not fall even when the lease's key was lost."""

RENEW: Final = Script(
    _FENCE
    + """
write('expires_at', string.format('%.0f', now + tonumber(ARGV[3])))
return {'ok'}
"""
)
"""ARGV: owner, generation, milliseconds."""

RELEASE: Final = Script(
    _FENCE
    + """
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[3], '-', '+', 1000, ARGV[4])
for _, entry in ipairs(pending.err and {} or pending) do
  local unexplained = entry[4] % ARGV[5]
  if unexplained > 0 then
    local count = string.format('%.0f', entry[4] - unexplained)
    redis.pcall('XCLAIM', KEYS[2], ARGV[3], ARGV[4], 0, entry[1], 'RETRYCOUNT', count, 'JUSTID')
  end
end
write('owner', '', 'expires_at', '0')
return {'ok'}
"""
)
"""ARGV: owner, generation, group, consumer, ``ATTEMPT``. What is given back counts as not handed out."""

INSPECT: Final = Script(
    _FENCE_IN_TIME
    + """
local kind = redis.call('TYPE', KEYS[2])
if kind.ok == 'none' then
  return {'absent'}
end
local stream = redis.pcall('XINFO', 'STREAM', KEYS[2])
if stream.err then
  return {'error', stream.err}
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
if groups.err then
  return {'error', groups.err}
end
for _, group in ipairs(groups) do
  for i = 1, #group, 2 do
    if group[i] == 'name' and group[i + 1] == ARGV[3] then
      return {'ok', stream, group, redis.call('XPENDING', KEYS[2], ARGV[3])}
    end
  end
end
return {'ok', stream}
"""
)
"""ARGV: owner, generation, group. Reply: absent, or ok, XINFO STREAM and, where the group is there, its XINFO GROUPS
and XPENDING's summary."""

CREATE_GROUP: Final = Script(
    _FENCE_IN_TIME
    + """
redis.call('PEXPIRE', KEYS[1], 86400000)
local made = redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[3], ARGV[4])
redis.call('PERSIST', KEYS[1])
if made.err then
  return {'error', made.err}
end
write('checkpoint', ARGV[5])
return {'ok'}
"""
)
"""ARGV: owner, generation, group, the id after which it begins, the checkpoint to go with it."""

NOTE: Final = Script(
    _FENCE_IN_TIME
    + """
write(ARGV[3], ARGV[4])
return {'ok'}
"""
)
"""Keep something with the lease. ARGV: owner, generation, ``checkpoint`` or ``lost``, its value."""

CLAIM: Final = Script(
    _FENCE_IN_TIME
    + """
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[3], ARGV[5], '+', ARGV[6])
if pending.err then
  return {'error', pending.err}
end
local foreign = {}
for _, entry in ipairs(pending) do
  if entry[2] ~= ARGV[4] then
    foreign[#foreign + 1] = entry[1]
  end
end
if #foreign > 0 then
  foreign[#foreign + 1] = 'JUSTID'
  local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[3], ARGV[4], 0, unpack(foreign))
  if claimed.err then
    return {'error', claimed.err}
  end
end
return {'ok', #pending, #pending > 0 and pending[#pending][1] or ''}
"""
)
"""Make other consumers' entries ours. ARGV: owner, generation, group, consumer, the first id to look at, how many.
Reply: ok, how many were looked at, the last of them."""

READ: Final = Script(
    _FENCE_IN_TIME
    + """
if #ARGV > 7 then
  local acknowledged = redis.pcall('XACK', KEYS[2], ARGV[3], unpack(ARGV, 8))
  if type(acknowledged) == 'table' and acknowledged.err then
    return {'error', acknowledged.err}
  end
end
if ARGV[5] ~= '' then
  write('checkpoint', ARGV[5])
end
if ARGV[6] == '' then
  if redis.call('TYPE', KEYS[2]).ok == 'none' then
    return {'error', 'NOGROUP the stream is gone'}
  end
  return {'ok'}
end
local read = redis.pcall('XREADGROUP', 'GROUP', ARGV[3], ARGV[4], 'COUNT', ARGV[7], 'STREAMS', KEYS[2], ARGV[6])
if read and read.err then
  return {'error', read.err}
end
local entries = read and read[1][2] or {}
if ARGV[6] == '>' or #entries == 0 then
  return {'ok', entries}
end
local pending = redis.call('XPENDING', KEYS[2], ARGV[3], entries[1][1], entries[#entries][1], #entries, ARGV[4])
local counts = {}
for _, entry in ipairs(pending) do
  counts[#counts + 1] = entry[1]
  counts[#counts + 1] = entry[4]
end
return {'ok', entries, counts}
"""
)
"""Acknowledge, store the checkpoint, read on. ARGV: owner, generation, group, consumer, checkpoint or "", the id after
which to read (``>``: what nobody has read) or "" to read nothing, how many, and the ids to acknowledge.
Reply: ok and, when something was to be read, the entries, and of entries that were read before, ids and delivery counts
in turn."""

CHARGE: Final = Script(
    _FENCE_IN_TIME
    + """
for i = 5, #ARGV, 2 do
  local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[3], ARGV[4], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  if claimed.err then
    return {'error', claimed.err}
  end
end
return {'ok'}
"""
)
"""Set delivery counts. ARGV: owner, generation, group, consumer, then ids and counts in turn. What is not pending is
passed over."""

MEMBERS: Final = Script(
    _NOW
    + _WRITE
    + """
write(ARGV[1], string.format('%.0f', now))
local members = redis.call('HGETALL', KEYS[1])
local live = {}
for i = 1, #members, 2 do
  if tonumber(members[i + 1]) + tonumber(ARGV[2]) > now then
    live[#live + 1] = members[i]
  else
    redis.call('HDEL', KEYS[1], members[i])
  end
end
return live
"""
)
"""The registry of a group's members, a hash of when each was last heard of. ARGV: member, milliseconds after which one
is gone. Reply: the members."""

LEAVE: Final = Script("return redis.call('HDEL', KEYS[1], ARGV[1])")
"""ARGV: member."""
