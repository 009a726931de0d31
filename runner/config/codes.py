"""The stable codes of everything that can be said about a configuration file."""

from __future__ import annotations

import enum


class Code(enum.StrEnum):
    """``E0``: the file as YAML. ``E1``: one value. ``E2``: interpolation. ``E3``: values that contradict each other.

    ``W``: legal, but risky. A code is never given another meaning.
    """

    FILE_UNREADABLE = "E001"
    NOT_UTF8 = "E002"
    FILE_TOO_LARGE = "E003"
    EMPTY = "E004"
    YAML_SYNTAX = "E005"
    NESTED_TOO_DEEP = "E006"
    TOO_MANY_VALUES = "E007"
    DUPLICATE_KEY = "E008"
    TAG = "E009"
    MERGE_KEY = "E010"
    KEY_NOT_TEXT = "E011"
    SEVERAL_DOCUMENTS = "E012"
    CHARACTER_NOT_ALLOWED = "E013"
    ALIAS_WITHOUT_ANCHOR = "E014"

    MISSING_KEY = "E101"
    WRONG_TYPE = "E102"
    UNKNOWN_KEY = "E103"
    OUT_OF_RANGE = "E104"
    UNKNOWN_CHOICE = "E105"
    MALFORMED = "E106"
    NOT_EXACTLY_ONE = "E107"
    DUPLICATE_ITEM = "E108"
    NOT_BUILT = "E109"
    PATH_UNUSABLE = "E110"
    PATTERN_INVALID = "E111"
    HEADER_REFUSED = "E112"
    SECRET_EMPTY = "E113"  # noqa: S105 - a code, not a secret

    VARIABLE_UNDEFINED = "E201"
    INTERPOLATION_MALFORMED = "E202"
    INTERPOLATED_FILE_UNREADABLE = "E203"
    VARIABLE_NOT_TEXT = "E204"

    FUNCTION_UNKNOWN = "E301"
    GROUP_SHARED = "E302"
    CHECKPOINT_FILE_SHARED = "E303"
    DESTINATION_IS_SOURCE = "E304"
    BATCH_OVER_BUFFER = "E305"
    PAYLOAD_OVER_BUFFER = "E306"
    ENDLESS_ATTEMPTS = "E307"
    BACKOFF_INVERTED = "E308"
    REBALANCE_TIMEOUT_TOO_LONG = "E309"
    COMMIT_TIMEOUT_OVER_SESSION = "E310"
    CONNECT_TIMEOUT_OVER_TIMEOUT = "E311"
    RAW_NEEDS_SINGLE_RECORDS = "E312"
    RAW_HAS_NO_PARTIAL_FAILURES = "E313"
    CONCURRENCY_OVER_LIMIT = "E314"
    TOO_MANY_MAPPINGS = "E315"
    BUFFER_OVER_LIMIT = "E316"
    BATCH_OVER_MAXIMUM_AHEAD = "E317"
    ORDERING_NEEDS_FACTOR_ONE = "E318"
    TIMESTAMP_MISMATCH = "E319"
    SASL_WITHOUT_TLS = "E320"
    TLS_WITHOUT_HTTPS = "E321"
    CERTIFICATE_WITHOUT_KEY = "E322"
    AUTHORIZATION_TWICE = "E323"
    CLUSTER_MISSING = "E324"
    SECURITY_WITHOUT_CLUSTER = "E325"
    PASSWORD_WITHOUT_TLS = "E326"  # noqa: S105 - a code, not a secret
    TLS_WITHOUT_REDISS = "E327"
    HEARTBEAT_TOO_SLOW = "E328"
    COMMIT_TIMEOUT_OVER_LEASE = "E329"
    FIELD_TWICE = "E330"
    SHARED_HAS_NO_ORDER = "E331"

    FUNCTION_UNUSED = "W401"
    DRAIN_SHORTER_THAN_TIMEOUT = "W402"
    TLS_UNVERIFIED = "W403"
    SASL_PLAINTEXT = "W404"
    SECRET_IN_FILE = "W405"  # noqa: S105 - a code, not a secret
    GIVEN_UP_IS_DROPPED = "W406"
    TOKEN_UNENCRYPTED = "W407"  # noqa: S105 - a code, not a secret
    NO_MAPPINGS = "W408"
    PASSWORD_PLAINTEXT = "W409"  # noqa: S105 - a code, not a secret
    FIELD_NAMED_AS_OPERATOR = "W410"

    @property
    def is_warning(self) -> bool:
        return self.value.startswith("W")
