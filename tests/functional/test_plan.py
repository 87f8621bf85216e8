"""Which rows a run scores, and why, on a real warehouse with a model computable by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from warehouse import Warehouse, line_contract, line_model, newest_of_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = {"count": 1, "period": "day"}


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Iterator[Warehouse]:
    """Three entities and version 1 of y = 2a - b + 0.5; after every test the latest table is checked."""
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features((1, 1.0, 2.0), (2, 3.0, 1.0), (3, 0.0, 0.0))
    yield made
    columns = "* exclude (last_seen_as_of, confirmed_as_of)"
    assert sorted(map(repr, made.latest(columns))) == sorted(map(repr, newest_of_ledger(made)))
    unbalanced = made.sql(
        "select run_id from dbt_onnx_runs where status = 'success' "
        "and rows_in is distinct from rows_scored + rows_rejected + rows_unchanged"
    )
    assert unbalanced == []


def test_the_first_run_scores_every_row_as_new(warehouse: Warehouse) -> None:
    warehouse.run()
    assert warehouse.ledger("id, y, status, score_reason, model_name, model_version, run_id") == [
        (1, 0.5, "scored", "new", "line", "1", "run-1"),
        (2, 5.5, "scored", "new", "line", "1", "run-1"),
        (3, 0.5, "scored", "new", "line", "1", "run-1"),
    ]


def test_a_second_run_writes_no_prediction_and_one_run_row(warehouse: Warehouse) -> None:
    warehouse.run()
    before = warehouse.ledger()
    summary = warehouse.run()
    assert warehouse.ledger() == before
    assert str(summary) == "line/1: scored 0, unchanged 3"
    assert warehouse.sql(
        "select run_id, rows_in, rows_unchanged from dbt_onnx_runs order by 1"
    ) == [
        ("run-1", 3, 0),
        ("run-2", 3, 3),
    ]


def test_only_columns_that_the_model_reads_count_as_a_change(warehouse: Warehouse) -> None:
    warehouse.run(features="select *, 'x' as note from features")
    assert warehouse.run(features="select *, 'y' as note from features").rows_scored == 0


def test_a_changed_feature_is_scored_again(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.sql("update features set a = 10 where id = 2")
    assert warehouse.run().per_reason["features_changed"] == 1
    assert warehouse.ledger("id, y, score_reason")[3:] == [(2, 19.5, "features_changed")]


@pytest.mark.parametrize(
    "change",
    [
        "set a = 4 - a, b = 3 - b where id in (1, 2)",  # 1 and 2 exchange their features
        # 3 and 4 change from equal features to equal features
        "set a = 7, b = 7 where id in (3, 4)",
    ],
)
def test_features_that_change_in_pairs_are_scored_again(warehouse: Warehouse, change: str) -> None:
    warehouse.features((1, 1.0, 2.0), (2, 3.0, 1.0), (3, 0.0, 0.0), (4, 0.0, 0.0))
    warehouse.run()
    warehouse.sql(f"update features {change}")
    assert warehouse.run().per_reason["features_changed"] == 2


def test_a_wider_type_with_the_same_values_is_no_change(warehouse: Warehouse) -> None:
    warehouse.run(
        features="select id, cast(a as integer) as a, cast(b as decimal(9, 2)) as b from features"
    )
    wider = "select id, cast(a as bigint) as a, cast(b as double) as b from features"
    assert warehouse.run(features=wider).rows_unchanged == 3


def test_null_and_zero_are_different_features(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.sql("update features set a = null where id = 3")
    assert warehouse.run().rows_rejected == 1
    assert warehouse.latest("id, y, status, rejected_reason")[3] == (3, None, "rejected", "null:a")


def test_a_promoted_version_scores_every_entity_as_model_changed(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.register("2", line_model(1, 1, 1))
    assert warehouse.run().per_reason["model_changed"] == 3
    assert warehouse.ledger("y, model_version")[3:] == [(4.0, "2"), (5.0, "2"), (1.0, "2")]


def test_a_rollback_scores_nothing_again(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.register("2", line_model(1, 1, 1))
    warehouse.run()
    warehouse.promote("1")
    assert warehouse.run().rows_unchanged == 3
    warehouse.promote("2")
    assert warehouse.run().rows_unchanged == 3


def test_an_entity_that_came_during_version_2_is_scored_after_the_rollback(
    warehouse: Warehouse,
) -> None:
    warehouse.run()
    warehouse.register("2", line_model(1, 1, 1))
    warehouse.sql("insert into features values (4, 1, 1)")
    warehouse.run()
    warehouse.promote("1")
    assert warehouse.run().per_reason["model_changed"] == 1


def test_a_version_that_reads_other_columns_hashes_its_own(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.register("2", contract=line_contract(features=("b", "a")))
    assert warehouse.run().per_reason["model_changed"] == 3
    assert warehouse.ledger("y")[3] == (3.5,)  # 2b - a + 0.5
    assert warehouse.run().rows_unchanged == 3


def test_a_prediction_expires_after_refresh_after(warehouse: Warehouse) -> None:
    warehouse.run(refresh_after=DAY)
    warehouse.clock = "2024-01-10 23:59:59"
    assert warehouse.run(refresh_after=DAY).rows_unchanged == 3
    warehouse.clock = "2024-01-11 00:00:00"
    assert warehouse.run(refresh_after=DAY).per_reason["expired"] == 3
    assert warehouse.run(refresh_after=DAY).rows_unchanged == 3


def test_an_as_of_that_stands_still_expires_once_not_every_night(warehouse: Warehouse) -> None:
    features = (
        "select *, case when id = 1 then date '2024-01-01' else date '{}' end as day from features"
    )
    arguments = {"as_of": "day", "refresh_after": DAY}
    warehouse.run(features=features.format("2024-01-10"), **arguments)
    warehouse.clock = "2024-01-11"
    assert warehouse.run(features=features.format("2024-01-11"), **arguments).rows_scored == 3
    assert warehouse.run(features=features.format("2024-01-11"), **arguments).rows_scored == 0


def test_a_rejected_row_is_tried_again_when_it_changes(warehouse: Warehouse) -> None:
    warehouse.features((1, None, 2.0))
    warehouse.run()
    assert warehouse.run().rows_unchanged == 1
    warehouse.features((1, 1.0, 2.0))
    assert warehouse.run().per_reason["retry"] == 1
    assert warehouse.latest("id, y, status") == [(1, 0.5, "scored")]


def test_rejected_rows_are_tried_again_when_asked_for(warehouse: Warehouse) -> None:
    warehouse.features((1, None, 2.0), (2, 1.0, 1.0))
    warehouse.run()
    assert warehouse.run(retry_rejected=True).per_reason["retry"] == 1


def test_a_rejection_stands_beside_the_last_good_prediction(warehouse: Warehouse) -> None:
    warehouse.features((1, 1.0, 2.0))
    warehouse.run()
    warehouse.features((1, None, 2.0))
    warehouse.run()
    assert warehouse.latest("id, y, status, rejected_reason") == [
        (1, 0.5, "scored", None),
        (1, None, "rejected", "null:a"),
    ]
    warehouse.features((1, 1.0, 2.0))
    assert warehouse.run().per_reason["retry"] == 1
    assert warehouse.latest("id, y, status") == [(1, 0.5, "scored")]


def test_full_refresh_scores_everything_again_and_deletes_nothing(warehouse: Warehouse) -> None:
    warehouse.run()
    before = warehouse.ledger()
    assert warehouse.run(full_refresh=True).per_reason["full_refresh"] == 3
    assert warehouse.ledger()[:3] == before
    assert len(warehouse.ledger()) == 6


def test_a_null_key_is_rejected_once_and_kept_out_of_latest(warehouse: Warehouse) -> None:
    warehouse.features((1, 1.0, 2.0), (None, 1.0, 2.0), (None, 5.0, 5.0))
    assert warehouse.run().rows_rejected == 2
    assert warehouse.run().rows_unchanged == 3
    assert warehouse.latest("id") == [(1,)]
    assert {row[0] for row in warehouse.ledger("rejected_reason")} == {None, "null_key"}


def test_a_null_as_of_is_rejected_until_it_is_there(warehouse: Warehouse) -> None:
    features = (
        "select *, case when id = 1 then null::date else date '2024-01-10' end as day from features"
    )
    warehouse.run(features=features, as_of="day")
    assert (1, "null_as_of") in warehouse.ledger("id, rejected_reason")
    assert warehouse.run(features=features, as_of="day").rows_unchanged == 3
    whole = "select *, date '2024-01-10' as day from features"
    assert warehouse.run(features=whole, as_of="day").per_reason["retry"] == 1


def test_odd_names_of_keys_features_and_outputs_pass_unchanged(tmp_path: Path) -> None:
    odd = Warehouse(tmp_path, name='sco"res {0}')
    odd.register("1", contract=line_contract(column="$run_id", features=("$run_as_of", "{b}")))
    odd.features((1, 1.0, 2.0), (2, 3.0, 1.0))
    features = """
        select id as "order", id::varchar as "客户 id", date '2024-01-01' + id as "a""b",
            id as "{key}", id as "%s; drop table features --", a as "$run_as_of", b as "{b}"
        from features"""
    key = ["order", "客户 id", 'a"b', "{key}", "%s; drop table features --"]
    odd.run(features=features, key=key)
    odd.clock = "2024-01-09 00:00:00"  # a backfill, whose late rows are looked up in the ledger
    assert odd.run(features=features, key=key).per_reason["new"] == 2
    assert odd.run(features=features, key=key).rows_unchanged == 2
    odd.clock = "2024-01-12 00:00:00"
    assert odd.run(features=features.replace("from", "from (from features limit 1)"), key=key)
    names = [row[0] for row in odd.sql('describe "sco""res {0}"')]
    assert names[:5] == key
    assert odd.sql('select "$run_id", is_late from "sco""res {0}" order by all') == [
        (0.5, False),
        (0.5, True),
        (5.5, False),
        (5.5, True),
    ]


@pytest.mark.parametrize(
    "kind",
    [
        "tinyint",
        "bigint",
        "hugeint",
        "uinteger",
        "varchar",
        "date",
        "timestamp",
        "boolean",
        "decimal(9,2)",
        "uuid",
        "timestamptz",
    ],
)
def test_a_key_keeps_its_type(warehouse: Warehouse, kind: str) -> None:
    values = {
        "date": "date '2024-01-01'",
        "timestamp": "timestamp '2024-01-01 10:00:00'",
        "timestamptz": "timestamptz '2024-01-01 10:00:00+02'",
        "boolean": "true",
        "uuid": "uuid '6f9619ff-8b86-d011-b42d-00c04fc964ff'",
    }
    value = values.get(kind, f"1::{kind}")
    features = f"select {value} as id, 1.0 as a, 2.0 as b"
    warehouse.run(features=features)
    assert warehouse.run(features=features).rows_unchanged == 1
    (declared,) = [r[1] for r in warehouse.sql("describe scores") if r[0] == "id"]
    (wanted,) = [r[1] for r in warehouse.sql(f"describe {features}") if r[0] == "id"]
    assert declared == wanted
    assert warehouse.sql(f"select count(*) from scores where id = {value}") == [(1,)]


def test_two_rows_of_one_key_fail_the_run_and_are_named(warehouse: Warehouse) -> None:
    from dbt_onnx.errors import DataError

    warehouse.run()
    warehouse.sql("insert into features values (2, 0, 0)")
    with pytest.raises(DataError, match=r"\{'id': 2\} 2 times"):
        warehouse.run()
    assert warehouse.last_run("status, rows_in") == ("error", None)
    assert len(warehouse.ledger()) == 3


def test_a_changed_hash_function_scores_again_under_its_own_reason(warehouse: Warehouse) -> None:
    warehouse.run()
    warehouse.sql("update dbt_onnx_runs set features_hash_function = 'duckdb.hash/old'")
    warehouse.sql("update scores__current set features_hash = features_hash + 1")
    assert warehouse.run().per_reason["hash_changed"] == 3


def test_the_input_fingerprint_tells_equal_inputs_and_ignores_their_order(tmp_path: Path) -> None:
    fingerprints = []
    for number, order in enumerate(("asc", "desc")):
        folder = tmp_path / str(number)
        folder.mkdir()
        one = Warehouse(folder)
        one.register("1")
        one.features((1, 1.0, 2.0), (2, 3.0, 1.0))
        one.run(features=f"select * from features order by id {order}")
        fingerprints.append(one.last_run("input_fingerprint"))
    assert fingerprints[0] == fingerprints[1] != (None,)


def test_new_output_columns_of_a_version_are_added_and_old_rows_have_none(
    warehouse: Warehouse,
) -> None:
    warehouse.run()
    warehouse.register("2", line_model(1, 1, 1), line_contract(column="z"))
    warehouse.run()
    assert warehouse.ledger("id, y, z")[0] == (1, 0.5, None)
    assert warehouse.ledger("id, y, z")[3] == (1, None, 4.0)
    warehouse.promote("1")
    assert warehouse.run(full_refresh=True).rows_scored == 3


def test_empty_builds_the_tables_and_confirms_nothing(warehouse: Warehouse) -> None:
    warehouse.run(empty=True)
    assert warehouse.ledger() == []
    assert warehouse.last_run("status, scope, rows_in, as_of") == ("success", "empty", 0, None)
    assert warehouse.run().per_reason["new"] == 3


def test_batch_size_makes_no_difference(tmp_path: Path) -> None:
    ledgers = []
    for batch_rows in (1, 7, 100_000):
        folder = tmp_path / str(batch_rows)
        folder.mkdir()
        one = Warehouse(folder)
        one.register("1")
        one.sql("insert into features select i, i / 7, i % 13 from range(1000) t(i)")
        one.run(batch_rows=batch_rows)
        ledgers.append(one.ledger("id, y, features_hash"))
        assert one.last_run("batch_rows") == (batch_rows,)
    assert ledgers[0] == ledgers[1] == ledgers[2]
    assert len(ledgers[0]) == 1000


def test_the_run_row_tells_what_a_replay_needs(warehouse: Warehouse) -> None:
    import onnxruntime

    import dbt_onnx

    warehouse.run()
    assert warehouse.last_run(
        "model_name, model_version, model_alias, key_columns, onnxruntime_version, provider, "
        "threads, batch_rows, dbt_onnx_version, dbt_version, length(artifact_sha256)"
    ) == (
        "line", "1", "champion", ["id"], onnxruntime.__version__, "CPUExecutionProvider",
        1, 8_192, dbt_onnx.__version__, "1.11.0", 64,
    )  # fmt: skip
    warehouse.run(model="line/1")
    assert warehouse.last_run("model_version, model_alias") == ("1", None)


def test_a_uhugeint_feature_is_refused_because_duckdb_exports_it_wrong(
    warehouse: Warehouse,
) -> None:
    from dbt_onnx.errors import ContractError

    warehouse.run()
    with pytest.raises(ContractError, match="UHUGEINT"):
        warehouse.run(features="select id, a::uhugeint as a, b from features")


def test_the_run_row_ends_after_the_last_batch(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime

    from dbt_onnx.runs import scorer

    last_batch = []

    def watched(*arguments: object, **settings: object) -> object:
        yield from score_batches(*arguments, **settings)
        last_batch.append(datetime.now(UTC).replace(tzinfo=None))

    score_batches = scorer.score_batches
    monkeypatch.setattr(scorer, "score_batches", watched)
    warehouse.run()
    started_at, ended_at = warehouse.last_run("started_at, ended_at")
    assert started_at < last_batch[0] <= ended_at


def test_rows_rejected_alike_for_two_score_reasons_are_all_counted(warehouse: Warehouse) -> None:
    known, unknown = "select 1 as id, 1.0::double as a, 1.0::double as b", "null::double as a"
    warehouse.run(features=known)
    changed = known.replace("1.0::double as a", unknown)
    summary = warehouse.run(features=f"{changed} union all {changed.replace('1 as id', '2 as id')}")
    assert (summary.rows_scored, summary.rows_rejected) == (0, 2)
    assert dict(
        warehouse.sql("select score_reason, rejected_reason from scores where run_id = 'run-2'")
    ) == {"features_changed": "null:a", "new": "null:a"}
