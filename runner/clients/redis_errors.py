"""What a failure of a Redis client is, whether the command may have had its effect, and what it means to people."""

from __future__ import annotations

import enum
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from redis import exceptions

from runner.clients.secret import SecretUnreadable
from runner.clients.tls import TlsNotValid
from runner.model import Problem, Reason


class FailureKind(enum.StrEnum):
    """Why a command gave no reply. The set is closed."""

    UNREACHABLE = "unreachable"
    NAME_UNKNOWN = "name_unknown"
    TLS = "tls"
    CERTIFICATE = "certificate"
    SETUP = "setup"
    PROTOCOL = "protocol"
    TIMEOUT = "timeout"
    CONNECTION_LOST = "connection_lost"
    CLOSED = "closed"
    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    SERVICE_UNKNOWN = "service_unknown"
    DATABASE = "database"
    NO_CLUSTER = "no_cluster"
    TOO_MANY_CLIENTS = "too_many_clients"
    LOADING = "loading"
    READ_ONLY = "read_only"
    MASTER_DOWN = "master_down"
    CLUSTER_DOWN = "cluster_down"
    TRY_AGAIN = "try_again"
    MOVED = "moved"
    ASK = "ask"
    CROSS_SLOT = "cross_slot"
    BUSY = "busy"
    NO_REPLICAS = "no_replicas"
    NOT_PERSISTED = "not_persisted"
    OUT_OF_MEMORY = "out_of_memory"
    WRONG_TYPE = "wrong_type"
    NO_GROUP = "no_group"
    UNBLOCKED = "unblocked"
    NO_SCRIPT = "no_script"
    TOO_LARGE = "too_large"
    UNKNOWN_COMMAND = "unknown_command"
    REFUSED = "refused"


class Effect(enum.StrEnum):
    """What a command that failed has done: certainly nothing, or nobody knows."""

    ABSENT = "absent"
    UNKNOWN = "unknown"


class RedisFailure(Exception):
    """A command gave no reply. ``text`` is the server's own words where it answered, and holds no secret.

    The effect of a script that was refused half-way is the script's own business: it is ``ABSENT`` here.
    """

    def __init__(self, kind: FailureKind, text: str, effect: Effect = Effect.ABSENT) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.effect = effect

    @property
    def is_answer(self) -> bool:
        """Whether a server said so itself, in answer to the command or to our login."""
        return self.kind not in _NO_ANSWER


_NO_ANSWER: Final = frozenset(
    {
        FailureKind.UNREACHABLE,
        FailureKind.NAME_UNKNOWN,
        FailureKind.TLS,
        FailureKind.CERTIFICATE,
        FailureKind.SETUP,
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION_LOST,
        FailureKind.CLOSED,
    }
)


class _Rule(NamedTuple):
    reason: Reason
    text: str
    hint: str


_REACH: Final = "check that the server runs, that address and port are right, and whether the port is one for TLS"
_WAIT: Final = "it goes on by itself when the server is ready"
_FAILOVER: Final = "it goes on by itself when a master is there again"
_RESHARDING: Final = "it goes on by itself when the slot has arrived"

