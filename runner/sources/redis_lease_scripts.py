"""What is done to a stream's lease and to the registry of a group's members, each in one step in the server.

Keys, and what a lease is, are as in ``redis_scripts``; those of the registry have the registry's key alone, LOOK and
RENEW the keys of several leases, in one slot in a cluster, each of which has an answer of its own.
"""

from __future__ import annotations

from typing import Final

from runner.clients.redis import Script
from runner.sources.redis_read_scripts import LOOK_AT
from runner.sources.redis_scripts import ENDS_AT, FENCE, FENCE_IN_TIME, NOW, WRITE

MOST_LEASES: Final = 100
"""Of one LOOK or RENEW."""

LOOK: Final = Script(
    NOW
    + WRITE
    + ENDS_AT
    + """
local answers = {}
for i, key in ipairs(KEYS) do
  local held = redis.pcall('HMGET', key, 'owner', 'expires_at', 'generation', 'checkpoint', 'lasts')
  if held.err then
    answers[i] = held.err
  else
    local left = string.format('%.0f', ends_at(key, held[2], held[5] or ARGV[1]) - now)
    answers[i] = {held[1] or '', left, held[3] and '1' or '', held[4] or ''}
  end
end
return answers
""",
    is_divisible=True,
)
"""ARGV: milliseconds that a lease lasts where it does not say so. Reply: of each lease its owner, milliseconds that it
still has, "1" when it was ever taken, and checkpoint or ""; or an error's text."""

TAKE: Final = Script(
    NOW
    + WRITE
    + ENDS_AT
    + """
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local held = redis.call('HMGET', KEYS[1], 'owner', 'generation', 'expires_at', 'checkpoint', 'lasts')
local is_owned = held[1] and held[1] ~= '' and held[1] ~= ARGV[1]
if is_owned and ends_at(KEYS[1], held[3], held[5] or ARGV[2]) > now then
  return {'held', held[1]}
end
local generation = string.format('%.0f', math.max(tonumber(held[2] or '0') + 1, now))
local expires_at = string.format('%.0f', now + tonumber(ARGV[2]))
write('reader', '0', 'owner', ARGV[1], 'generation', generation, 'expires_at', expires_at, 'lasts', ARGV[2])
return {'ok', generation, held[4] or '', held[2] and '1' or '', run_id}
"""
)
"""ARGV: owner, milliseconds. Reply: ok, generation, checkpoint or "", "1" when the lease was ever taken before, the
server's run id.

The generation is the server's time at least, so that it does not fall even when the lease's key was lost."""

# Beyond its end a lease may be renewed as long as nobody has taken it.
RENEW: Final = Script(
    NOW
    + WRITE
    + """
local expires_at = string.format('%.0f', now + tonumber(ARGV[2]))
local answers = {}
for i, key in ipairs(KEYS) do
  local held = redis.pcall('HMGET', key, 'owner', 'generation')
  if held.err then
    answers[i] = held.err
  elseif held[1] == ARGV[1] and held[2] == ARGV[2 + i] then
    write_to(key, 'expires_at', expires_at)
    answers[i] = 1
  else
    answers[i] = 0
  end
end
local info = redis.pcall('INFO', 'server')
return {type(info) == 'string' and string.match(info, 'run_id:(%w+)') or '', unpack(answers)}
""",
    is_divisible=True,
)
"""ARGV: owner, milliseconds, and the generation of each lease. Reply: the server's run id, or "" where we may not ask
for it any more; then of each lease 1, 0 when it is another's, or gone, or an error's text."""

GIVE_BACK: Final = Script(
    FENCE_IN_TIME
    + LOOK_AT
    + """
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[3], ARGV[6], ARGV[7], ARGV[8], ARGV[4])
if pending.err then
  return {'error', pending.err}
end
for i, entry in ipairs(pending) do
  local unexplained = entry[4] % ARGV[5]
  if unexplained > 0 and #look_at(entry[1]) > 0 then
    local count = string.format('%.0f', entry[4] - unexplained)
    local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[3], ARGV[4], 0, entry[1], 'RETRYCOUNT', count, 'JUSTID')
    if claimed.err then
      return {'error', claimed.err}
    end
  end
  if i == tonumber(ARGV[8]) or has_looked_at_enough() then
    return {'ok', entry[1]}
  end
end
return {'ok', ''}
"""
)
"""Let pending entries count as not handed out. ARGV: owner, generation, group, consumer, ``ATTEMPT``, the first id to
look at, the last, how many: at most ``MOST_LOOKED_AT``. Reply: ok, the last id that was looked at, "" when all were.

Entries that are not in the stream any more are left alone: from Redis 7 on, XCLAIM lets go of them without a word."""

RELEASE: Final = Script(
    FENCE
    + """
write('owner', '', 'expires_at', '0')
return {'ok'}
"""
)
"""ARGV: owner, generation."""

MEMBERS: Final = Script(
    NOW
    + WRITE
    + """
if ARGV[1] ~= '' then
  write(ARGV[1], string.format('%.0f', now))
end
local members = redis.call('HGETALL', KEYS[1])
local live = {}
for i = 1, #members, 2 do
  local heard = tonumber(members[i + 1])
  if heard > now then  -- the clock went back
    write(members[i], string.format('%.0f', now))
  end
  if heard + tonumber(ARGV[2]) > now then
    live[#live + 1] = members[i]
  else
    redis.call('HDEL', KEYS[1], members[i])
  end
end
return live
"""
)
"""The registry of a group's members, a hash of when each was last heard of. ARGV: member, or "" for one who only looks,
milliseconds after which one is gone. Reply: the members."""

LEAVE: Final = Script("return redis.call('HDEL', KEYS[1], ARGV[1])")
"""ARGV: member."""
