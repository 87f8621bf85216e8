"""The HTTP figures of the section `serving`."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from numpy import float32

from benchmarks import service
from benchmarks.load import KEY, STEP, LoadResult, RequestTemplate, generate_load
from benchmarks.results import Row
from benchmarks.rivals import feast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.measure import Scale

MAX_MILLISECONDS, MAX_MILLISECONDS_OF_SCORE = 2.0, 5.0
MIN_PER_SECOND = 10_000
MIN_TIMES_FEAST = 5.0
MAX_RESIDENT_MB = 150.0
MANY = 8
COMPARED = 100
SYNCS, BYTES_OF_A_LINE = 500, 800
OURS, ALONE = "dbt_onnx", "one connection"


def lookups(folder: Path, entities: int, scale: Scale) -> Iterator[Row]:
    """Measure lookups by key, compared with Feast's server except in the short version."""
    template = RequestTemplate(path=f"/v1/predictions/scores/{KEY}", keys=entities)
    with ExitStack() as running:
        ours = running.enter_context(service.serving(folder / "serving"))
        contenders = {ALONE: (ours.address, template, 1), OURS: (ours.address, template, MANY)}
        workers = () if scale.smoke else sorted({1, os.cpu_count() or 1})
        if workers:
            store = folder / "feast"
            feast.fill(store, _newest(folder))
        for count in workers:
            address = running.enter_context(feast.serving(store, workers=count))
            _compare(ours.address, address, template, feast.request_template(entities))
            contenders[_rival(count)] = (address, feast.request_template(entities), MANY)
        taken = _in_turns(contenders, scale)
    keys = f"GET of keys spread over {entities:,}"
    yield _row(
        workload="HTTP, one connection",
        against="p99",
        unit="ms",
        figure=median(each.p99_ms for each in taken[ALONE]),
        at_most=MAX_MILLISECONDS,
        detail=_detail(taken[ALONE], keys),
    )
    yield _row(
        workload="HTTP, eight connections",
        against="requests",
        unit="a second",
        figure=median(each.per_second for each in taken[OURS]),
        at_least=MIN_PER_SECOND,
        detail=_detail(taken[OURS], keys),
    )
    for count in workers:
        theirs = taken[_rival(count)]
        pairs = zip(taken[OURS], theirs, strict=True)
        yield _row(
            workload="HTTP, eight connections",
            against=_rival(count),
            unit="x",
            figure=median(one.per_second / other.per_second for one, other in pairs),
            at_least=MIN_TIMES_FEAST,
            detail=_detail(theirs, f"POST of the same keys, all {entities:,} in its SQLite store"),
        )


def scores(folder: Path, scale: Scale) -> Iterator[Row]:
    """Measure `:score`. Each request scores an entity and writes the answer to disk."""
    features = ", ".join([f'"f0": 0.{KEY}', *(f'"f{k}": {k / 10}' for k in range(1, 10))])
    body = f'{{"key": {KEY}, "features": {{{features}}}}}'
    template = RequestTemplate(path="/v1/predictions/scores:score", body=body, keys=1_000_000)
    with service.serving(folder / "serving") as ours:
        taken = _in_turns({OURS: (ours.address, template, 1)}, scale)[OURS]
    synced = _milliseconds_of_a_sync(folder)
    yield _row(
        workload="HTTP, :score, 100 trees",
        against="p99, one connection",
        unit="ms",
        figure=median(each.p99_ms for each in taken),
        at_most=MAX_MILLISECONDS_OF_SCORE,
        detail=_detail(taken, "another key and another feature each time")
        + f"; of this, the disk needs for storing a line: median {synced[0]:.2f} ms, p99 {synced[1]:.2f} ms",
    )


def memory(folder: Path, entities: int, scale: Scale) -> Iterator[Row]:
    """Measure the memory of the service after some time under load."""
    template = RequestTemplate(path=f"/v1/predictions/scores/{KEY}", keys=entities)
    with service.serving(folder / "serving") as ours:
        before = ours.resident_mb()
        seconds = scale.of(full=20.0, smoke=1.0)
        result = generate_load(ours.address, template, connections=MANY, seconds=seconds)
        resident = ours.resident_mb()
    yield _row(
        workload="memory of the service",
        against=f"{entities:,} entities, after load",
        unit="MB",
        figure=resident,
        at_most=MAX_RESIDENT_MB,
        detail=f"{before:.0f} MB before, then {result.requests:,} requests",
    )


def _in_turns(
    contenders: Mapping[str, tuple[str, RequestTemplate, int]], scale: Scale
) -> dict[str, list[LoadResult]]:
    """Return the results of each contender in each round. An additional first round is not counted."""
    taken: dict[str, list[LoadResult]] = {name: [] for name in contenders}
    seconds = scale.of(full=5.0, smoke=1.0)
    sent = 0
    for _ in range(1 + scale.rounds):
        for name, (address, template, connections) in contenders.items():
            taken[name].append(
                generate_load(
                    address, template, connections=connections, seconds=seconds, first=sent
                )
            )
        sent += max(each[-1].requests for each in taken.values())
    return {name: each[1:] for name, each in taken.items()}


def _compare(ours: str, theirs: str, our: RequestTemplate, their: RequestTemplate) -> None:
    """Raise ValueError unless both services return the same scores for some keys."""
    for number in range(COMPARED):
        key = STEP * number % our.keys
        score = _answer(ours, our, key)["outputs"]["score"]
        *_, result = _answer(theirs, their, key)["results"]
        # Feast writes a FLOAT with the digits of a FLOAT, dbt_onnx with the digits of a DOUBLE
        if float32(result["values"][0]) != float32(score):
            raise ValueError(
                f"key {key}: Feast returns {result['values']}, dbt_onnx returns {score}"
            )


def _answer(address: str, template: RequestTemplate, key: int) -> Any:
    body = template.body and template.body.replace(KEY, str(key)).encode()
    url = address + template.path.replace(KEY, str(key))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _milliseconds_of_a_sync(folder: Path) -> tuple[float, float]:
    """Return median and 99th percentile of the milliseconds that the disk takes to store a line like the service's."""
    took = []
    descriptor = os.open(folder / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for _ in range(SYNCS):
            os.write(descriptor, b"x" * BYTES_OF_A_LINE)
            begun = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(1000 * (time.perf_counter() - begun))
    finally:
        os.close(descriptor)
    took.sort()
    return took[SYNCS // 2], took[SYNCS * 99 // 100]


def _newest(folder: Path) -> Path:
    return max((folder / "serving" / "scores").glob("*.sqlite"))


def _rival(workers: int) -> str:
    return f"Feast {feast.VERSION}, {workers} worker{'s' if workers > 1 else ''}"


def _detail(taken: list[LoadResult], what: str) -> str:
    p50, p99 = (median(getattr(each, name) for each in taken) for name in ("p50_ms", "p99_ms"))
    rate = median(each.per_second for each in taken)
    return f"{rate:,.0f} a second, median {p50:.2f} ms, p99 {p99:.2f} ms; {what}; load from {taken[0].by}"


def _row(**fields: Any) -> Row:
    return Row(section="serving", **fields)
