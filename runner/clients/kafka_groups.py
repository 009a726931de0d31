"""What a consumer group has committed, read so that an error is never taken for "nothing"."""

# ruff: noqa: SLF001  (the admin client's own method drops the error that matters here)

from __future__ import annotations

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

_NOTHING = -1


async def committed_offsets(admin: AIOKafkaAdminClient, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """Every commit of ``group``. Raises aiokafka's errors, retriable ones while the coordinator loads.

    A coordinator that is still loading answers with an error for the whole request and no partitions. Neither the
    consumer nor the admin client of aiokafka looks at that error, so both would report a group without commits.
    """
    coordinator = await admin.find_coordinator(group)
    response = await admin._client.send(coordinator, OffsetFetchRequest(group, None))
    error_code = getattr(response, "error_code", 0)
    if error_code:
        raise for_code(error_code)(f"the commits of group {group} cannot be read")
    commits: dict[TopicPartition, OffsetAndMetadata] = {}
    for topic, partitions in response.topics:
        for partition, offset, metadata, partition_error in partitions:
            if partition_error:
                raise for_code(partition_error)(f"the commit of {topic}-{partition} cannot be read")
            if offset != _NOTHING:
                commits[TopicPartition(topic, partition)] = OffsetAndMetadata(offset, metadata)
    return commits
