"""One clock: the variable if it is set, else now. The demo's date applies only to the demo."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from consumer import Project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    built = Project(
        tmp_path_factory.mktemp("clock"), profile={"settings": {"TimeZone": "Asia/Tokyo"}}
    )
    built.write(
        "models/moment.sql", "select {{ dbt_onnx.clock() }} as clock, typeof(clock) as type"
    )
    return built


def clock(project: Project, moment: object) -> datetime:
    outcome = project.dbt("run", vars={"dbt_onnx_clock": moment} if moment else None)
    assert outcome.success, outcome.log
    [(value, kind)] = project.sql("select * from moment")
    assert kind == "TIMESTAMP"
    return value


def test_without_the_variable_it_is_now_in_utc(project: Project) -> None:
    now = datetime.now(UTC).replace(tzinfo=None)
    assert abs(clock(project, None) - now) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("1998-04-01", datetime(1998, 4, 1)),
        (datetime(1998, 4, 1).date(), datetime(1998, 4, 1)),
        ("2024-02-29", datetime(2024, 2, 29)),
        ("2000-02-29 12:00", datetime(2000, 2, 29, 12)),
        ("1998-04-01T06:30:00Z", datetime(1998, 4, 1, 6, 30)),
        ("1998-04-01 06:30:00.25", datetime(1998, 4, 1, 6, 30, 0, 250_000)),
    ],
)
def test_the_variable_is_a_date_or_a_utc_timestamp(
    project: Project, moment: object, expected: datetime
) -> None:
    assert clock(project, moment) == expected


@pytest.mark.parametrize(
    "moment",
    [
        "tomorrow", "1998-04-01 06:30:00+02:00", "1998-04-01' or '1", "2024-02-30", "2023-02-29",
        "1900-02-29", "2024-04-31T10:00:00Z", "2024-00-10", "0001-01-01", "1899-12-31",
    ],
)  # fmt: skip
def test_anything_else_is_refused(project: Project, moment: str) -> None:
    outcome = project.dbt("run", vars={"dbt_onnx_clock": moment})
    assert not outcome.success
    assert f"variable dbt_onnx_clock is '{moment}'; it takes a date" in outcome.error + outcome.log
