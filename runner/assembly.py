"""Builds everything from a configuration; the only module that knows every class."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import anyio

from runner.clients.kafka import KafkaConnection, SaslSettings
from runner.clients.redis import RedisConnection
from runner.clients.redis_entries import FieldNames
from runner.clients.tls import TlsSettings
from runner.config.connections import SaslConfig, TlsConfig
from runner.config.destinations import KafkaDestinationConfig, RedisStreamsDestinationConfig
from runner.config.functions import FunctionConfig
from runner.config.mappings import MappingConfig, OnDataLoss, Tombstones
from runner.config.models import Config
from runner.config.sources import KafkaSourceConfig, RedisDelivery, RedisStreamsSourceConfig, SourceConfig
from runner.core.batcher import BatchPolicy
from runner.core.delivery import DeliveryPolicy
from runner.core.filters import compile_filters
from runner.core.flow import ByteBudget, FlowLimits
from runner.core.lease import LeaseTimes
from runner.core.permits import Permits
from runner.core.retry import RetryPolicy
from runner.destinations.file import FileDestination
from runner.destinations.kafka import KafkaDestination
from runner.destinations.redis_streams import RedisStreamsDestination
from runner.engine.mapping import Mapping
from runner.engine.policy import MappingPolicy
from runner.engine.supervisor import Desired
from runner.functions.http import HttpFunction
from runner.functions.python import PythonFunction
from runner.ports import Clock, Destination, Function, Observer, Source
from runner.sources.file import FileSource
from runner.sources.kafka import KafkaSource, KafkaSourceSettings
from runner.sources.redis_shared import SharedStreamsSource
from runner.sources.redis_source import RedisStreamsSettings
from runner.sources.redis_streams import RedisStreamsSource
from runner.sources.starting import StartingPosition
from runner.telemetry.telemetry import Telemetry

_CLIENT_ID = "stream-runner"


class Assembly:
    """What all mappings of a process share, and how each is made.

    Permits and budget stay the same objects over a reload, so that mappings that go on and mappings that are new count
    against the same limits.
    """

    def __init__(self, *, clock: Clock, telemetry: Telemetry, app_dir: Path, until_caught_up: bool = False) -> None:
        self.permits = Permits(1)
        self.function_permits: dict[str, Permits] = {}
        self.budget = ByteBudget(0)
        self._alone = anyio.Lock()
        self._clock = clock
        self._telemetry = telemetry
        self._app_dir = app_dir
        self._until_caught_up = until_caught_up

    def desired(self, config: Config) -> dict[str, Desired]:
        """What ``config`` wants to run; the shared limits are set to its own."""
        self.permits.resize(config.limits.concurrency)
        self.budget.limit = config.limits.buffer_bytes
        for name, function in config.functions.items():
            if function.reserved_concurrency is not None:
                known = self.function_permits.setdefault(name, Permits(function.reserved_concurrency))
                known.resize(function.reserved_concurrency)
        return dict(self._desired(config))

    def _desired(self, config: Config) -> Iterator[tuple[str, Desired]]:
        for name, mapping in config.mappings.items():
            function = config.functions[mapping.function]
            yield (
                name,
                Desired(
                    name=name,
                    function=mapping.function,
                    fingerprint=(mapping, function),
                    # The process's limits are not in it: mappings that go on meet them where they are shared.
                    build=lambda name=name, mapping=mapping, function=function: self._mapping(  # type: ignore[misc]
                        name, mapping, function
                    ),
                    observer=self._telemetry.observer(name, mapping.function),
                    enabled=mapping.enabled,
                    until_caught_up=self._until_caught_up,
                ),
            )

    def _mapping(self, name: str, config: MappingConfig, function: FunctionConfig) -> Mapping:
        observer = self._telemetry.observer(name, config.function)
        source, lease = self._source(name, config)
        invoked = self._function(config, function, source.description, observer)
        return Mapping(
            policy=_policy(name, config, invoked),
            source=source,
            function=invoked,
            destination=_destination(config, observer),
            observer=observer,
            clock=self._clock,
            process_permits=self.permits,
            function_permits=(
                None if function.reserved_concurrency is None else self.function_permits[config.function]
            ),
            budget=self.budget,
            alone=self._alone,
            lease=lease,
            until_caught_up=self._until_caught_up,
            jitter=random.random,
        )

    def _source(self, name: str, config: MappingConfig) -> tuple[Source, float | None]:
        """With it, for how long the process may stand still before all its partitions may be another's."""
        if config.source.kafka is not None:
            settings = self._kafka(config.source.kafka, config)
            return KafkaSource(settings, now=self._clock.now), settings.lease
        if config.source.redis_streams is not None:
            redis = self._redis(config.source.redis_streams, config)
            is_shared = config.source.redis_streams.delivery is RedisDelivery.SHARED
            kind = SharedStreamsSource if is_shared else RedisStreamsSource
            return kind(redis, now=self._clock.now), None
        return self._file(name, config), None

    def _kafka(self, kafka: KafkaSourceConfig, config: MappingConfig) -> KafkaSourceSettings:
        return KafkaSourceSettings(
            connection=_source_connection(kafka),
            topics=kafka.topics,
            group=kafka.consumer_group_id,
            drain_timeout=config.drain_timeout,
            commit_timeout=config.commit_timeout,
            starting=StartingPosition(config.starting_position.value),
            starting_timestamp=config.starting_position_timestamp,
            continue_after_loss=config.on_data_loss is OnDataLoss.CONTINUE,
            group_instance_id=kafka.group_instance_id,
            session_timeout=kafka.session_timeout,
            maximum_partition_fetch=kafka.maximum_partition_fetch,
            stop_at_end=self._until_caught_up,
        )

    def _redis(self, redis: RedisStreamsSourceConfig, config: MappingConfig) -> RedisStreamsSettings:
        return RedisStreamsSettings(
            connection=_redis_connection(redis),
            streams=redis.streams,
            group=redis.group,
            lease=LeaseTimes(redis.lease, redis.heartbeat),
            names=_field_names(redis),
            starting=StartingPosition(config.starting_position.value),
            starting_timestamp=config.starting_position_timestamp,
            continue_after_loss=config.on_data_loss is OnDataLoss.CONTINUE,
            trims=redis.trim,
            stop_at_end=self._until_caught_up,
        )

    def _file(self, name: str, config: MappingConfig) -> FileSource:
        file = config.source.file
        assert file is not None
        return FileSource(
            name=name,
            directory=file.path,
            checkpoint_file=file.checkpoint_file,
            poll_interval=file.poll_interval,
            starting_position=StartingPosition(config.starting_position.value),
            starting_timestamp=config.starting_position_timestamp,
            on_data_loss=config.on_data_loss.value,
            now=self._clock.now,
            stop_at_end=self._until_caught_up,
        )

    def _function(self, config: MappingConfig, function: FunctionConfig, source: str, observer: Observer) -> Function:
        event_source = _event_source(config.source)
        http, python = function.http, function.python
        if http is not None:
            return HttpFunction(
                name=config.function,
                url=http.url,
                timeout=http.timeout,
                connect_timeout=http.connect_timeout,
                payload=http.payload.value,
                headers=http.headers,
                bearer_token=http.bearer_token,
                tls=_tls(http.tls),
                maximum_response=http.maximum_response,
                maximum_payload=config.maximum_payload,
                report_batch_item_failures=config.reports_batch_item_failures,
                event_source=event_source,
                source_description=source,
                now=self._clock.now,
            )
        assert python is not None
        return PythonFunction(
            name=config.function,
            handler=python.handler,
            payload=python.payload.value,
            timeout=python.timeout,
            executor=python.executor.value,
            report_batch_item_failures=config.reports_batch_item_failures,
            event_source=event_source,
            maximum_payload=config.maximum_payload,
            app_dir=self._app_dir,
            observer=observer,
            source_description=source,
            now=self._clock.now,
        )


