"""The function of the end-to-end tests: an HTTP server that journals every call and misbehaves as it is told."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from kafka_harness.behaviour import REFUSED, Behaviour, Fault, Status
from kafka_harness.delivery import Delivery, DeliveryInvalid, PoisonCounter, named_failures, read_delivery
from kafka_harness.http_connection import HttpConnection, Request
from kafka_harness.journal import Call, Ending, JournalWriter, key_id

CONTROL_PATH = "/_control"
_JSON = {"Content-Type": "application/json"}


@dataclass(eq=False)
class _Pending:
    """A call that has no answer yet. ``timer`` is None while it is held."""

    delivery: Delivery
    start_ns: int
    timer: asyncio.TimerHandle | None = None


class Function:
    """Handles the requests of all connections; every call ends in exactly one line of the journal."""

    def __init__(self, journal: JournalWriter, behaviour: Behaviour) -> None:
        self._journal = journal
        self._behaviour = behaviour
        self._random = random.Random(behaviour.seed)
        self._poison = PoisonCounter()
        self._answered: Counter[str] = Counter()  # scripted answers given so far, by mapping
        self._generations: Counter[str] = Counter()  # the highest seen, by partition
        self._pending: dict[HttpConnection, _Pending] = {}
        self._calls = 0

    def request_received(self, connection: HttpConnection, request: Request) -> None:
        if request.path == CONTROL_PATH:
            self._control(connection, request)
            return
        start_ns = time.monotonic_ns()
        try:
            delivery = read_delivery(request.headers, request.body, self._behaviour)
        except DeliveryInvalid as error:
            self._note(_Pending(Delivery("", "", 0, "", []), start_ns), 400, error=str(error))
            connection.answer(400, str(error).encode())
            return
        pending = _Pending(delivery, start_ns)
        if self._is_late(delivery):
            self._note(pending, REFUSED)
            connection.answer(REFUSED, b"the records have another owner by now")
            return
        fault = self._drawn_fault()
        if fault is None:
            self._begin(connection, pending)
        elif fault.kind == "reset":
            self._note(pending, 0, ending="reset")
            connection.reset()
        else:
            self._note(pending, fault.status)
            headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
            connection.answer(fault.status, b"injected fault", headers)

    def caller_gone(self, connection: HttpConnection) -> None:
        pending = self._pending.pop(connection, None)
        if pending is not None:
            if pending.timer is not None:
                pending.timer.cancel()
            self._note(pending, 0, ending="abandoned")

    def _begin(self, connection: HttpConnection, pending: _Pending) -> None:
        behaviour = self._behaviour
        keys = [record.key.decode("utf-8", "replace") for record in pending.delivery.records if record.key is not None]
        if behaviour.hang or any(key in behaviour.hang_keys for key in keys):
            self._pending[connection] = pending
            return
        delay_ms = behaviour.delay_ms + max((behaviour.slow_keys.get(key, 0.0) for key in keys), default=0.0)
        if delay_ms > 0:
            self._pending[connection] = pending
            loop = asyncio.get_running_loop()
            pending.timer = loop.call_later(delay_ms / 1000, self._finish, connection, pending)
        else:
            self._finish(connection, pending)

    def _finish(self, connection: HttpConnection, pending: _Pending) -> None:
        self._pending.pop(connection, None)
        behaviour = self._behaviour
        scripted = self._scripted_answer(pending.delivery.mapping)
        if scripted is not None:
            self._note(pending, 200)
            connection.answer(200, scripted.encode(), _JSON)
            return
        failing = [] if behaviour.poison == "accept" else self._poison.failing(pending.delivery)
        if not failing:
            self._note(pending, 200)
            connection.answer(200, b'{"batchItemFailures":[]}' if behaviour.poison == "report" else b"", _JSON)
        elif behaviour.poison == "report":
            offsets = named_failures(pending.delivery, failing, behaviour)
            self._note(pending, 200, failed=offsets)
            failures = [{"itemIdentifier": pending.delivery.identifier(offset)} for offset in offsets]
            connection.answer(200, msgspec.json.encode({"batchItemFailures": failures}), _JSON)
        else:
            self._note(pending, behaviour.failure_status)
            body = msgspec.json.encode({"errorType": "Poison", "errorMessage": f"poison at {failing[0].offset}"})
            connection.answer(behaviour.failure_status, body, _JSON)

    def _is_late(self, delivery: Delivery) -> bool:
        """Whether the behaviour refuses it; what is seen is remembered under any behaviour."""
        highest = max(self._generations[delivery.partition], delivery.generation)
        self._generations[delivery.partition] = highest
        return self._behaviour.fenced and delivery.generation < highest

    def _scripted_answer(self, mapping: str) -> str | None:
        """The next body that is prescribed for a mapping; None when there is none left."""
        answers = self._behaviour.answers.get(mapping, [])
        given = self._answered[mapping]
        if given >= len(answers):
            return None
        self._answered[mapping] += 1
        return answers[given]

    def _note(
        self,
        pending: _Pending,
        status: int,
        *,
        ending: Ending = "answered",
        failed: list[int] | None = None,
        error: str = "",
    ) -> None:
        delivery = pending.delivery
        self._calls += 1
        self._journal.write(
            Call(
                start_ns=pending.start_ns,
                end_ns=time.monotonic_ns(),
                mapping=delivery.mapping,
                partition=delivery.partition,
                offsets=[record.offset for record in delivery.records],
                keys=[key_id(record.key) for record in delivery.records],
                attempt=delivery.attempt,
                idempotency_key=delivery.idempotency_key,
                status=status,
                ending=ending,
                failed=failed or [],
                error=error,
                generation=delivery.generation,
            )
        )

    def _drawn_fault(self) -> Fault | None:
        """The rates of the faults share one draw a call, so that adding one does not move the others."""
        if not self._behaviour.faults:
            return None
        drawn = self._random.random()
        for fault in self._behaviour.faults:
            if drawn < fault.rate:
                return fault
            drawn -= fault.rate
        return None

    def _control(self, connection: HttpConnection, request: Request) -> None:
        if request.method == "PUT":
            try:
                behaviour = msgspec.json.decode(request.body, type=Behaviour)
            except msgspec.DecodeError as error:
                connection.answer(400, str(error).encode())
                return
            self._replace(behaviour)
        held = sum(pending.timer is None for pending in self._pending.values())
        status = Status(self._behaviour, self._calls, len(self._pending), held)
        connection.answer(200, msgspec.json.encode(status), _JSON)

    def _replace(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._random = random.Random(behaviour.seed)
        self._answered.clear()
        for connection, pending in list(self._pending.items()):
            if pending.timer is None:
                del self._pending[connection]
                self._begin(connection, pending)


async def _serve(port: int, journal: JournalWriter, behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    function = Function(journal, behaviour)
    server = await loop.create_server(lambda: HttpConnection(function), "127.0.0.1", port, backlog=4096)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free; it is printed as a JSON line")
    parser.add_argument("--journal", type=Path, required=True, help="the file that calls are appended to")
    parser.add_argument("--script", default="{}", help="the behaviour to start with, as JSON")
    arguments = parser.parse_args()
    try:
        behaviour = msgspec.json.decode(arguments.script, type=Behaviour)
    except msgspec.DecodeError as error:
        parser.error(f"--script: {error}")
    with JournalWriter(arguments.journal) as journal:
        uvloop.run(_serve(arguments.port, journal, behaviour))


if __name__ == "__main__":
    main()
