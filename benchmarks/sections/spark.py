"""Spark with Iceberg: two executors compared with one, Spark's own transport, growth, and few changes.

Executors are processes with one core each on this machine, so Java threads, Python workers and the driver share
its cores. CPU seconds are those of the executors and all their child processes. Tasks run in the environment
of `make test-spark`, each with its own metastore and tables. The bare onnxruntime is the rival of `scoring`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmarks import models, project
from benchmarks.measure import ROOT, Measurement, Task, run
from benchmarks.results import Row
from benchmarks.sections.growth import MAX_PERCENT_FROM_LINE, straight_line
from benchmarks.workloads import TREES_100

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure import Scale

PYTHON = Path(os.environ.get("DBT_ONNX_SPARK_PYTHON", ROOT / ".venvs" / "spark" / "bin" / "python"))
"""The Python of an environment with pyspark. `make bench-spark` creates it."""
MAX_CPU = 1.1
MIN_OF_TRANSPORT = 0.8
MAX_PERCENT_OF_FIRST = 25.0
MAX_MEMORY = 1.2


def measure(scale: Scale) -> Iterator[Row]:
    if (reason := _reason_to_skip()) is not None:
        Console().print(f"skipped: {reason}")
        return
    rows = scale.of(full=10_000_000, smoke=200_000)
    one = _play(executors=1, rows=rows, kind="trees_100", steps=["first", "identity"])
    two = _play(executors=2, rows=rows, kind="trees_100", steps=["first", "identity"])
    yield from _of_executors(one, two, rows)
    alone = {workers: _bare_onnxruntime(rows, workers) for workers in (1, 2)}
    yield from _of_control(one, two, alone, rows)
    # the run that is compared with the transport keeps no inputs, because its rivals keep none
    steps = ["first", "identity", "unwritten", "nothing", "changed"]
    without = _play(executors=2, rows=rows, kind="trees_100", steps=steps, keep_inputs=False)
    yield from _of_transport(without, two, rows, alone[2].seconds)
    yield from _of_changes(without, rows)
    sizes = scale.of(full=(1_000_000, 10_000_000, 100_000_000), smoke=(50_000, 100_000, 200_000))
    yield from _of_growth(
        {n: _play(executors=2, rows=n, kind="logistic", steps=["first"]) for n in sizes}
    )


def _reason_to_skip() -> str | None:
    if not PYTHON.exists():
        return f"no pyspark: {PYTHON} does not exist; run `make bench-spark`, or set DBT_ONNX_SPARK_PYTHON"
    done = subprocess.run([str(PYTHON), "-c", "import pyspark"], capture_output=True, check=False)
    return f"{PYTHON} has no pyspark" if done.returncode else None


def _play(
    *, executors: int, rows: int, kind: str, steps: list[str], keep_inputs: bool = True
) -> dict[str, Any]:
    folder = project.new_folder()
    arguments = {
        "folder": str(folder),
        "executors": executors,
        "rows": rows,
        "model": models.model(kind),
        "steps": steps,
        "keep_inputs": keep_inputs,
    }
    done = run(Task("benchmarks.on_spark", "play", arguments), python=str(PYTHON))
    return {**done.result, "peak_mb": done.peak_mb}


def _bare_onnxruntime(rows: int, workers: int) -> Measurement:
    """Measure onnxruntime with some workers on rows in memory."""
    folder = project.new_folder()
    arguments = {
        "folder": str(folder),
        "workload": TREES_100.described(rows),
        "workers": workers,
    }
    try:
        return run(Task("benchmarks.rivals.onnxruntime_alone", "score", arguments))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _of_executors(one: dict[str, Any], two: dict[str, Any], rows: int) -> Iterator[Row]:
    first, second = one["first"], two["first"]
    workload = f"100 trees, {rows:,} rows"
    yield Row(
        section="spark",
        workload=workload,
        against="CPU of two executors, to one",
        unit="x",
        figure=second["cpu_seconds"] / first["cpu_seconds"],
        at_most=MAX_CPU,
        detail=f"{1e6 * second['cpu_seconds'] / rows:.2f} and {1e6 * first['cpu_seconds'] / rows:.2f} µs a row; "
        f"{two['versions']}",
    )
    yield Row(
        section="spark",
        workload=workload,
        against="time of two executors, to one",
        unit="x",
        figure=second["seconds"] / first["seconds"],
        detail=f"{second['seconds']:.1f} s, {first['seconds']:.1f} s",
    )


def _of_control(
    one: dict[str, Any], two: dict[str, Any], alone: dict[int, Measurement], rows: int
) -> Iterator[Row]:
    """Compare the CPU of work without dbt_onnx on two cores and on one, as a control: busy cores slow any work."""
    for what, second, first in (
        ("identity, written", two["identity"]["cpu_seconds"], one["identity"]["cpu_seconds"]),
        ("onnxruntime alone", alone[2].cpu_seconds, alone[1].cpu_seconds),
    ):
        yield Row(
            section="spark",
            workload=f"{what}, {rows:,} rows",
            against="CPU of two, to one",
            unit="x",
            figure=second / first,
            detail=f"{1e6 * second / rows:.2f} and {1e6 * first / rows:.2f} µs a row",
        )


def _of_transport(
    without: dict[str, Any], two: dict[str, Any], rows: int, bare: float
) -> Iterator[Row]:
    ours, with_inputs = without["first"]["seconds"], two["first"]["seconds"]
    yield Row(
        section="spark",
        workload=f"100 trees, {rows:,} rows",
        against="inputs kept, to inputs not kept",
        unit="x the time",
        figure=with_inputs / ours,
        detail=f"{with_inputs:.1f} s, {ours:.1f} s",
    )
    for step, what, at_least in (
        ("identity", "written", MIN_OF_TRANSPORT),
        ("unwritten", "not written", None),
    ):
        passed = without[step]["seconds"]
        yield Row(
            section="spark",
            workload=f"100 trees, {rows:,} rows",
            against=f"identity, {what}, and onnxruntime",
            unit="x",
            figure=(passed + bare) / ours,
            at_least=at_least,
            detail=f"{ours:.1f} s, inputs not kept; identity mapInArrow {passed:.1f} s, onnxruntime alone {bare:.1f} s",
        )


def _of_changes(two: dict[str, Any], rows: int) -> Iterator[Row]:
    first = two["first"]["seconds"]
    for step, workload, at_most in (
        ("changed", "1 % changed", MAX_PERCENT_OF_FIRST),
        ("nothing", "nothing changed", None),
    ):
        yield Row(
            section="spark",
            workload=workload,
            against=f"a first run of {rows:,} rows",
            unit="% of the time",
            figure=100 * two[step]["seconds"] / first,
            at_most=at_most,
            detail=f"{two[step]['seconds']:.1f} s, {first:.1f} s; {two[f'{step} message']}",
        )


def _of_growth(played: dict[int, dict[str, Any]]) -> Iterator[Row]:
    seconds = {rows: result["first"]["seconds"] for rows, result in played.items()}
    fixed, each, distance = straight_line(seconds)
    points = "; ".join(f"{rows:,} rows {taken:.1f} s" for rows, taken in seconds.items())
    yield Row(
        section="spark",
        workload="logistic on Spark",
        against="a straight line",
        unit="% off",
        figure=100 * distance,
        at_most=MAX_PERCENT_FROM_LINE,
        detail=f"{fixed:.1f} s and {1e6 * each:,.2f} µs for each: {points}",
        series=tuple(seconds.items()),
        series_of="rows",
    )
    least, most = min(played), max(played)
    for what, name in (("Python", "peak_mb"), ("Java", "java_peak_mb")):
        yield Row(
            section="spark",
            workload="logistic on Spark",
            against=f"peak of the driver's {what}, {most:,} to {least:,} rows",
            unit="x",
            figure=played[most][name] / played[least][name],
            at_most=MAX_MEMORY,
            detail="; ".join(
                f"{rows:,} rows {result[name]:,.0f} MB" for rows, result in played.items()
            ),
        )
