"""The vocabulary: the values that every other module speaks in."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

import msgspec

Position: TypeAlias = int | str
"""A record's place in its partition. Opaque: compared for equality, never calculated with outside its source."""

NO_TIMESTAMP: Final = -1


class Partition(NamedTuple):
    """The unit of order of a source: a Kafka partition, a file, a stream key. As a text it is for people."""

    topic: str
    number: int

    def __str__(self) -> str:
        return self.identifier

    @property
    def identifier(self) -> str:
        """For programs: of the same build for every source."""
        return f"{self.topic}-{self.number}"


class WholeTopic(Partition):
    """The only partition that its topic can have, such as a stream key, equal to any other of its topic and number.
    People know it by its topic alone: with a number behind it, it would read like an entry's id."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.topic


class TimestampType(enum.StrEnum):
    """Who set a record's timestamp (Kafka's names)."""

    CREATE_TIME = "CREATE_TIME"
    LOG_APPEND_TIME = "LOG_APPEND_TIME"


Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]


class Record(msgspec.Struct, frozen=True, gc=False, eq=False):
    """One record as its source holds it. Nothing in it is decoded: key, value and header values are the source's bytes.

    ``sequence`` is the record's number in fetch order within one assignment of its partition (dense, from 0), given
    by the source's chunk; ``size`` is the bytes of key, value and headers together, and one for each header.
    """

    partition: Partition
    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int
    sequence: int
    size: int
    timestamp_type: TimestampType = TimestampType.CREATE_TIME


class Lease(NamedTuple):
    """Why a partition is ours, where its source has no coordinator that says so.

    ``generation`` is higher than that of every earlier owner; None where several own records of it at the same time.
    ``until`` is the clock's time in seconds from which on another may own what is ours: nothing may be started for it
    any more.
    """

    generation: int | None
    until: float


class Fetched(NamedTuple):
    """What one fetch brought of one partition.

    ``next_position`` is the position after everything that the source has passed over up to here: behind the last
    record, behind transaction markers and holes. ``records`` may be empty when only such a position is news.
    ``size`` is the sum of the records' sizes in bytes. Where a source keeps them, ``attempts`` are those that were
    charged to records in earlier assignments, and ``suspects`` are records that may have killed their function, both by
    sequence; ``redelivered`` is how many records are known to have been handed out before.
    """

    partition: Partition
    records: Sequence[Record]
    next_position: Position
    size: int
    attempts: Mapping[int, int] = MappingProxyType({})
    suspects: Collection[int] = ()
    redelivered: int = 0


class Backlog(NamedTuple):
    """How far the end of a partition is from the position after its last fetch, as its source learnt it.

    ``records`` is None when unknown. ``learnt_at`` is the clock's time in seconds at which the source last heard of
    the end.
    """

    records: int | None
    learnt_at: float


class ErrorKind(enum.StrEnum):
    """Why an invocation did not succeed; a metric's label, so the set is closed."""

    ERROR = "error"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    UNREACHABLE = "unreachable"
    CONNECTION_LOST = "connection_lost"
    BAD_RESPONSE = "bad_response"
    TOO_LARGE = "too_large"
    PARTIAL = "partial"


class FunctionError(msgspec.Struct, frozen=True):
    """What a function did wrong, for logs and dead letters. ``text`` and ``stack`` are for people; never parsed."""

    kind: ErrorKind
    type: str
    text: str
    stack: str = ""
    status_code: int | None = None


class LastError(NamedTuple):
    """What an invocation that did not succeed said last, and when, in the clock's seconds."""

    error: FunctionError
    at: float


class Succeeded(msgspec.Struct, frozen=True):
    """Every record of the invocation was dealt with."""


class Failed(msgspec.Struct, frozen=True):
    """The invocation failed as a whole, after the function may have seen it: one attempt is used."""

    error: FunctionError


class PartlyFailed(msgspec.Struct, frozen=True):
    """The function named the records that failed. ``positions`` is never empty and all are of the invocation."""

    positions: frozenset[Position]
    error: FunctionError


class Throttled(msgspec.Struct, frozen=True):
    """The function refused for now, or nothing reached it: no attempt is used.

    ``retry_after`` is in seconds, None when the function did not say.
    """

    error: FunctionError
    retry_after: float | None = None


class TooLarge(msgspec.Struct, frozen=True):
    """The encoded batch is larger than ``maximum_payload``; nothing was sent and no attempt is used."""

    error: FunctionError


Outcome: TypeAlias = Succeeded | Failed | PartlyFailed | Throttled | TooLarge

SUCCEEDED: Final = Succeeded()


class Condition(enum.StrEnum):
    """Why a record was given up (AWS's names)."""

    RETRY_ATTEMPTS_EXHAUSTED = "RetryAttemptsExhausted"
    RECORD_AGE_EXCEEDED = "RecordAgeExceeded"
    MAXIMUM_PAYLOAD_SIZE_EXCEEDED = "MaximumPayloadSizeExceeded"


class Settlement(enum.StrEnum):
    """How a record was settled; a metric's label. ``SKIPPED`` is a tombstone that the mapping skips by policy."""

    DELIVERED = "delivered"
    FILTERED = "filtered"
    DEAD_LETTERED = "dead_lettered"
    DROPPED = "dropped"
    SKIPPED = "skipped"


