"""For any keys, names, types and nights, a run scores, rejects and skips the rows that an oracle in Python names."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from parts import NAMES, fuzz
from warehouse import Warehouse, line_contract

from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.errors import DataError

KEYS = {
    "integer": ["0", "1", "2", "-3"],
    "hugeint": ["170141183460469231731687303715884105727", "0"],
    "varchar": [literal(text) for text in ("", "a", "A", "a'; drop table canary; --", "null", "é🦆")],
    "date": ["'2024-01-01'", "'0001-01-01'", "'infinity'"],
    "boolean": ["true", "false"],
    "decimal(9, 2)": ["0.1", "0.10", "-1"],
}  # fmt: skip
VALUES = {
    "double": [None, 0.0, 1.0, 2.0, 0.5, 1e300, math.nan, math.inf],
    "float": [None, 0.0, 1.0, 2.0, 0.5, math.nan, -math.inf],
    "bigint": [None, 0.0, 1.0, 2.0, 2.0**24 + 1],
    "tinyint": [None, 0.0, 1.0, 2.0],
    "decimal(9, 1)": [None, 0.0, 1.0, 2.0, 0.5],
    "boolean": [None, 0.0, 1.0],
}
FAMILIES = {"float": "double", "decimal(9, 1)": "double", "tinyint": "bigint", "boolean": "bigint"}
Row = tuple[tuple[str | None, ...], float | None, float | None]


@dataclass
class Night:
    """The types of the two features, the rows, and the run's options."""

    types: tuple[str, str]
    rows: list[Row]
    full_refresh: bool
    retry_rejected: bool


@dataclass
class Oracle:
    """The last known features of each entity, and the rows without a key that were already reported."""

    scored: dict[Any, Any] = field(default_factory=dict)
    rejected: dict[Any, Any] = field(default_factory=dict)
    told: set[Any] = field(default_factory=set)

    def said(self, night: Night) -> tuple[int, int, int]:
        """Return the numbers of rows scored, rejected and unchanged in this night."""
        counts = Counter[str]()
        families = [FAMILIES.get(kind, kind) for kind in night.types]
        known = Oracle(dict(self.scored), dict(self.rejected), set(self.told))
        for key, a, b in night.rows:
            # 1 and 1.0 are equal for the model, but a column of another type family has another hash, unless the
            # value is NULL or zero
            seen = tuple(
                (repr(value), family if value else None)
                for value, family in zip((a, b), families, strict=True)
            )
            before = known.rejected.get(key, known.scored.get(key))
            is_asked = night.full_refresh or (night.retry_rejected and key in known.rejected)
            if None in key:
                is_asked = night.full_refresh or (key, seen) not in known.told
                before = seen
            if before == seen and not is_asked:
                counts["unchanged"] += 1
            elif None in key:
                counts["rejected"] += 1
                self.told.add((key, seen))
            elif _is_valid(a) and _is_valid(b):
                counts["scored"] += 1
                self.scored[key] = seen
                self.rejected.pop(key, None)
            else:
                counts["rejected"] += 1
                self.rejected[key] = seen
        return counts["scored"], counts["rejected"], counts["unchanged"]


def _is_valid(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value not in {1e300, 2.0**24 + 1}


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[str], list[str], list[Night]]:
    # a key with the name of the model's output is refused
    free = NAMES.filter(lambda name: name.casefold() != "y")
    names = draw(st.lists(free, min_size=3, max_size=4, unique_by=lambda name: name.casefold()))
    kinds = [draw(st.sampled_from(list(KEYS))) for _ in names[2:]]
    values = [list(dict.fromkeys(KEYS[kind])) for kind in kinds]
    keys = st.tuples(
        *(st.sampled_from([*_plain(kind, v), None, *_plain(kind, v)]) for kind, v in zip(kinds, values, strict=True))
    )  # fmt: skip
    nights = []
    for _ in range(draw(st.integers(1, 3))):
        kind = st.sampled_from(["double", "double", *VALUES])
        types = draw(st.tuples(kind, kind))
        cells = [st.sampled_from(VALUES[t]) for t in types]
        is_unique = draw(st.integers(0, 9)) > 0
        rows = draw(
            st.lists(
                st.tuples(keys, *cells),
                max_size=5,
                unique_by=(lambda row: row[0]) if is_unique else None,
            )
        )
        nights.append(Night(types, rows, *(draw(st.integers(0, 6)) == 0 for _ in range(2))))
    return names, kinds, nights