def _event_source(source: SourceConfig) -> str:
    """What an event says of its kind."""
    if source.redis_streams is not None:
        return "RedisStreams"
    return "File" if source.kafka is None else "SelfManagedKafka"


def _policy(name: str, config: MappingConfig, function: Function) -> MappingPolicy:
    expansion, overhead = function.largest_expansion
    filters = [each.pattern.to_dict() for each in config.filter_criteria.filters]
    return MappingPolicy(
        name=name,
        function=config.function,
        batch=BatchPolicy(
            records=config.batch_size,
            window=config.maximum_batching_window,
            maximum_bytes=config.maximum_payload,
            size_of=function.size_of,
            fixed_bytes=function.fixed_size,
            expansion=expansion,
            overhead_bytes=overhead,
        ),
        delivery=DeliveryPolicy(
            retry=RetryPolicy(
                maximum_attempts=config.maximum_retry_attempts,
                initial_backoff=config.retry_backoff.initial,
                maximum_backoff=config.retry_backoff.maximum,
                maximum_retry_after=config.maximum_retry_after,
                maximum_age=config.maximum_record_age,
            ),
            ordering=config.ordering,
            bisect=config.bisect_batch_on_function_error,
        ),
        flow=FlowLimits(records=config.buffer.records, bytes=config.buffer.bytes, ahead=config.maximum_ahead),
        parallelization_factor=config.parallelization_factor,
        maximum_concurrency=config.maximum_concurrency,
        wants=compile_filters(filters) if filters else None,
        skip_tombstones=config.tombstones is Tombstones.SKIP,
        drain_timeout=config.drain_timeout,
        commit_interval=config.commit_interval,
        commit_timeout=config.commit_timeout,
    )


