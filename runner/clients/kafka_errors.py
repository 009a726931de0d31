"""What an error of a Kafka client means to the people who run a mapping."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from aiokafka import errors

from runner.clients.kafka import KafkaConnection
from runner.clients.secret import SecretUnreadable
from runner.model import Problem, Reason


class FencedInstanceIdError(errors.BrokerResponseError):  # type: ignore[misc]  # aiokafka has no types
    """Another member of the group has our ``group_instance_id``."""

    errno = 82
    message = "FENCED_INSTANCE_ID"
    description = "another member of the group has the same group instance id"


class InvalidRecordError(errors.BrokerResponseError):  # type: ignore[misc]
    """A record breaks a rule of its topic, such as that of a compacted topic that each record has a key."""

    errno = 87
    message = "INVALID_RECORD"
    description = "the broker does not accept the record"


# aiokafka looks codes up here, and answers "unknown error" without the code for those that it does not have.
for _error in (FencedInstanceIdError, InvalidRecordError):
    errors.kafka_errors.setdefault(_error.errno, _error)


class _Rule(NamedTuple):
    types: tuple[type[BaseException], ...]
    reason: Reason
    text: str
    hint: str


_LOGIN: Final = "check the user name and the password, and that the user exists for this mechanism"
_REACH: Final = "check that the brokers run, that address and port are right, and that nothing on the way blocks them"

_RULES: Final = (
    _Rule(
        (SecretUnreadable,),
        Reason.ESM_CONFIG_NOT_VALID,
        "the password cannot be read",
        "check that the file exists and that this process may read it",
    ),
    _Rule(
        (errors.KafkaConfigurationError,),
        Reason.ESM_CONFIG_NOT_VALID,
        "the client cannot be set up",
        "check the files that the error names",
    ),
    _Rule((errors.SaslAuthenticationFailed,), Reason.EVENT_SOURCE_AUTHN_ERROR, "the broker refused the login", _LOGIN),
    _Rule(
        (errors.UnsupportedSaslMechanismError,),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the broker does not offer this SASL mechanism",
        "use one that the listener has in sasl.enabled.mechanisms",
    ),
    _Rule(
        (errors.AuthenticationFailedError, errors.AuthenticationMethodNotSupported, errors.IllegalSaslStateError),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the login failed",
        _LOGIN,
    ),
    _Rule(
        (ssl.SSLCertVerificationError,),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the broker's certificate is not trusted",
        "give the certificate authority that signed it as the CA file, and use a host name that the certificate has",
    ),
    _Rule(
        (ssl.SSLError,),
        Reason.EVENT_SOURCE_AUTHN_ERROR,
        "the TLS handshake failed",
        "check that the port is a TLS listener, and whether it asks for a client certificate that it trusts",
    ),
    _Rule(
        (errors.GroupAuthorizationFailedError,),
        Reason.EVENT_SOURCE_AUTHZ_ERROR,
        "access to the consumer group is refused",
        "allow the user Read on the group",
    ),
    _Rule(
        (errors.TopicAuthorizationFailedError,),
        Reason.EVENT_SOURCE_AUTHZ_ERROR,
        "access to the topic is refused",
        "allow the user Describe on the topic, with Read to consume it or Write to store dead letters in it",
    ),
    _Rule(
        (errors.ClusterAuthorizationFailedError, errors.TransactionalIdAuthorizationFailed),
        Reason.EVENT_SOURCE_AUTHZ_ERROR,
        "the operation is refused",
        "allow the user Write on the topic, and IdempotentWrite on the cluster with brokers older than 3.0",
    ),
    _Rule(
        (errors.UnknownTopicOrPartitionError,),
        Reason.EVENT_SOURCE_NOT_FOUND,
        "the topic does not exist",
        "create it, or check the name: topics are never created here; without Describe on it, it looks missing too",
    ),
    _Rule(
        (errors.InvalidTopicError,),
        Reason.ESM_CONFIG_NOT_VALID,
        "this is not a valid topic name, or the topic cannot be used so",
        "names are up to 249 letters, digits, '.', '_' and '-'",
    ),
    _Rule(
        (errors.InconsistentGroupProtocolError,),
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
        "the members of the consumer group have no protocol in common",
        "another program uses this group with another assignment strategy or protocol: give the mapping its own group",
    ),
    _Rule(
        (FencedInstanceIdError,),
        Reason.DUPLICATE_MEMBER,
        "another member of the consumer group has our group_instance_id",
        "give each process its own id, such as the pod's name",
    ),
    _Rule(
        (errors.InvalidSessionTimeoutError,),
        Reason.ESM_CONFIG_NOT_VALID,
        "the broker does not accept the session timeout",
        "keep it within the broker's group.min.session.timeout.ms and group.max.session.timeout.ms",
    ),
    _Rule(
        (errors.InvalidGroupIdError,),
        Reason.ESM_CONFIG_NOT_VALID,
        "the broker does not accept the consumer group's name",
        "choose another consumer_group_id",
    ),
    _Rule(
        (errors.UnsupportedVersionError, errors.IncompatibleBrokerVersion, errors.UnrecognizedBrokerVersion),
        Reason.EVENT_SOURCE_PROTOCOL_ERROR,
        "the broker does not speak a protocol version that the client speaks",
        "Kafka 2.1 or newer is needed",
    ),
    _Rule(
        (errors.CorruptRecordException, errors.UnsupportedCodecError),
        Reason.EVENT_SOURCE_UNREADABLE,
        "a batch of records cannot be read",
        "compare the replicas of the partition, or move the group's offset past the batch",
    ),
    _Rule(
        (errors.OffsetOutOfRangeError, errors.NoOffsetForPartitionError),
        Reason.DATA_LOSS,
        "the position is not in the partition any more",
        "decide with on_data_loss, or move the group's offset",
    ),
    _Rule(
        (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError, errors.RecordTooLargeError),
        Reason.DESTINATION_UNAVAILABLE,
        "the record is larger than the topic takes",
        "raise the topic's max.message.bytes",
    ),
    _Rule(
        (InvalidRecordError, errors.PolicyViolationError),
        Reason.DESTINATION_UNAVAILABLE,
        "the topic's rules do not allow the record",
        "a compacted topic takes no record without a key: use a topic with cleanup.policy=delete",
    ),
    _Rule(
        (socket.gaierror,),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the host name cannot be resolved",
        "check the name, and the DNS of this host",
    ),
    _Rule((ConnectionRefusedError,), Reason.EVENT_SOURCE_UNREACHABLE, "the connection is refused", _REACH),
    _Rule(
        (TimeoutError, errors.RequestTimedOutError, errors.KafkaTimeoutError),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the brokers do not answer in time",
        _REACH,
    ),
    _Rule(
        (EOFError, ConnectionError),
        Reason.EVENT_SOURCE_UNREACHABLE,
        "the connection was closed by the other side",
        "check whether the listener expects TLS or a SASL login that is not configured, or is no Kafka listener at all",
    ),
    _Rule((OSError,), Reason.EVENT_SOURCE_UNREACHABLE, "the brokers cannot be reached", _REACH),
)


def problem_of(error: BaseException, connection: KafkaConnection, topic: str | None = None) -> Problem:
    """What ``error``, or what has caused it, is to the user. ``topic`` is named in the text when the error is about it.

    A failed bootstrap says nothing of its cause: ask ``runner.clients.kafka_probe.diagnose`` about that one.
    """
    chain = list(_causes(error))
    for rule in _RULES:
        for cause in chain:
            if isinstance(cause, rule.types) or _wraps(cause, rule.types):
                return Problem(rule.reason, f"{rule.text}: {_place(connection, topic)}: {cause}", rule.hint)
    if any(isinstance(cause, errors.KafkaError) and is_retriable(cause) for cause in chain):
        return Problem(
            Reason.EVENT_SOURCE_UNREACHABLE, f"the brokers cannot be used: {_place(connection, topic)}: {error}", _REACH
        )
    return Problem(Reason.INTERNAL_ERROR, f"unexpected: {_place(connection, topic)}: {error!r}")


def is_retriable(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later without anybody changing anything."""
    if isinstance(error, errors.KafkaError):
        return bool(error.retriable) or isinstance(error, errors.KafkaTimeoutError)
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLCertVerificationError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _wraps(error: BaseException, types: tuple[type[BaseException], ...]) -> bool:
    """aiokafka's group coordinator raises the text of some errors inside a plain KafkaError, and not the error."""
    if type(error) is not errors.KafkaError:
        return False
    text = str(error)
    return any(issubclass(kind, errors.KafkaError) and f"{kind.__name__}(" in text for kind in types)


def _place(connection: KafkaConnection, topic: str | None) -> str:
    return str(connection) if topic is None else f"topic {topic!r} of {connection}"