class Invoke(msgspec.Struct, frozen=True):
    """Invoke the function with ``records``; ``attempt`` counts from 1."""

    records: Sequence[Record]
    attempt: int


class WaitUntil(msgspec.Struct, frozen=True):
    """Ask again at ``time`` (the clock's seconds). ``retry_at`` is when the next invocation may be made: later than
    ``time`` when a record expires before it."""

    time: float
    retry_at: float
    error: FunctionError | None = None


class GiveUp(msgspec.Struct, frozen=True):
    """``records`` are given up: store them at the destination, or drop them by policy, then settle them.

    ``attempts`` holds, for each record, how many invocations were charged to it.
    """

    records: Sequence[Record]
    condition: Condition
    attempts: Sequence[int]
    error: FunctionError | None


class Settle(msgspec.Struct, frozen=True):
    """``records`` were delivered."""

    records: Sequence[Record]


Step: TypeAlias = Invoke | WaitUntil | GiveUp | Settle


class DeadLetter(msgspec.Struct, frozen=True):
    """A record given up on, with what a destination stores beside it. ``given_up_at_ms`` is epoch milliseconds."""

    record: Record
    mapping: str
    function: str
    condition: Condition
    attempts: int
    error: FunctionError | None
    given_up_at_ms: int
    source: str
    """The source's own description of where it reads: bootstrap servers, a directory."""
    group: str
    """The consumer group, or the mapping's name where the source has none."""


class Invocation:
    """One call of a function: what is handed over and who it is.

    ``deadline`` is the clock's time at which the function's timeout ends the call, set by the function when it
    starts. The derived properties cost nothing until they are asked for.
    """

    __slots__ = ("attempt", "function", "lease", "mapping", "partition", "records", "source")

    def __init__(
        self,
        *,
        mapping: str,
        function: str,
        partition: Partition,
        records: Sequence[Record],
        attempt: int,
        source: str,
        lease: Lease | None = None,
    ) -> None:
        """``lease``: by which the partition was ours when this was made; None where the source has none."""
        self.mapping = mapping
        self.function = function
        self.partition = partition
        self.records = records
        self.attempt = attempt
        self.source = source
        self.lease = lease

    @property
    def first_position(self) -> Position:
        return self.records[0].position

    @property
    def last_position(self) -> Position:
        return self.records[-1].position

    @property
    def idempotency_key(self) -> str:
        """Stable for the same mapping, partition and set of records, whatever the attempt or the process."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.mapping}\0{self.partition.identifier}\0".encode())
        digest.update(",".join([str(record.position) for record in self.records]).encode())
        return digest.hexdigest()

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of the only record of this invocation, when it has one."""
        if len(self.records) != 1:
            return None
        for name, value in self.records[0].headers:
            if name == "traceparent" and value is not None:
                return value.decode("ascii", "replace")
        return None


class MappingState(enum.StrEnum):
    """What a mapping does now. ``IDLE``: joined, with no partition of its own. ``PROBLEM``: see the reason."""

    CREATING = "creating"
    ENABLED = "enabled"
    IDLE = "idle"
    DISABLING = "disabling"
    DISABLED = "disabled"
    PROBLEM = "problem"


class Reason(enum.StrEnum):
    """Codes of state reasons. The first four are AWS's for Kafka event source mappings."""

    ESM_CONFIG_NOT_VALID = "ESM_CONFIG_NOT_VALID"
    EVENT_SOURCE_AUTHN_ERROR = "EVENT_SOURCE_AUTHN_ERROR"
    EVENT_SOURCE_AUTHZ_ERROR = "EVENT_SOURCE_AUTHZ_ERROR"
    FUNCTION_CONFIG_NOT_VALID = "FUNCTION_CONFIG_NOT_VALID"
    EVENT_SOURCE_NOT_FOUND = "EVENT_SOURCE_NOT_FOUND"
    EVENT_SOURCE_UNREACHABLE = "EVENT_SOURCE_UNREACHABLE"
    EVENT_SOURCE_PROTOCOL_ERROR = "EVENT_SOURCE_PROTOCOL_ERROR"
    EVENT_SOURCE_UNREADABLE = "EVENT_SOURCE_UNREADABLE"
    DUPLICATE_MEMBER = "DUPLICATE_MEMBER"
    DATA_LOSS = "DATA_LOSS"
    DESTINATION_UNAVAILABLE = "DESTINATION_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"

    @property
    def stays(self) -> bool:
        """Whether what it is said of goes on until somebody changes something; else waiting may be enough."""
        return self in _STAYING


_STAYING: Final = frozenset(
    {
        Reason.ESM_CONFIG_NOT_VALID,
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        Reason.EVENT_SOURCE_AUTHZ_ERROR,
        Reason.FUNCTION_CONFIG_NOT_VALID,
        Reason.EVENT_SOURCE_NOT_FOUND,
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
    }
)


class Problem(msgspec.Struct, frozen=True):
    """Why a mapping, or one partition of it, does not go on: a code, what happened, and what to do."""

    reason: Reason
    text: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.text}" + (f" ({self.hint})" if self.hint else "")
