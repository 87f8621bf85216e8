"""A user's columns may have the names that the package's SQL uses internally."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from warehouse import Warehouse, line_contract

import dbt_onnx
from dbt_onnx.engines.duckdb.identifiers import quote
from dbt_onnx.kernel.contract import CARRIED_PREFIX, RESERVED_COLUMNS

# the features of each night: key, a, b, when
NIGHTS = (
    ((1, 1, 1, "2024-01-08"), (2, 2, 2, "2024-01-08"), (3, None, 3, "2024-01-08")),
    # night 2: unchanged; changed; rejected again; new. Night 3: late; unchanged; no longer rejected; without a key
    ((1, 1, 1, "2024-01-09"), (2, 5, 2, "2024-01-09"), (3, None, 3, "2024-01-09"), (4, 4, 4, "2024-01-07")),
    ((1, 8, 1, "2024-01-06"), (4, 4, 4, "2024-01-10"), (3, 3, 3, "2024-01-10"), (None, 1, 1, "2024-01-10")),
    # night 4: absent the night before; changed; expired; a later moment again
    ((2, 5, 2, "2024-01-11"), (3, None, 3, "2024-01-11"), (4, 4, 4, "2024-01-11"), (1, 1, 1, "2024-01-11")),
)  # fmt: skip

_KEYS = 6


def test_names_of_our_own_sql_are_free_for_columns(tmp_path: Path) -> None:
    expected = _history(tmp_path / "plain", ["id"], ("a", "b"), "y")
    reasons = {"new", "features_changed", "retry", "expired"}
    assert reasons <= {row[-2] for row in expected[0]}, "the nights do not try what they should"
    names = _names()
    assert len(names) > 50, names
    for start in range(0, len(names), _KEYS):
        key, others = names[start : start + _KEYS], names[:start] + names[start + _KEYS :]
        told = _history(tmp_path / str(start), key, (others[start // 2], "b"), others[start // 3])
        assert told == expected, (key, others[start // 2], others[start // 3])


def _names() -> list[str]:
    """Return the aliases in the package's SQL, except the reserved names, which columns may not have."""
    folder = Path(dbt_onnx.__file__).parent
    modules = (
        folder / "engines" / "duckdb" / name for name in ("plan.py", "ledger.py", "inputs.py")
    )
    source = "\n".join(path.read_text(encoding="utf-8") for path in modules)
    found = re.findall(r"\bas ([a-z_0-9]+)\b|\b([a-z_0-9]+)\.[a-z\"{]|\b([a-z_0-9]+) as \(", source)
    names = {name for names in found for name in names}
    return sorted(n for n in names - RESERVED_COLUMNS - {""} if not n.startswith(CARRIED_PREFIX))


def _history(
    folder: Path, key: list[str], features: tuple[str, str], output: str
) -> list[list[tuple[Any, ...]]]:
    """Return ledger and latest after the nights, without column names. All key columns have the same value."""
    folder.mkdir()
    warehouse = Warehouse(folder)
    warehouse.register("1", contract=line_contract(column=output, features=features))
    columns = [f"k as {quote(name)}" for name in key]
    columns += [f"{value} as {quote(name)}" for value, name in zip("ab", features, strict=True)]
    for night, rows in enumerate(NIGHTS):
        warehouse.clock = f"2024-01-{11 + night}"
        warehouse.sql(
            "create or replace table given (k integer, a double, b double, given_on timestamp)"
        )
        warehouse.connection.cursor().executemany("insert into given values (?, ?, ?, ?)", rows)
        warehouse.run(
            features=f"select {', '.join(columns)}, given_on from given",
            key=key,
            as_of="given_on",
            refresh_after={"count": 3, "period": "day"},
            keep_inputs=False,
        )
    said = f"{quote(key[-1])}, as_of, {quote(output)}, status, rejected_reason is null, run_id"
    ledger = warehouse.sql(
        f"select {said}, is_late, score_reason, features_hash from scores order by all"
    )
    latest = warehouse.sql(
        f"select {said}, last_seen_as_of, confirmed_as_of from {warehouse.current_rows()} order by all"
    )
    warehouse.connection.close()
    return [ledger, latest]