_RULES: Final = {
    FailureKind.UNREACHABLE: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the server cannot be reached", _REACH),
    FailureKind.NAME_UNKNOWN: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the host name cannot be resolved",
        "check the name, and the DNS of this host",
    ),
    FailureKind.TLS: _Rule(
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the TLS handshake failed",
        "check that the port is a TLS port, and whether it asks for a client certificate that it trusts",
    ),
    FailureKind.CERTIFICATE: _Rule(
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the server's certificate is not trusted",
        "give the certificate authority that signed it as the CA file, and use a host name that the certificate has",
    ),
    FailureKind.SETUP: _Rule(
        Reason.ESM_CONFIG_NOT_VALID, "the client cannot be set up", "check the files that the error names"
    ),
    FailureKind.PROTOCOL: _Rule(
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
        "the server does not speak the Redis protocol",
        "check the port, and whether it expects TLS",
    ),
    FailureKind.TIMEOUT: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the server does not answer in time", _REACH),
    FailureKind.CONNECTION_LOST: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the connection was closed by the other side",
        "check whether the server restarts, or whether its port expects TLS",
    ),
    FailureKind.CLOSED: _Rule(Reason.INTERNAL_ERROR, "the client is closed", ""),
    FailureKind.AUTHENTICATION: _Rule(
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the server refused the login",
        "check user name and password, and whether the server wants any",
    ),
    FailureKind.PERMISSION: _Rule(
        Reason.EVENT_SOURCE_AUTHZ_ERROR,
        "the user may not do this",
        "allow the user the command, and the keys of the stream and of what is kept beside it",
    ),
    FailureKind.SERVICE_UNKNOWN: _Rule(
        Reason.EVENT_SOURCE_NOT_FOUND,
        "the sentinels know no master of this name",
        "compare the URL with the sentinels' 'sentinel monitor' lines",
    ),
    FailureKind.DATABASE: _Rule(
        Reason.ESM_CONFIG_NOT_VALID,
        "the server does not have this database",
        "use a number below the server's 'databases'; a cluster has 0 only",
    ),
    FailureKind.NO_CLUSTER: _Rule(
        Reason.ESM_CONFIG_NOT_VALID, "the server is not a cluster's node", "write redis:// or rediss:// in the URL"
    ),
    FailureKind.TOO_MANY_CLIENTS: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server has as many clients as it allows",
        "raise its maxclients",
    ),
    FailureKind.LOADING: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the server still loads its data", _WAIT),
    FailureKind.READ_ONLY: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server is a replica, which takes no writes",
        f"{_FAILOVER}; with a single address check that it is the master's",
    ),
    FailureKind.MASTER_DOWN: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the server has lost its master", _FAILOVER),
    FailureKind.CLUSTER_DOWN: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the cluster does not serve this slot",
        "check 'CLUSTER INFO' of its nodes; it goes on by itself when the slot is served again",
    ),
    FailureKind.TRY_AGAIN: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE, "the slot is on its way to another node", _RESHARDING
    ),
    FailureKind.MOVED: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server sends us to another node",
        "write redis+cluster:// or rediss+cluster:// in the URL of a cluster",
    ),
    FailureKind.ASK: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the slot is on its way to another node", _RESHARDING),
    FailureKind.CROSS_SLOT: _Rule(Reason.INTERNAL_ERROR, "the keys of one command lie in several slots", ""),
    FailureKind.BUSY: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server is busy with a script",
        "find whose script it is; 'SCRIPT KILL' ends one that has written nothing",
    ),
    FailureKind.NO_REPLICAS: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server has fewer good replicas than min-replicas-to-write",
        "it goes on by itself when they are there again",
    ),
    FailureKind.NOT_PERSISTED: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server takes no writes while it cannot save them to disk",
        "look at the server's disk and log",
    ),
    FailureKind.OUT_OF_MEMORY: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server has reached its maxmemory",
        "trim streams or raise maxmemory",
    ),
    FailureKind.WRONG_TYPE: _Rule(
        Reason.ESM_CONFIG_NOT_VALID, "the key is not a stream", "name a stream's key, or delete what lies there"
    ),
    FailureKind.NO_GROUP: _Rule(
        Reason.EVENT_SOURCE_NOT_FOUND,
        "the stream or its group does not exist",
        "check whether the server lost its data, or somebody deleted it",
    ),
    FailureKind.UNBLOCKED: _Rule(
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the server let go of who waited for entries: its role has changed, or somebody told it to",
        _WAIT,
    ),
    FailureKind.NO_SCRIPT: _Rule(Reason.EVENT_SOURCE_UNREACHABLE, "the server has lost our script", _WAIT),
    FailureKind.TOO_LARGE: _Rule(
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
        "the server does not take a value of this size",
        "raise the server's proto-max-bulk-len",
    ),
    FailureKind.UNKNOWN_COMMAND: _Rule(
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
        "the server does not know a command",
        "Redis 6.2 or newer or Valkey is needed, and the command may not be renamed",
    ),
    FailureKind.REFUSED: _Rule(Reason.EVENT_SOURCE_PROTOCOL_ERROR, "the server refused the command", ""),
}

_CODES: Final = {
    "NOAUTH": FailureKind.AUTHENTICATION,
    "WRONGPASS": FailureKind.AUTHENTICATION,
    "DENIED": FailureKind.AUTHENTICATION,
    "NOPERM": FailureKind.PERMISSION,
    "LOADING": FailureKind.LOADING,
    "READONLY": FailureKind.READ_ONLY,
    "MASTERDOWN": FailureKind.MASTER_DOWN,
    "CLUSTERDOWN": FailureKind.CLUSTER_DOWN,
    "TRYAGAIN": FailureKind.TRY_AGAIN,
    "MOVED": FailureKind.MOVED,
    "ASK": FailureKind.ASK,
    "CROSSSLOT": FailureKind.CROSS_SLOT,
    "BUSY": FailureKind.BUSY,
    "NOREPLICAS": FailureKind.NO_REPLICAS,
    "MISCONF": FailureKind.NOT_PERSISTED,
    "OOM": FailureKind.OUT_OF_MEMORY,
    "WRONGTYPE": FailureKind.WRONG_TYPE,
    "NOGROUP": FailureKind.NO_GROUP,
    "UNBLOCKED": FailureKind.UNBLOCKED,
    "NOSCRIPT": FailureKind.NO_SCRIPT,
}
_PHRASES: Final = (
    ("max number of clients", FailureKind.TOO_MANY_CLIENTS),
    ("AUTH <password> called without", FailureKind.AUTHENTICATION),
    ("DB index is out of range", FailureKind.DATABASE),
    ("SELECT is not allowed in cluster mode", FailureKind.DATABASE),
    ("cluster support disabled", FailureKind.NO_CLUSTER),
    ("ACL failure in script", FailureKind.PERMISSION),
    ("user executing the script can't", FailureKind.PERMISSION),
    ("invalid bulk length", FailureKind.TOO_LARGE),
    ("invalid multibulk length", FailureKind.TOO_LARGE),
    ("Elements are too large", FailureKind.TOO_LARGE),
    ("unknown command", FailureKind.UNKNOWN_COMMAND),
    ("Unknown Redis command", FailureKind.UNKNOWN_COMMAND),
    ("No such master", FailureKind.SERVICE_UNKNOWN),
)
"""Words of errors that have no code of their own."""

