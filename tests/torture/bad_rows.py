"""A bad row costs only that row, whether onnxruntime raises on it or the process dies of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import killers
from graphs import build, constant, tensor
from onnx import helper
from tests.torture import processes
from tests.torture.report import Attack
from warehouse import Warehouse

from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMISE = "A bad row costs that row"
TABLE = [0.5, 1.5, 2.5, 3.5]
_DIVISION = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(
        Input(name="dividend", dtype="int64", features=("a",)),
        Input(name="divisor", dtype="int64", features=("b",)),
    ),
    outputs=(Output(name="quotient", kind="value", dtype="float64", columns=("y",)),),
)
_LOOKUP = Contract(
    features=(Feature(name="a"),),
    inputs=(Input(name="i", dtype="int64", features=("a",)),),
    outputs=(Output(name="y", kind="value", dtype="float32", columns=("y",)),),
)
Row = tuple[int, int, int]


def measure(folder: Path, *, deaths: int, failures: int) -> Iterator[Attack]:
    """Attack `deaths` warehouses with rows that kill the process; in half of them the second run is
    killed, too. Then attack `failures` warehouses with rows on which onnxruntime raises.
    """
    dies = Attack(PROMISE, "the process dies inside the model: nothing is written")
    killed = Attack(PROMISE, "the run after it is killed at a random moment: nothing, or all")
    found = Attack(PROMISE, "the run after that rejects these rows and scores the others")
    raises = Attack(PROMISE, "onnxruntime raises on rows anywhere: they are rejected")
    for number in range(deaths):
        place = folder / "dies"
        shutil.rmtree(place, ignore_errors=True)
        _die(place, random.Random(number), number, dies, killed, found)
    for number in range(failures):
        place = folder / "raises"
        shutil.rmtree(place, ignore_errors=True)
        chance = random.Random(number)
        rows, bad = _rows(chance, is_division=False)
        processes.run(prepare, str(place), rows, False)
        processes.run(attempt, str(place))
        raises.made(harm=_wrong(number, place, rows, bad, reason="model_error"))
    yield from (dies, killed, found, raises)


def _die(
    place: Path, chance: random.Random, number: int, dies: Attack, killed: Attack, found: Attack
) -> None:
    rows, bad = _rows(chance, is_division=True)
    processes.run(prepare, str(place), rows, True)
    if chance.random() < 0.5:  # not the first night: the bad rows and some others are new
        later = {*bad, *chance.sample(range(len(rows)), len(rows) // 3)}
        processes.run(change, str(place), [row for row in rows if row[0] not in later])
        processes.run(attempt, str(place))
        processes.run(change, str(place), rows)
    before = processes.run(said, str(place))[1]
    try:
        processes.run(attempt, str(place))
        ended = "it did not die"
    except RuntimeError as error:
        ended = str(error)
    left = processes.run(said, str(place))[1]
    is_whole = ended.endswith("ended with -8") and left == before
    dies.made(harm=None if is_whole else f"{number}: {ended}, {len(before)} and {len(left)} rows")
    if number % 2:
        processes.killed_after(attempt, str(place), seconds=chance.uniform(0.1, 3))
        left = processes.run(said, str(place))[1]
        is_whole = left == before or len(left) == len(rows)
        killed.made(harm=None if is_whole else f"{number}: {len(before)} and {len(left)} rows")
    processes.run(attempt, str(place))
    found.made(harm=_wrong(number, place, rows, bad, reason="model_crashed"))


def _rows(chance: random.Random, *, is_division: bool) -> tuple[list[Row], set[int]]:
    """Return rows (id, a, b), and the ids of the bad ones."""
    count = chance.choice([1, 50, 3_000, 20_000])
    bad = set(chance.sample(range(count), min(count, chance.choice([1, 1, 2, 5]))))
    if count > 1 and len(bad) == count:
        bad.pop()
    rows = []
    for i in range(count):
        if is_division:
            a, b = chance.randrange(-(10**12), 10**12), chance.choice([-7, -1, 1, 3])
            rows.append((i, killers.SMALLEST, -1) if i in bad else (i, a, b))
        else:
            rows.append(
                (i, chance.choice([4, -5, 2**40]) if i in bad else i % 4 - (i % 3 == 0) * 4, 0)
            )
    # one good row, since a model that fails on every row counts as broken
    return [*rows, (count, 1, 1)], bad


def prepare(path: str, rows: list[Row], is_division: bool) -> None:
    """In a child process: make the warehouse, before its first run."""
    folder = Path(path)
    folder.mkdir(parents=True)
    warehouse = Warehouse(folder)
    if is_division:
        warehouse.register("1", killers.division(), _DIVISION)
    else:
        lookup = build(
            [
                helper.make_node("Gather", ["table", "i"], ["row"], axis=0),
                helper.make_node("Squeeze", ["row", "axis"], ["y"]),
            ],
            [tensor("i", "int64", ("N", 1))],
            [tensor("y", "float32", ("N", 1))],
            constants=[constant("table", [[y] for y in TABLE]), constant("axis", [2], "int64")],
        )
        warehouse.register("1", lookup, _LOOKUP)
    warehouse.connection.close()
    change(path, rows)


def change(path: str, rows: list[Row]) -> None:
    """In a child process: replace the features."""
    warehouse = Warehouse(Path(path))
    warehouse.sql("create or replace table features (id integer, a bigint, b bigint)")
    columns = [list(column) for column in zip(*rows, strict=True)]
    warehouse.connection.cursor().execute(
        "insert into features select unnest($1), unnest($2), unnest($3)", columns
    )
    warehouse.connection.close()


def attempt(path: str) -> None:
    """In a child process: run once."""
    warehouse = Warehouse(Path(path))
    if warehouse.sql("from duckdb_tables() where table_name = 'dbt_onnx_runs'"):
        warehouse.runs = warehouse.sql("select count(*) from dbt_onnx_runs")[0][0]
    warehouse.run()
    warehouse.connection.close()


def said(path: str) -> list[tuple[int, float | None, str | None]]:
    """In a child process: return the id, output and rejection reason of each row in the ledger."""
    warehouse = Warehouse(Path(path))
    there = warehouse.sql("from duckdb_tables() where table_name = 'scores__current'")
    found = (
        warehouse.sql("select id, y, split_part(rejected_reason, ':', 1) from scores order by all")
        if there
        else []
    )
    warehouse.connection.close()
    return found


def _wrong(number: int, place: Path, rows: list[Row], bad: set[int], *, reason: str) -> str | None:
    expected = []
    for i, a, b in rows:
        if i in bad:
            expected.append((i, None, reason))
        elif reason == "model_error":
            expected.append((i, TABLE[a], None))
        else:
            quotient = abs(a) // abs(b)
            expected.append((i, float(quotient if (a < 0) == (b < 0) else -quotient), None))
    found = processes.run(said, str(place))[1]
    if found == expected:
        return None
    apart = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
    return f"{number}: {len(found)} rows of {len(expected)}, such as {apart[:1]}"
