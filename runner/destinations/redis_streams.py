"""Dead letters stored in a Redis stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

from runner.clients.redis import RedisClient, RedisConnection, Script
from runner.clients.redis_entries import FieldNames
from runner.clients.redis_errors import Effect, FailureKind, RedisFailure, problem_of
from runner.destinations.forms import Form
from runner.destinations.overdue import ReportedWhenOverdue
from runner.destinations.redis_messages import letter_fields, marker_of
from runner.model import DeadLetter
from runner.ports import DestinationError, Observer

_MOST_LETTERS: Final = 100
_MOST_BYTES: Final = 256 * 1024
"""Letters are written together up to this size, so that no script holds the server up; a larger one goes alone."""
_FIELD_OVERHEAD: Final = 16
_LARGEST_LETTER: Final = 512 * 1024 * 1024 - 64 * 1024
"""Bytes. A server takes no longer value unless told to, and cuts the connection of who sends one."""
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0

_STORE: Final = Script("""
-- KEYS: the stream, then the marker of each letter. ARGV: how many milliseconds a marker lives, the stream's length at
-- most or '', then for each letter the number of its names and values, and these.
-- Answers how many letters, from the first on, are stored, and why the next one is not. A marker holds its entry's id;
-- it counts for as long as that entry is there. It is written, empty, before the entry, so that whatever forbids to
-- write it also keeps the entry out.
local function failed(reply)
  return type(reply) == 'table' and reply.err
end
local at = 3
for number = 2, #KEYS do
  local marker = KEYS[number]
  local known = redis.pcall('GET', marker)
  if failed(known) then return {number - 2, known.err} end
  if known and known ~= '' then
    local entry = redis.pcall('XRANGE', KEYS[1], known, known)
    if failed(entry) then return {number - 2, entry.err} end
    known = #entry > 0
  else
    known = false
  end
  local count = tonumber(ARGV[at])
  if not known then
    local marked = redis.pcall('SET', marker, '', 'PX', ARGV[1])
    if failed(marked) then return {number - 2, marked.err} end
    local id
    if ARGV[2] == '' then
      id = redis.pcall('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + count))
    else
      id = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, at + 1, at + count))
    end
    if failed(id) then
      redis.pcall('SET', marker, '', 'PX', 1)
      return {number - 2, id.err}
    end
    redis.pcall('SET', marker, id, 'PX', ARGV[1])
  end
  at = at + count + 1
end
return {#KEYS - 1, false}
""")

Result: TypeAlias = DestinationError | None


class _Message(NamedTuple):
    """A letter as the script takes it. ``size`` is in bytes."""

    letter: DeadLetter
    marker: bytes
    arguments: list[bytes]
    size: int


class RedisStreamsDestination:
    """Appends each letter once to ``stream``, which comes into being with the first one.

    ``maxlen``: the stream is trimmed to about so many entries, the oldest first; None: never. ``timeout`` is in
    seconds: for connecting, after which nothing is stored, and for a write, which is then asked about for as long as
    nobody knows whether it was done. For ``marker_ttl`` seconds after a write nobody stores the same letter again, as
    long as its entry is there. ``source_fields`` says how a source on Redis makes its records; None for any other.
    """

    def __init__(
        self,
        *,
        connection: RedisConnection,
        stream: str,
        maxlen: int | None,
        timeout: float,
        marker_ttl: float,
        observer: Observer,
        source_fields: FieldNames | None = None,
    ) -> None:
        self._client = RedisClient(connection)
        self._stream = stream.encode()
        self._settings = (b"%d" % round(marker_ttl * 1000), b"" if maxlen is None else b"%d" % maxlen)
        self._timeout = timeout
        self._observer = observer
        self._source_fields = source_fields

    @property
    def stores_once(self) -> bool:
        """By its markers."""
        return True

    @property
    def description(self) -> str:
        return f"stream {self._stream.decode()} of {self._client.description}"

    async def open(self) -> None:
        """Nothing to do: a connection is made for the first letter."""

    async def store(self, letters: Sequence[DeadLetter]) -> Sequence[DestinationError | None]:
        """As ``ports.Destination.store`` says; letters are stored in their order."""
        if not letters:
            return []
        results: list[Result] = []
        with ReportedWhenOverdue(self._observer, self.description, len(letters), self._timeout):
            for group in self._groups(letters):
                failure = await self._store_group(group, results)
                if failure is not None:
                    # Those behind it wait as well, or they would overtake it.
                    results += [self._error(failure) for _ in letters[len(results) :]]
                    break
        return results

    async def close(self) -> None:
        """Cancel the stores under way first."""
        await self._client.close()

    async def _store_group(self, group: Sequence[_Message], results: list[Result]) -> RedisFailure | None:
        """Store in one script; what it does not take one by one. Adds to ``results`` as it goes.

        Returns what keeps out the next one and all that are left.
        """
        if len(group) > 1:
            stored, failure = await self._write(group)
            results += [None] * stored
            group = group[stored:]
            if failure is not None and failure.kind is not FailureKind.TOO_LARGE:
                return failure
        for message in group:
            failure = await self._store_one(message)
            if failure is not None:
                return failure
            results.append(None)
        return None

    async def _store_one(self, message: _Message) -> RedisFailure | None:
        """Store the largest form that the server takes."""
        form = Form.WHOLE
        while True:
            failure = _too_large(message) or (await self._write([message]))[1]
            if failure is None or failure.kind is not FailureKind.TOO_LARGE or form.smaller is None:
                return failure
            form = form.smaller
            message = self._message(message.letter, form)

    async def _write(self, messages: Sequence[_Message]) -> tuple[int, RedisFailure | None]:
        """How many are stored, from the first on, and why the next one is certainly not; None: all are."""
        keys = [self._stream, *[message.marker for message in messages]]
        arguments = [*self._settings, *[part for message in messages for part in message.arguments]]
        pause = _FIRST_PAUSE
        is_known = True
        while True:
            try:
                reply = await self._client.run(_STORE, keys, arguments, self._timeout)
            except RedisFailure as failure:
                is_known = is_known and failure.effect is Effect.ABSENT
                # Should an earlier write still arrive after a refusal, its marker makes the next one harmless.
                if is_known or failure.is_answer or failure.kind is FailureKind.CLOSED:
                    return 0, failure
            else:
                assert isinstance(reply, list)
                return reply[0], None if reply[1] is None else self._client.refused(reply[1])
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _groups(self, letters: Sequence[DeadLetter]) -> Iterator[list[_Message]]:
        """Letters that are written together, in order."""
        group: list[_Message] = []
        used = 0
        for letter in letters:
            message = self._message(letter, Form.WHOLE)
            if group and (used + message.size > _MOST_BYTES or len(group) == _MOST_LETTERS):
                yield group
                group, used = [], 0
            group.append(message)
            used += message.size
        if group:
            yield group

    def _message(self, letter: DeadLetter, form: Form) -> _Message:
        parts = [part for field in letter_fields(letter, form, self._source_fields) for part in field]
        size = sum([len(part) + _FIELD_OVERHEAD for part in parts])
        return _Message(letter, marker_of(letter, self._stream), [b"%d" % len(parts), *parts], size)

    def _error(self, failure: RedisFailure) -> DestinationError:
        problem = problem_of(failure, self.description)
        return DestinationError(f"{problem.text} ({problem.hint})" if problem.hint else problem.text)


def _too_large(message: _Message) -> RedisFailure | None:
    if message.size <= _LARGEST_LETTER:
        return None
    return RedisFailure(FailureKind.TOO_LARGE, f"{message.size} bytes")
