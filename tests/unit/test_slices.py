"""Slices of a backfill, and which models above a scoring model depend on the clock; without dbt."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from dbt_onnx.errors import ConfigError, WarehouseError
from dbt_onnx.project.backfill import slices
from dbt_onnx.project.upstream import clock_dependent, relations_of, selection, with_relations


def day(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_slices_include_both_ends() -> None:
    found = slices(day("1997-12-30"), day("1998-01-02"), "day")
    assert [f"{clock:%m-%d}" for clock in found] == ["12-30", "12-31", "01-01", "01-02"]
    assert slices(day("1997-01-01"), day("1997-01-01"), "month") == [day("1997-01-01")]


def test_a_last_day_between_two_slices_is_no_slice() -> None:
    found = slices(day("1997-01-01"), day("1997-01-20"), "week")
    assert found == [day("1997-01-01") + timedelta(days=7 * weeks) for weeks in range(3)]


def test_months_count_from_the_first_slice_and_keep_its_day_and_hour() -> None:
    found = slices(day("1995-12-31 06:30:00"), day("1996-05-01"), "month")
    expected = ["1995-12-31", "1996-01-31", "1996-02-29", "1996-03-31", "1996-04-30"]
    assert found == [day(f"{text} 06:30:00") for text in expected]


def test_a_backfill_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigError, match="--from 1997-02-01 is after --to 1997-01-01"):
        slices(day("1997-02-01"), day("1997-01-01"), "day")


@dataclass
class Manifest:
    """The parts of dbt's manifest that are read. Like dbt's, it is a dataclass with private caches."""

    nodes: dict[str, Any]
    macros: dict[str, Any]
    _ref_lookup: object = field(init=False, default=None)

    def build_flat_graph(self) -> None:
        pass


def manifest(**nodes: dict[str, Any]) -> Any:
    """Return a manifest of nodes `name={"above": [..], "macros": [..], "code": .., "as": ..}`."""
    made = {}
    for name, given in nodes.items():
        kind = given.get("kind", "model")
        made[f"{kind}.shop.{name}"] = SimpleNamespace(
            name=name,
            alias=name,
            database="db",
            schema="main",
            relation_name=f'"db"."main"."{name}"',
            fqn=["shop", "marts", name],
            resource_type=kind,
            raw_code=given.get("code", ""),
            config=SimpleNamespace(materialized=given.get("as", "table")),
            depends_on=SimpleNamespace(
                nodes=given.get("above", []),
                macros=[f"macro.{macro}" for macro in given.get("macros", [])],
            ),
        )
    macros = {
        "macro.dbt_onnx.clock": SimpleNamespace(
            macro_sql="var('dbt_onnx_clock')", depends_on=SimpleNamespace(macros=[])
        ),
        "macro.shop.today": SimpleNamespace(
            macro_sql="", depends_on=SimpleNamespace(macros=["macro.dbt_onnx.clock"])
        ),
        "macro.shop.yesterday": SimpleNamespace(
            macro_sql="", depends_on=SimpleNamespace(macros=["macro.shop.today"])
        ),
        "macro.shop.other": SimpleNamespace(macro_sql="", depends_on=SimpleNamespace(macros=[])),
    }
    return Manifest(nodes=made, macros=macros)


def test_the_clock_is_found_through_macros_and_by_its_variable_and_all_below_it() -> None:
    shop = manifest(
        scores={"above": ["model.shop.features", "seed.shop.registry"], "as": "predictions"},
        features={"above": ["model.shop.joined", "model.shop.still", "source.shop.raw"]},
        joined={"above": ["model.shop.dated", "model.shop.named"], "as": "view"},
        dated={"macros": ["shop.yesterday"], "as": "ephemeral"},
        named={"code": "select '{{ var(\"dbt_onnx_clock\") }}'", "as": "incremental"},
        still={"macros": ["shop.other"], "above": ["snapshot.shop.kept"]},
        kept={"above": ["model.shop.under"], "kind": "snapshot"},
        under={"macros": ["dbt_onnx.clock"]},
        registry={"kind": "seed"},
        elsewhere={"macros": ["dbt_onnx.clock"]},
    )
    found = clock_dependent(shop, "model.shop.scores")
    assert found == [f"model.shop.{name}" for name in ("features", "joined", "dated", "named")]
    assert selection(shop, found[:1]) == ["fqn:shop.marts.features"]
    relations = relations_of(shop, found, suffix="__past")
    assert {name: str(table) for name, table in relations.items()} == {
        "model.shop.features": "main__past.features",
        "model.shop.joined": "main__past.joined",
        "model.shop.named": "main__past.named",
    }
    past = with_relations(shop, relations)
    assert past.nodes["model.shop.features"].schema == "main__past"
    assert past.nodes["model.shop.features"].relation_name is None
    assert past.nodes["model.shop.still"].schema == "main"
    assert shop.nodes["model.shop.features"].schema == "main"


def test_features_that_the_clock_does_not_change_are_refused() -> None:
    shop = manifest(
        scores={"above": ["model.shop.features"], "macros": ["dbt_onnx.clock"]}, features={}
    )
    with pytest.raises(ConfigError, match="every slice would see the same features"):
        clock_dependent(shop, "model.shop.scores")


@pytest.mark.parametrize("materialized", ["external", "predictions", "materialized_view"])
def test_what_cannot_be_built_elsewhere_is_refused(materialized: str) -> None:
    shop = manifest(
        scores={"above": ["model.shop.features"]},
        features={"macros": ["dbt_onnx.clock"], "as": materialized},
    )
    with pytest.raises(ConfigError, match=f"features is materialized as '{materialized}'"):
        clock_dependent(shop, "model.shop.scores")


def test_ctrl_c_during_a_query_is_no_error_of_the_warehouse() -> None:
    from dbt_onnx.engines.duckdb.cursor import duckdb_errors

    with pytest.raises(KeyboardInterrupt), duckdb_errors():
        raise RuntimeError("Query interrupted")  # like DuckDB's own error
    with pytest.raises(RuntimeError, match="another"), duckdb_errors():
        raise RuntimeError("another")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "Python could not allocate memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_a_process_without_memory_is_an_error_that_says_so(error: Exception, said: str) -> None:
    from dbt_onnx.engines.duckdb.cursor import duckdb_errors

    message = f"out of memory: {said}\nHint: give it more"
    with pytest.raises(WarehouseError, match=message), duckdb_errors():
        raise error
