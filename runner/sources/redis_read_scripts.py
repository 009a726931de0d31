"""What the owner of a stream does in the server while it reads, each in one step that must not come late.

Keys, and what a lease is, are as in ``redis_scripts``. What a client has given up on may still be on its way, and be
carried out after what was sent later: entries would be handed to nobody. So a read has a number beside its generation,
the lease's ``reader``; who is in doubt identifies itself by a higher one, and what was sent with a lower one is late.
"""

from __future__ import annotations

from typing import Final

from runner.clients.redis import Script
from runner.sources.redis_history import MOST_HANDED_OUT
from runner.sources.redis_read_size import LARGE_REPLY, STEP
from runner.sources.redis_scripts import ATTEMPT, FENCE_IN_TIME, LIST_MEMBERS, TRIMMED

MOST_LOOKED_AT: Final = 100
"""How many entries one script looks at that has to read each with all that is in it."""

MOST_BYTES_LOOKED_AT: Final = 1_000_000
"""After so many of their bytes it stops; it has looked at one at least."""

# ARGV: 1 owner, 2 generation, 3 reader. A server that has lost what it knew of the reader lets every one pass.
_FENCE_IN_TURN: Final = (
    FENCE_IN_TIME
    + """
if tonumber(held[4] or '0') > tonumber(ARGV[3]) then
  return {'late', held[4]}
end
"""
)

# XCLAIM would let go of an entry that is not in the stream any more, without a word.
LOOK_AT: Final = f"""
local looked_at = 0
local function look_at(id)
  local found = redis.pcall('XRANGE', KEYS[2], id, id)
  for _, entry in ipairs(found) do
    for _, part in ipairs(entry[2]) do
      looked_at = looked_at + #part
    end
  end
  return found
end

local function has_looked_at_enough()
  return looked_at >= {MOST_BYTES_LOOKED_AT}
end
"""

# Of every read that was lost on its way the server counts one more.
SET_BACK: Final = f"""
local function set_back(count)
  local handed_out = count % {ATTEMPT}
  if handed_out >= {ATTEMPT - 100} then
    return string.format('%.0f', count - handed_out + {MOST_HANDED_OUT})
  end
end
"""
"""Lua: the delivery count to be set before an entry is handed out once more, which then is a suspect's; nil where the
count is far from running into the attempts."""

HAND_OUT: Final = f"""
local function hand_out(group, consumer, after, most)
  local entries, size, left = {{}}, 0, tonumber(most)
  while left > 0 and size < {LARGE_REPLY} do
    local step = math.min(left, {STEP})
    local read = redis.pcall('XREADGROUP', 'GROUP', group, consumer, 'COUNT', step, 'STREAMS', KEYS[2], after)
    if read and read.err then
      return read.err
    end
    local came = read and read[1][2] or {{}}
    for _, entry in ipairs(came) do
      entries[#entries + 1] = entry
      for _, part in ipairs(entry[2] or {{}}) do
        size = size + #part
      end
    end
    if #came < step then
      break
    end
    left = left - step
    after = after == '>' and after or came[step][1]
  end
  return nil, entries
end
"""
"""Lua: an error, or up to ``most`` entries; fewer, in whole steps, where they are large. What an error keeps back is
found in the history."""

IDENTIFY: Final = Script(
    FENCE_IN_TIME
    + LIST_MEMBERS
    + """
if tonumber(held[4] or '0') < tonumber(ARGV[3]) then
  write('reader', ARGV[3])
end
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[2])
local delivered = ''
for _, group in ipairs(groups.err and {} or groups) do
  if members(group)['name'] == ARGV[4] then
    delivered = members(group)['last-delivered-id']
  end
end
local info = redis.pcall('INFO', 'server')
return {'ok', type(info) == 'string' and string.match(info, 'run_id:(%w+)') or '', delivered}
"""
)
"""Refuse from now on what was sent with a lower number. ARGV: owner, generation, reader, group. Reply: ok, the server's
run id, or "" where we may not ask for it any more, and the id up to which the group was given everything, "" when that
cannot be told: why is met by who reads."""

READ: Final = Script(
    _FENCE_IN_TURN
    + TRIMMED
    + LOOK_AT
    + SET_BACK
    + HAND_OUT
    + """
local function counts_behind(id)
  local pending = redis.pcall('XPENDING', KEYS[2], ARGV[4], '(' .. id, '+', ARGV[8], ARGV[5])
  if pending.err then
    return pending.err
  end
  local counts = {}
  for _, entry in ipairs(pending) do
    local count, worn = entry[4], set_back(entry[4])
    if worn and #look_at(entry[1]) > 0 then
      local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[4], ARGV[5], 0, entry[1], 'RETRYCOUNT', worn, 'JUSTID')
      if claimed.err then
        return claimed.err
      end
      count = tonumber(worn)
    end
    counts[#counts + 1] = entry[1]
    counts[#counts + 1] = count + 1
  end
  return nil, counts
end

if #ARGV > 10 then
  local acknowledged = redis.pcall('XACK', KEYS[2], ARGV[4], unpack(ARGV, 11))
  if type(acknowledged) == 'table' and acknowledged.err then
    return {'error', acknowledged.err}
  end
end
if ARGV[6] ~= '' then
  write('checkpoint', ARGV[6])
end
if ARGV[7] == '' then
  if redis.call('TYPE', KEYS[2]).ok == 'none' then
    return {'error', 'NOGROUP the stream is gone'}
  end
  return {'ok'}
end
local lost, counts = {}, {}
if ARGV[7] == '>' then
  local delivered = redis.pcall('XRANGE', KEYS[2], '-', ARGV[9], 'COUNT', 1)
  if delivered.err then
    return {'error', delivered.err}
  end
  if #delivered == 0 then
    local stream, group = shown(ARGV[4])
    lost = group and trimmed(stream, group) or lost
    if #lost > 0 and ARGV[10] == '' then
      return {'trimmed', lost}
    end
    pass_over(ARGV[4], lost)
  end
else
  local failed
  failed, counts = counts_behind(ARGV[7])
  if failed then
    return {'error', failed}
  end
end
local failed, entries = hand_out(ARGV[4], ARGV[5], ARGV[7], ARGV[8])
if failed then
  return {'error', failed}
end
return {'ok', entries, counts, lost}
"""
)
"""Acknowledge, store the checkpoint, read on. ARGV: owner, generation, reader, group, consumer, checkpoint or "", the
id after which to read (``>``: what nobody has read) or "" to read nothing, how many, an id up to which the group was
given everything, "1" to read on behind what was trimmed unread, and the ids to acknowledge.
Reply: ok and, when something was to be read, the entries, of entries that were read before ids and delivery counts in
turn, and what was trimmed unread, as in INSPECT; or trimmed, and that, where nothing is to be read behind it."""

CHARGE: Final = Script(
    _FENCE_IN_TURN
    + LOOK_AT
    + """
local done = 0
for i = 6, #ARGV, 2 do
  local there = look_at(ARGV[i])
  if there.err then
    return {'error', there.err}
  end
  if #there > 0 then
    local claimed = redis.pcall('XCLAIM', KEYS[2], ARGV[4], ARGV[5], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
    if claimed.err then
      return {'error', claimed.err}
    end
  end
  done = done + 1
  if has_looked_at_enough() then
    break
  end
end
return {'ok', done}
"""
)
"""Set delivery counts. ARGV: owner, generation, reader, group, consumer, then ids and counts in turn, at most
``MOST_LOOKED_AT`` of each. Reply: ok, how many it has got to. What is not pending is passed over, and what is not in
the stream any more: XCLAIM would let go of it, and nobody would count it as lost."""
