"""When each entity was last seen: the columns of latest that cannot be derived from the ledger."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from warehouse import Warehouse, line_model

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND, THIRD = (datetime(2024, 1, day) for day in (10, 11, 12))
ONE, TWO = (1, 1.0, 2.0), (2, 3.0, 1.0)


@pytest.fixture
def warehouse(tmp_path: Path, new_warehouse: type[Warehouse]) -> Warehouse:
    made = new_warehouse(tmp_path)
    made.register("1")
    made.features(ONE, TWO)
    made.run()
    return made


def seen(warehouse: Warehouse) -> list[tuple[object, ...]]:
    return warehouse.latest("id, as_of, last_seen_as_of")


def test_an_entity_that_left_keeps_the_moment_of_the_last_run_that_saw_it(
    warehouse: Warehouse,
) -> None:
    warehouse.clock = str(SECOND)
    warehouse.run()
    warehouse.clock = str(THIRD)
    warehouse.features(TWO)
    warehouse.run()
    assert seen(warehouse) == [(1, FIRST, SECOND), (2, FIRST, None)]


def test_an_entity_that_came_back_unchanged_is_confirmed_without_scoring(
    warehouse: Warehouse,
) -> None:
    warehouse.clock = str(SECOND)
    warehouse.features(TWO)
    warehouse.run()
    warehouse.clock = str(THIRD)
    warehouse.features(ONE, TWO)
    assert warehouse.run().rows_unchanged == 2
    assert seen(warehouse) == [(1, FIRST, None), (2, FIRST, None)]


def test_an_entity_that_came_back_changed_is_scored(warehouse: Warehouse) -> None:
    warehouse.clock = str(SECOND)
    warehouse.features(TWO)
    warehouse.run()
    warehouse.clock = str(THIRD)
    warehouse.features((1, 9.0, 9.0), TWO)
    warehouse.run()
    assert seen(warehouse) == [(1, THIRD, None), (2, FIRST, None)]


def test_a_run_about_an_earlier_moment_confirms_nothing_and_displaces_nothing(
    warehouse: Warehouse,
) -> None:
    warehouse.clock = "2024-01-05 00:00:00"
    warehouse.features((1, 8.0, 8.0), (3, 1.0, 1.0))
    assert warehouse.run().rows_scored == 2
    assert warehouse.last_run("scope, as_of") == ("backfill", datetime(2024, 1, 5))
    # nor does the backfill bring back an entity that has left since
    assert seen(warehouse) == [(1, FIRST, None), (2, FIRST, None)]
    assert warehouse.run().rows_unchanged == 2
    assert warehouse.ledger("id, as_of, is_late")[2:] == [
        (1, datetime(2024, 1, 5), True),
        (3, datetime(2024, 1, 5), True),
    ]
    warehouse.clock = str(SECOND)
    warehouse.features(ONE, TWO, (3, 1.0, 1.0))
    assert warehouse.run().per_reason["new"] == 1
    assert seen(warehouse)[2:] == [(3, SECOND, None)]


def test_a_backfill_does_not_heal_a_rejection_of_today(warehouse: Warehouse) -> None:
    warehouse.clock = str(SECOND)
    warehouse.features(ONE, TWO, (3, None, 1.0))
    assert warehouse.run().rows_rejected == 1
    before = warehouse.latest()
    warehouse.clock = "2024-01-05 00:00:00"
    warehouse.features(ONE, TWO, (3, 1.0, 1.0))
    assert warehouse.run().rows_scored == 3
    assert warehouse.latest() == before


def test_what_a_backfill_has_rejected_is_not_tried_again_by_the_same_backfill(
    warehouse: Warehouse,
) -> None:
    moments = "select * from (values (1, null, 8.0, timestamp '2024-01-05'), (2, 3.0, 1.0, null)) "
    moments += "as rows (id, a, b, moment)"
    warehouse.clock = "2024-01-05 00:00:00"
    for rejected in (2, 0):
        run = warehouse.run(features=moments, as_of="moment")
        assert (run.rows_rejected, run.rows_unchanged) == (rejected, 2 - rejected)


def test_a_backfill_between_a_score_and_its_confirmation_does_not_displace_it(
    warehouse: Warehouse,
) -> None:
    warehouse.clock = str(THIRD)
    warehouse.run()  # confirms the predictions of the first day
    warehouse.clock = str(SECOND)
    warehouse.features((1, 8.0, 8.0), TWO)
    assert warehouse.run().per_reason["features_changed"] == 1
    assert seen(warehouse) == [(1, FIRST, None), (2, FIRST, None)]
    warehouse.clock = "2024-01-13 00:00:00"
    warehouse.features(ONE, TWO)
    assert warehouse.run().rows_unchanged == 2


def test_a_failed_run_confirms_nothing(warehouse: Warehouse) -> None:
    from dbt_onnx.errors import DataError

    warehouse.clock = str(SECOND)
    warehouse.features(TWO, TWO)
    with pytest.raises(DataError):
        warehouse.run()
    assert seen(warehouse) == [(1, FIRST, None), (2, FIRST, None)]
    assert warehouse.last_run("status, as_of") == ("error", None)


def test_a_rejected_backfill_does_not_hide_a_confirmed_prediction(warehouse: Warehouse) -> None:
    warehouse.clock = str(THIRD)
    warehouse.run()
    warehouse.clock = str(SECOND)
    warehouse.features((1, None, 8.0))
    assert warehouse.run().rows_rejected == 1
    assert warehouse.latest("id, status") == [(1, "scored"), (2, "scored")]


def test_late_rows_of_a_full_run_go_to_the_ledger_only(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    row = "select {} as id, {}::double as a, 1.0::double as b, timestamp '{}' as moment"

    def run(*rows: tuple[int, int, str]) -> int:
        features = " union all ".join(row.format(*values) for values in rows)
        return warehouse.run(features=features, as_of="moment").rows_scored

    assert run((1, 1, "2024-01-05"), (2, 1, "2024-01-09")) == 2
    assert run((1, 7, "2024-01-03"), (2, 1, "2024-01-10")) == 1
    assert warehouse.last_run("scope") == ("full",)
    assert warehouse.latest("id, y, as_of") == [
        (1, 1.5, datetime(2024, 1, 5)),
        (2, 1.5, datetime(2024, 1, 9)),
    ]
    # the same late row again is already known; an older one with other values is not
    assert run((1, 7, "2024-01-03"), (2, 1, "2024-01-10")) == 0
    assert run((1, 6, "2024-01-02"), (2, 1, "2024-01-10")) == 1
    assert run((1, 6, "2024-01-02"), (2, 1, "2024-01-10")) == 0
    assert warehouse.ledger("id, score_reason")[2:] == [(1, "new"), (1, "new")]


def test_versions_are_confirmed_each_by_its_own_runs(warehouse: Warehouse) -> None:
    warehouse.register("2", line_model(1, 1, 1))
    warehouse.clock = str(SECOND)
    warehouse.features(TWO)
    warehouse.run()
    # version 1 did not run on the second day, so its row of entity 1 is unchanged
    assert warehouse.latest("id, model_version, last_seen_as_of") == [
        (1, "1", None),
        (2, "1", None),
        (2, "2", None),
    ]
    warehouse.promote("1")
    warehouse.clock = str(THIRD)
    warehouse.run()
    assert warehouse.latest("id, model_version, last_seen_as_of")[0] == (1, "1", FIRST)


def test_another_version_that_is_asked_for_fills_history_and_serves_nothing(
    warehouse: Warehouse,
) -> None:
    warehouse.register("2", line_model(1, 1, 1))
    warehouse.clock = str(SECOND)
    warehouse.run()
    before = warehouse.latest()
    # also under a later clock: the scoring model does not ask for version 1
    for clock in ("2024-01-05 00:00:00", str(THIRD)):
        warehouse.clock = clock
        warehouse.features((1, 7.0, 7.0), TWO)
        assert warehouse.run(requested_model="line/1").rows_scored > 0
        assert warehouse.last_run("scope, model_version, model_alias") == ("backfill", "1", None)
        assert warehouse.run(requested_model="line/1").rows_scored == 0
    assert warehouse.latest() == before
    assert set(warehouse.ledger("model_version, is_late")[4:]) == {("1", True)}


def test_the_version_that_the_scoring_model_runs_anyway_may_be_asked_for(
    warehouse: Warehouse,
) -> None:
    warehouse.clock = str(SECOND)
    warehouse.run(requested_model="line/1")
    assert warehouse.last_run("scope, model_version, model_alias") == ("full", "1", "champion")
    warehouse.promote(None)  # no version is champion
    assert warehouse.run(requested_model="line/1").rows_unchanged == 2
    assert warehouse.last_run("scope, model_alias") == ("backfill", None)


@pytest.mark.parametrize("asked", ["line", "line@champion", "spend/1", "line//1", 7])
def test_only_a_version_of_the_same_model_can_be_asked_for(
    warehouse: Warehouse, asked: str
) -> None:
    from dbt_onnx.errors import ConfigError

    with pytest.raises(ConfigError):
        warehouse.run(requested_model=asked)
    assert warehouse.last_run("status") == ("error",)


def test_the_first_run_of_a_new_champion_about_the_past_is_a_backfill(
    warehouse: Warehouse,
) -> None:
    warehouse.register("2", line_model(1, 1, 1))
    before = warehouse.latest()
    warehouse.clock = "2024-01-05 00:00:00"
    warehouse.run()
    assert warehouse.last_run("scope, model_version") == ("backfill", "2")
    assert warehouse.latest() == before
    warehouse.clock = str(SECOND)
    assert warehouse.run().per_reason["model_changed"] == 2
    assert warehouse.last_run("scope") == ("full",)


def test_a_backfill_under_another_hash_function_does_not_hide_that_it_is_another(
    warehouse: Warehouse,
) -> None:
    warehouse.sql("update dbt_onnx_runs set features_hash_function = 'of before'")
    warehouse.sql("update scores__current set features_hash = 1")
    warehouse.clock = "2024-01-05 00:00:00"
    warehouse.run()
    warehouse.clock = str(SECOND)
    assert warehouse.run().per_reason["hash_changed"] == 2


def test_scored_at_never_goes_back_even_if_the_machine_clock_does(warehouse: Warehouse) -> None:
    warehouse.sql("update dbt_onnx_runs set scored_at = timestamp '2100-01-01 00:00:00'")
    warehouse.features((1, 5.0, 5.0), TWO)
    warehouse.run()
    assert warehouse.latest("id, scored_at")[0] == (1, datetime(2100, 1, 1, 0, 0, 0, 1))


def test_an_entity_that_came_back_with_a_late_row_is_there(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path)
    warehouse.register("1")
    row = "select {} as id, {}::double as a, 1.0::double as b, timestamp '2024-01-{:02d}' as moment"
    for day, *rows in ((10, (1, 1, 9), (2, 1, 10)), (11, (2, 1, 11)), (12, (1, 7, 5), (2, 1, 12))):
        warehouse.clock = f"2024-01-{day}"
        features = " union all ".join(row.format(*values) for values in rows)
        warehouse.run(features=features, as_of="moment")
    # the late row goes to history; the entity still counts as seen
    assert warehouse.ledger("id, is_late")[-1] == (1, True)
    assert warehouse.latest("id, y, last_seen_as_of") == [(1, 1.5, None), (2, 1.5, None)]