_CODE_INSIDE: Final = re.compile(rf"(?:^|[ :]-?)({'|'.join(_CODES)}) ")
_COMMAND_REFUSED: Final = re.compile(r"permissions to run the '([^']+)'")
_CONNECTING: Final = re.compile(r"Error (\d+) connecting to ")
_LOGIN_IS_NEEDED: Final = "NOAUTH"
_LONGEST_TEXT: Final = 500


def kind_of_text(text: str) -> FailureKind:
    """What an error reply says, be it a command's own or one that a server has wrapped because a script got it."""
    code, _, _ = text.partition(" ")
    if code in _CODES:
        return _CODES[code]
    for phrase, kind in _PHRASES:
        if phrase in text:
            return kind
    inside = _CODE_INSIDE.search(text)
    return FailureKind.REFUSED if inside is None else _CODES[inside[1]]


def refusal(text: str) -> RedisFailure:
    """The failure of a command, or of a command inside a script, that the server answered with the error ``text``."""
    return RedisFailure(kind_of_text(text), text[:_LONGEST_TEXT])


def wants_login(failure: RedisFailure) -> bool:
    """Whether the server refused only because nobody has logged in."""
    return failure.kind is FailureKind.AUTHENTICATION and failure.text.startswith(_LOGIN_IS_NEEDED)


def failure_of(error: BaseException, where: str, *, sent: bool) -> RedisFailure:
    """``error`` of redis-py or of the operating system as a failure. ``sent``: the command may have left already."""
    answer = _answer_in(error)
    if answer is not None:
        return refusal(answer)
    effect = Effect.UNKNOWN if sent else Effect.ABSENT
    causes = list(_causes(error))
    for types, kind in _TYPES:
        for cause in causes:
            if isinstance(cause, types):
                return RedisFailure(kind, f"{where}: {cause}"[:_LONGEST_TEXT], effect)
    kind = FailureKind.CONNECTION_LOST if sent else FailureKind.UNREACHABLE
    # redis-py's words name the address, and the system's in them once more.
    said = _CONNECTING.match(str(error))
    text = str(error) if said is None else os.strerror(int(said[1]))
    return RedisFailure(kind, f"{where}: {text}"[:_LONGEST_TEXT], effect)


_TYPES: Final[tuple[tuple[type[BaseException], FailureKind], ...]] = (
    (SecretUnreadable, FailureKind.SETUP),
    (TlsNotValid, FailureKind.SETUP),
    (ssl.SSLCertVerificationError, FailureKind.CERTIFICATE),
    (ssl.SSLError, FailureKind.TLS),
    (socket.gaierror, FailureKind.NAME_UNKNOWN),
    (exceptions.InvalidResponse, FailureKind.PROTOCOL),
)


def _answer_in(error: BaseException) -> str | None:
    """The server's own words, None when it did not say anything. redis-py takes known codes off and keeps them."""
    if not isinstance(error, exceptions.RedisError):
        return None
    if error.status_code is not None:
        return f"{error.status_code} {error}"
    return str(error) if isinstance(error, exceptions.ResponseError) else None


def problem_of(error: BaseException, where: str) -> Problem:
    """What ``error`` is to the user. ``where`` names the server and the stream, and holds no secret."""
    if not isinstance(error, RedisFailure):
        return Problem(Reason.INTERNAL_ERROR, f"unexpected: {where}: {error!r}")
    rule = _RULES[error.kind]
    place, _, rest = error.text.partition(": ")
    # Of several servers the text says which one it was; a single one is named by where already.
    is_named = bool(rest) and re.search(rf"(?:^|//|\s){re.escape(place)}(?:/|$)", where) is not None
    text = rest if is_named else error.text
    return Problem(rule.reason, f"{rule.text}: {where}: {text}", _hint_of(error, rule.hint))


def _hint_of(failure: RedisFailure, hint: str) -> str:
    command = _COMMAND_REFUSED.search(failure.text)
    if failure.kind is FailureKind.PERMISSION and command is not None:
        return f"allow the user +{command[1]}"
    return hint


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
