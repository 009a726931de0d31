"""Who reads the same streams as we do: the registry of a group's members, kept in the server."""

from __future__ import annotations

from runner.clients.redis import RedisClient
from runner.sources.redis_lease_scripts import LEAVE, MEMBERS


class Members:
    """``current`` is as of the last answer, empty before the first, and ``before`` as when the last call was made.
    ``lifetime`` and ``timeout`` are in seconds."""

    def __init__(self, client: RedisClient, key: bytes, me: bytes, *, lifetime: float, timeout: float) -> None:
        self.current: frozenset[str] = frozenset()
        self.before: frozenset[str] = frozenset()
        self._client = client
        self._key = key
        self._me = me
        self._lifetime_ms = b"%d" % int(lifetime * 1000)
        self._timeout = timeout

    async def call(self, *, register: bool) -> None:
        """Learn who is there; ``register``: we are, for another lifetime. Raises RedisFailure."""
        self.before = self.current  # as long as there is no answer nobody has come or gone
        arguments = [self._me if register else b"", self._lifetime_ms]
        reply = await self._client.run(MEMBERS, [self._key], arguments, timeout=self._timeout)
        assert isinstance(reply, list)
        self.current = frozenset([member.decode() for member in reply if isinstance(member, bytes)])

    @property
    def have_changed(self) -> bool:
        """With the answer to the last call; False as long as there is none."""
        return self.before != self.current

    async def leave(self) -> None:
        """Raises RedisFailure; then we are gone after a lifetime."""
        await self._client.run(LEAVE, [self._key], [self._me], timeout=self._timeout)
