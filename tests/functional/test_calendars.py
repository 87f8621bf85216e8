"""Moments are stored correctly under every calendar that a profile may set."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from hardening import UNLOCKED
from warehouse import Warehouse

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("calendar", ["gregorian", "buddhist", "japanese", "islamic"])
def test_a_moment_with_a_zone_is_stored_in_utc(tmp_path: Path, calendar: str) -> None:
    warehouse = Warehouse(tmp_path, config=UNLOCKED)
    warehouse.sql(f"set global Calendar = '{calendar}'")
    warehouse.sql("set global TimeZone = 'Asia/Kathmandu'")
    warehouse.register("1")
    features = (
        "select 1 as id, 1.0::double as a, 1.0::double as b, "
        "'2024-01-09 20:00:00-03:30'::timestamptz as seen"
    )
    warehouse.run(features=features, as_of="seen")
    assert warehouse.ledger("as_of") == [(datetime(2024, 1, 9, 23, 30),)]
    [(started, scored)] = warehouse.sql("select started_at, scored_at from dbt_onnx_runs")
    assert abs((datetime.now() - started).days) <= 1 >= abs((datetime.now() - scored).days)
