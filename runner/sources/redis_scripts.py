"""What the ordered Redis source does in the server, each in one step that nobody can come between.

Every script has the lease's key first and the stream's second, both in one slot. A lease is a hash without a time to
live: ``generation``, ``owner`` ("" when it was given back), ``expires_at`` in the server's milliseconds, for how many
of them it ``lasts`` when it is renewed, the ``checkpoint``, and the ``reader``, a number that the owner raises. The
first member of a reply says what happened; only ``ok`` means that anything was done.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from runner.clients.redis import Script

MOST_IDS: Final = 1_000
"""How many ids one call may carry: Lua hands over no more than 8,000 values at once, and a script stops the server."""

NOW: Final = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""

ATTEMPT: Final = 1_000
"""A pending entry's delivery count is this often its attempts, and, on top, how often it was handed out since the last
of them: every read adds one."""

# A full server refuses a script's first write when it may need memory, and no later one. PEXPIRE needs none. What it
# does to the key is undone in the same step.
WRITE: Final = """
local function write_to(key, ...)
  redis.call('PEXPIRE', key, 86400000)
  redis.call('HSET', key, ...)
  redis.call('PERSIST', key)
end

local function write(...)
  write_to(KEYS[1], ...)
end
"""

# A lease ends no later than as if it had just been renewed; else the clock went back, and who lives renews it.
ENDS_AT: Final = """
local function ends_at(key, stored, lasts)
  local ends, most = tonumber(stored or '0'), now + tonumber(lasts or '0')
  if not lasts or ends <= most then
    return ends
  end
  write_to(key, 'expires_at', string.format('%.0f', most))
  return most
end
"""

CONSUMER: Final = b"stream-runner"
"""The one consumer of a group whose streams are read in order; where they are shared, who has what was handed back."""

CONSUMER_PREFIX: Final = b"stream-runner:"
"""Of the names of the consumers that share a stream, each of which is another process's."""

# Only our own consumers' delivery counts tell of attempts.
COUNTS_ATTEMPTS: Final = f"""
local function counts_attempts(consumer)
  local prefix = '{CONSUMER_PREFIX.decode()}'
  return consumer == '{CONSUMER.decode()}' or string.sub(consumer, 1, #prefix) == prefix
end
"""

# ARGV: 1 owner, 2 generation.
FENCE: Final = (
    NOW
    + WRITE
    + """
local held = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'expires_at', 'reader')
if held[1] ~= ARGV[1] or held[2] ~= ARGV[2] then
  return {'lost', held[1] or '', held[2] or ''}
end
"""
)
# Beyond its end a lease may be renewed as long as nobody has taken it, and nothing else.
FENCE_IN_TIME: Final = (
    FENCE
    + """
if tonumber(held[3]) <= now then
  return {'lost', '', held[2]}
end
"""
)


class StreamScript(NamedTuple):
    """The same step for who owns the stream by lease, and for one of the consumers that share it, who needs none."""

    ordered: Script
    shared: Script


def _for_both(body: str) -> StreamScript:
    return StreamScript(Script(FENCE_IN_TIME + body), Script(NOW + WRITE + body))


LIST_MEMBERS: Final = """
local function members(list)
  local found = {}
  for i = 1, #list, 2 do
    found[list[i]] = list[i + 1]
  end
  return found
end
"""