def _destination(config: MappingConfig, observer: Observer) -> Destination | None:
    on_failure = config.on_failure
    if on_failure is None:
        return None
    if on_failure.file is not None:
        return FileDestination(on_failure.file.path)
    if on_failure.redis_streams is not None:
        return _redis_destination(on_failure.redis_streams, config.source.redis_streams, observer)
    assert on_failure.kafka is not None
    return KafkaDestination(
        connection=_destination_connection(on_failure.kafka, config.source.kafka),
        topic=on_failure.kafka.topic,
        timeout=on_failure.kafka.timeout,
        observer=observer,
    )


def _redis_destination(
    config: RedisStreamsDestinationConfig, source: RedisStreamsSourceConfig | None, observer: Observer
) -> RedisStreamsDestination:
    return RedisStreamsDestination(
        connection=_redis_connection(config, source),
        stream=config.stream,
        maxlen=config.maxlen,
        timeout=config.timeout,
        marker_ttl=config.marker_ttl,
        observer=observer,
        source_fields=None if source is None else _field_names(source),
    )


def _field_names(source: RedisStreamsSourceConfig) -> FieldNames:
    return FieldNames(
        None if source.key_field is None else source.key_field.encode(),
        None if source.value_field is None else source.value_field.encode(),
    )


def _redis_connection(
    config: RedisStreamsSourceConfig | RedisStreamsDestinationConfig, shared: RedisStreamsSourceConfig | None = None
) -> RedisConnection:
    """To a server of its own, or to the one of ``shared``, as that is reached."""
    reached = config if config.url is not None or shared is None else shared
    assert reached.url is not None
    return RedisConnection(
        url=reached.url,
        client_name=_CLIENT_ID,
        username=reached.username,
        password=reached.password,
        tls=_tls(reached.tls),
    )


def _source_connection(kafka: KafkaSourceConfig) -> KafkaConnection:
    return KafkaConnection(
        bootstrap_servers=kafka.bootstrap_servers,
        client_id=kafka.client_id or _CLIENT_ID,
        tls=_tls(kafka.tls),
        sasl=_sasl(kafka.sasl),
    )


def _destination_connection(destination: KafkaDestinationConfig, source: KafkaSourceConfig | None) -> KafkaConnection:
    """A cluster of its own, or the source's, with its security."""
    if destination.bootstrap_servers is None:
        assert source is not None
        return _source_connection(source)
    return KafkaConnection(
        bootstrap_servers=destination.bootstrap_servers,
        client_id=_CLIENT_ID,
        tls=_tls(destination.tls),
        sasl=_sasl(destination.sasl),
    )


def _tls(config: TlsConfig | None) -> TlsSettings | None:
    if config is None:
        return None
    return TlsSettings(
        ca_file=config.ca_file,
        certificate_file=config.certificate_file,
        key_file=config.key_file,
        key_password=config.key_password,
        insecure_skip_verify=config.insecure_skip_verify,
    )


def _sasl(config: SaslConfig | None) -> SaslSettings | None:
    if config is None:
        return None
    return SaslSettings(mechanism=config.mechanism.value, username=config.username, password=config.password)