def _plain(kind: str, values: list[str]) -> list[str]:
    # 0.1 and 0.10 are the same DECIMAL
    return [value for value in values if value != "0.10"] if kind.startswith("decimal") else values


def _sql(names: list[str], kinds: list[str], night: Night) -> str:
    def select(row: Row) -> str:
        key, *values = row
        cells = [
            *zip(["null" if k is None else k for k in key], kinds, names[2:], strict=True),
            *zip(["null" if v is None else f"'{v}'::double" for v in values], night.types, names, strict=False),
        ]  # fmt: skip
        return "select " + ", ".join(f"cast({v} as {kind}) as {quote(n)}" for v, kind, n in cells)

    empty = select(((None,) * len(kinds), None, None)) + " where false"
    return " union all ".join([empty, *map(select, night.rows)])


RETYPED = [
    Night((first, second), [(("0",), None, 0.0)], full_refresh=False, retry_rejected=False)
    for first, second in [("double", "double"), ("bigint", "boolean"), ("tinyint", "bigint")]
]
EXCHANGED = [
    Night(
        ("double", "double"),
        list(zip([("0",), ("1",)], a, b, strict=True)),
        full_refresh=False,
        retry_rejected=False,
    )
    for a, b in [((1.0, 2.0), (0.5, 0.0)), ((2.0, 1.0), (0.0, 0.5))]
]


@given(case=cases())
@example(case=(["a", "b", "id"], ["integer"], RETYPED))
@example(case=(["a", "b", "id"], ["integer"], EXCHANGED))
@fuzz(0.2)
def test_every_night_adds_up_to_what_the_oracle_says(
    case: tuple[list[str], list[str], list[Night]],
) -> None:
    names, kinds, nights = case
    with tempfile.TemporaryDirectory() as folder:
        warehouse = Warehouse(Path(folder))
        try:
            warehouse.sql("create table canary as select 7 as x")
            warehouse.register("1", contract=line_contract(features=(names[0], names[1])))
            _check_nights(warehouse, names, kinds, nights)
            assert warehouse.sql("select x from canary") == [(7,)]
        finally:
            warehouse.connection.close()


def _check_nights(
    warehouse: Warehouse, names: list[str], kinds: list[str], nights: list[Night]
) -> None:
    oracle, written = Oracle(), 0
    for day, night in enumerate(nights, 1):
        warehouse.clock = f"2024-02-{day:02} 00:00:00"
        keys = [key for key, *_ in night.rows if None not in key]
        asked: dict[str, Any] = {
            "full_refresh": night.full_refresh,
            "retry_rejected": night.retry_rejected,
        }
        try:
            said = warehouse.run(features=_sql(names, kinds, night), key=names[2:], **asked)
        except DataError as error:
            assert not night.rows or len(set(keys)) < len(keys), error
            continue
        assert night.rows
        assert len(set(keys)) == len(keys), "a key that is there twice was scored"
        expected = oracle.said(night)
        assert (said.rows_scored, said.rows_rejected, said.rows_unchanged) == expected, night
        assert said.rows_in == len(night.rows) == sum(expected)
        written += said.rows_scored + said.rows_rejected
        assert warehouse.sql("select count(*) from scores") == [(written,)]
        listed = ", ".join(
            f"cast({quote(name)} as varchar) is not null, {quote(name)}" for name in names[2:]
        )
        latest = warehouse.sql(f"select {listed}, status, y from {warehouse.current_rows()}")
        assert Counter(row[-2] for row in latest) == Counter(
            {s: len(k) for s, k in (("scored", oracle.scored), ("rejected", oracle.rejected)) if k}
        )
        scores = sorted(row[-1] for row in latest if row[-2] == "scored")
        assert scores == sorted(_line(seen) for seen in oracle.scored.values())


def _line(seen: Any) -> float:
    a, b = (np.float32(float(text)) for text, _ in seen)
    return float(np.float32(2) * a - b + np.float32(0.5))