# What the server counts, which it does from Redis 7 on: the entries that were ever added to the stream, and how many of
# them the group has been given. What is trimmed goes from the beginning: as long as there is an entry that the group
# was given, nothing behind it was trimmed. Redis 7.0 goes on counting behind a loss as if there had been none, Valkey
# sets its count right when the group next reads; either is told, by ``pass_over``, where the group really is. Redis 6.2
# counts nothing, and an entry that a group was given may go as well: there a gap cannot be seen.
TRIMMED: Final = (
    LIST_MEMBERS
    + """
local function shown(name)
  local stream = redis.pcall('XINFO', 'STREAM', KEYS[2])
  if stream.err then
    return stream
  end
  local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
  if groups.err then
    return groups
  end
  for _, group in ipairs(groups) do
    if members(group)['name'] == name then
      return stream, group
    end
  end
  return stream
end

local function trimmed(shown_stream, shown_group)
  local stream, group = members(shown_stream), members(shown_group)
  local added, given, delivered = stream['entries-added'], group['entries-read'], group['last-delivered-id']
  if not added or not given or #redis.call('XRANGE', KEYS[2], '-', delivered, 'COUNT', 1) > 0 then
    return {}
  end
  local passed = added - stream['length']
  if passed <= given then
    return {}
  end
  local first = stream['first-entry']
  return {passed - given, delivered, first and first[1] or '', stream['last-generated-id'], passed}
end

local function pass_over(name, lost)
  if #lost > 0 then
    redis.call('XGROUP', 'SETID', KEYS[2], name, lost[2], 'ENTRIESREAD', lost[5])
  end
end
"""
)

INSPECT: Final = _for_both(
    TRIMMED
    + """
if redis.call('TYPE', KEYS[2]).ok == 'none' then
  return {'absent'}
end
local stream, group = shown(ARGV[3])
if stream.err then
  return {'error', stream.err}
end
local all = members(stream)
local told = {all['length'], all['last-generated-id'], all['entries-added'] or false}
if not group then
  return {'ok', told}
end
return {'ok', told, group, redis.call('XPENDING', KEYS[2], ARGV[3]), trimmed(stream, group)}
"""
)
"""ARGV: owner, generation, group. Reply: absent, or ok, what XINFO STREAM says (the stream's length, its last id, how
many entries it ever had, nil where that is not counted) and, where the group is there, its XINFO GROUPS, XPENDING's
summary and what was trimmed before the group was given it: nothing, or how many entries, the last id that it
was given, the stream's first id or "", its last one, and as how many of the stream's the group has to pass over.

XINFO STREAM gives the first and the last entry with all that is in them, which costs the server a copy of each and may
be too much to be sent."""

PASS_OVER: Final = _for_both(
    TRIMMED
    + """
local stream, group = shown(ARGV[3])
if stream.err then
  return {'error', stream.err}
end
local lost = group and trimmed(stream, group) or {}
pass_over(ARGV[3], lost)
return {'ok', lost}
"""
)
"""What was trimmed unread is not missed any more. ARGV: owner, generation, group. Reply: ok, what this was, as in
INSPECT."""

CREATE_GROUP: Final = _for_both(
    TRIMMED
    + """
redis.call('PEXPIRE', KEYS[1], 86400000)
local made = redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[3], ARGV[4])
redis.call('PERSIST', KEYS[1])
if made.err and string.find(made.err, 'BUSYGROUP', 1, true) then
  return {'there'}
elseif made.err then
  return {'error', made.err}
end
write('checkpoint', ARGV[5])
local stream = members(redis.call('XINFO', 'STREAM', KEYS[2]))
local added = stream['entries-added']
if not added then
  return {'ok'}
end
local passed
if #redis.call('XRANGE', KEYS[2], '-', ARGV[4], 'COUNT', 1) == 0 then
  passed = added - stream['length']
elseif #redis.call('XRANGE', KEYS[2], '(' .. ARGV[4], '+', 'COUNT', 1) == 0 then
  passed = added
end
if passed then
  redis.call('XGROUP', 'SETID', KEYS[2], ARGV[3], ARGV[4], 'ENTRIESREAD', passed)
end
return {'ok'}
"""
)
"""ARGV: owner, generation, group, the id after which it begins, the checkpoint to go with it. Reply: ok, or there, when
another has made it meanwhile. Where the group begins in the middle of the stream, nobody knows how many entries are
before it: the server counts from when it has caught up."""

NOTE: Final = _for_both(
    """
write('checkpoint', ARGV[3])
return {'ok'}
"""
)
"""ARGV: owner, generation, checkpoint."""

