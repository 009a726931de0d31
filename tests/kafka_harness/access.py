"""Who may do what on a running broker: ACLs, and SCRAM passwords that change while clients are connected."""

from __future__ import annotations

import hashlib
import os
from typing import ClassVar, TypeAlias

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import CreateAclsRequest, DeleteAclsRequest, DescribeAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from kafka_harness.clients import connected_admin
from kafka_harness.waiting import until_async

RESOURCES = {"topic": 2, "group": 3}
OPERATIONS = {"all": 2, "read": 3, "write": 4, "create": 5, "describe": 8}
_ANY, _DENY, _ALLOW = 1, 2, 3
_LITERAL = 3
_MECHANISMS = {"SCRAM-SHA-256": (1, "sha256"), "SCRAM-SHA-512": (2, "sha512")}
_ITERATIONS = 4096


async def deny(bootstrap: str, user: str, resource: str, name: str, operation: str) -> None:
    """Refuse ``user`` an operation on the topic or group ``name``; everybody else keeps what they may.

    ``resource`` is a key of RESOURCES, ``operation`` one of OPERATIONS. In force when this returns.
    Raises KafkaError when the broker keeps no ACLs.
    """
    # The first ACL of a resource ends "allowed when no ACL is found" for it: the others must be allowed by one as well.
    async with connected_admin(bootstrap) as admin:
        for principal, permission in (("User:*", _ALLOW), (f"User:{user}", _DENY)):
            which = OPERATIONS[operation] if permission == _DENY else OPERATIONS["all"]
            request = CreateAclsRequest(RESOURCES[resource], name, _LITERAL, principal, "*", which, permission)
            response = await _send(admin, request)
            for code, message in response.creation_responses:
                _check(code, message)

        async def in_force() -> bool:
            return any(permission == _DENY for permission in await _permissions(admin, resource, name))

        await until_async(in_force, what=f"{user} is refused to {operation} {resource} {name}", every=0.01)


async def allow_again(bootstrap: str, resource: str, name: str) -> None:
    """Remove every ACL of the topic or group: everybody may do everything with it. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        # None matches every principal and host.
        request = DeleteAclsRequest(RESOURCES[resource], name, _LITERAL, None, None, _ANY, _ANY)
        response = await _send(admin, request)
        for code, message, _matching in response.filter_responses:
            _check(code, message)

        async def forgotten() -> bool:
            return not await _permissions(admin, resource, name)

        await until_async(forgotten, what=f"{resource} {name} has no ACL", every=0.01)


async def set_scram_password(bootstrap: str, user: str, password: str) -> None:
    """Give ``user`` this password for both SCRAM mechanisms; open connections stay. Raises KafkaError."""
    async with connected_admin(bootstrap) as admin:
        # The broker alters a user only once a request.
        for number, digest in _MECHANISMS.values():
            salt = os.urandom(16)
            salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, _ITERATIONS)
            response = await _send(admin, _AlterScram([(user, number, _ITERATIONS, salt, salted, {})]))
            for _user, code, message, _tags in response.results:
                _check(code, message)


async def _permissions(admin: AIOKafkaAdminClient, resource: str, name: str) -> list[int]:
    """What the ACLs of a resource say, as the broker that answers applies them."""
    request = DescribeAclsRequest(RESOURCES[resource], name, _LITERAL, None, None, _ANY, _ANY)
    response = await _send(admin, request)
    _check(response.error_code, response.error_message)
    return [acl[-1] for *_resource, acls in response.resources for acl in acls]


async def _send(admin: AIOKafkaAdminClient, request: Request[RequestStruct]) -> Response:
    response: Response = await admin._send_request(request)
    return response


def _check(code: int, message: str | None) -> None:
    if code:
        raise for_code(code)(message or "")


class _AlterScramResponse(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterScramRequest(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _AlterScramResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


_Upsertion: TypeAlias = tuple[str, int, int, bytes, bytes, dict[int, bytes]]


class _AlterScram(Request[_AlterScramRequest]):  # type: ignore[misc]
    """AlterUserScramCredentials, which the client library does not know."""

    API_KEY = 51

    def __init__(self, upsertions: list[_Upsertion]) -> None:
        self._upsertions = upsertions

    def build(self, request_struct_class: type[_AlterScramRequest]) -> _AlterScramRequest:
        return request_struct_class([], self._upsertions, {})