# Both parts of an id have 64 bits, more than a number of Lua's holds exactly: they are compared as text.
BEFORE: Final = """
local function before(one, other)
  local time, number = one:match('(%d+)-(%d+)')
  local other_time, other_number = other:match('(%d+)-(%d+)')
  if time == other_time then
    time, other_time = number, other_number
  end
  if #time ~= #other_time then
    return #time < #other_time
  end
  return time < other_time
end
"""

TRIM: Final = _for_both(
    BEFORE
    + LIST_MEMBERS
    + """
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
if groups.err then
  return {'error', groups.err}
end
local stream = redis.pcall('XINFO', 'STREAM', KEYS[2])
if stream.err then
  return {'error', stream.err}
end
local last = members(stream)['last-generated-id']
local needed
local is_ours_there = false
for _, list in ipairs(groups) do
  local group = members(list)
  local pending = redis.pcall('XPENDING', KEYS[2], group['name'])
  if pending.err then
    return {'error', pending.err}
  end
  local delivered = group['last-delivered-id']
  if before(last, delivered) then
    return {'ok', 0}
  end
  local first = pending[1] > 0 and before(pending[2], delivered) and pending[2] or delivered
  if not needed or before(first, needed) then
    needed = first
  end
  is_ours_there = is_ours_there or group['name'] == ARGV[3]
end
if not is_ours_there or needed == '0-0' then
  return {'ok', 0}
end
local removed = redis.pcall('XTRIM', KEYS[2], 'MINID', '~', needed, 'LIMIT', ARGV[4])
if type(removed) == 'table' then
  return {'error', removed.err}
end
return {'ok', removed}
"""
)
"""Remove what every group of the stream has acknowledged. ARGV: owner, generation, group, how many at most. Reply: ok,
how many were removed.

The last entry that a group was given stays, so that whether something is missing before the next one is never in
doubt. Of a group that was set back both what is pending and what it is to read again are needed. One that was set
behind the stream's end was given nothing of what it passes over: as long as it is there, nothing is removed."""

CLAIM: Final = Script(
    FENCE_IN_TIME
    + COUNTS_ATTEMPTS
    + """
local function claim(ids, ...)
  if #ids == 0 then
    return
  end
  local arguments = {unpack(ids)}
  for _, option in ipairs({'JUSTID', ...}) do
    arguments[#arguments + 1] = option
  end
  return redis.pcall('XCLAIM', KEYS[2], ARGV[3], ARGV[4], 0, unpack(arguments)).err
end

local pending = redis.pcall('XPENDING', KEYS[2], ARGV[3], ARGV[5], '+', ARGV[6])
if pending.err then
  return {'error', pending.err}
end
local counted, uncounted, gone, size, last = {}, {}, {}, 0, ''
for i, entry in ipairs(pending) do
  if entry[2] ~= ARGV[4] then
    local there = redis.call('XRANGE', KEYS[2], entry[1], entry[1])[1]
    if there then
      local ids = counts_attempts(entry[2]) and counted or uncounted
      ids[#ids + 1] = entry[1]
      for _, part in ipairs(there[2]) do
        size = size + #part
      end
    else
      gone[#gone + 1] = entry[1]
    end
  end
  if size > 1000000 or i == tonumber(ARGV[6]) then
    last = entry[1]
    break
  end
end
local failed = claim(counted) or claim(uncounted, 'RETRYCOUNT', 0)
if failed then
  return {'error', failed}
end
return {'ok', last, gone}
"""
)
"""Make other consumers' entries ours; what other applications did to theirs is no attempt. ARGV: owner, generation,
group, consumer, the first id to look at, how many. Reply: ok, the last id that was looked at or "" when all were, and
the ids of those that are not in the stream any more.

These are left to who acknowledges them: Redis 7 and Valkey would drop them from what is pending without a word, and
Redis 6.2 would claim them."""
