"""The reference project's features contain only what was known on the clock's day."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from training.snapshots import PROJECT, Warehouse

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = date(1998, 4, 1)
FIRST_WEEKS = date(1997, 2, 10)


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return Warehouse(tmp_path_factory.mktemp("reference"), day=DAY)


@pytest.fixture(scope="module")
def features(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """Return {customer: {column: value}} of the table that dbt has built."""
    return by_customer(warehouse, "select * from customer_features")


def sql(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(warehouse.path)) as connection:
        return connection.execute(query).fetchall()


def by_customer(warehouse: Warehouse, query: str) -> dict[str, dict[str, Any]]:
    names = [row[0] for row in sql(warehouse, f"describe {query}")]
    rows = [dict(zip(names, row, strict=True)) for row in sql(warehouse, query)]
    return {row["customer_id"]: row for row in rows}


def features_of(warehouse: Warehouse, day: date) -> dict[str, dict[str, Any]]:
    return by_customer(warehouse, warehouse.features_sql(day))


def read_purchases() -> Iterator[tuple[str, date, int, Decimal]]:
    with (PROJECT / "seeds" / "purchases.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            yield (
                row["customer_id"],
                date.fromisoformat(row["purchased_on"]),
                int(row["cds"]),
                Decimal(row["dollars"]),
            )


def features_by_hand(day: date) -> dict[str, dict[str, Any]]:
    known = defaultdict(list)
    for customer, bought_on, cds, dollars in read_purchases():
        if bought_on <= day:
            known[customer].append((bought_on, cds, dollars))
    return {customer: _by_hand(customer, day, rows) for customer, rows in known.items()}


def _by_hand(customer: str, day: date, rows: list[tuple[date, int, Decimal]]) -> dict[str, Any]:
    first = min(row[0] for row in rows)
    weeks = [(row[0] - first).days // 7 for row in rows]
    now = (day - first).days // 7
    # 13 whole customer weeks: the current one and the twelve before it
    window_from = first + timedelta(weeks=now - 12)
    recent = [row for row in rows if row[0] >= window_from]
    dollars = sum((row[2] for row in rows), Decimal(0))
    cent = Decimal("0.01")
    return {
        "customer_id": customer,
        "feature_date": day,
        "recency_weeks": now - max(weeks),
        "tenure_weeks": now,
        "frequency": len(rows),
        "active_weeks": len(set(weeks)),
        "monetary": dollars,
        "average_purchase": (dollars / len(rows)).quantize(cent, ROUND_HALF_UP),
        "largest_purchase": max(row[2] for row in rows),
        "cds": sum(row[1] for row in rows),
        "purchases_13w": len(recent),
        "dollars_13w": sum((row[2] for row in recent), Decimal(0)),
        "cds_13w": sum(row[1] for row in recent),
    }


def test_the_seed_holds_all_purchases_and_keeps_the_repeated_ones() -> None:
    rows = list(read_purchases())
    assert len(rows) == 69_659
    assert len({row[0] for row in rows}) == 23_570
    assert sum(count - 1 for count in Counter(rows).values()) == 255
    assert (min(row[1] for row in rows), max(row[1] for row in rows)) == (
        date(1997, 1, 1),
        date(1998, 6, 30),
    )


def test_the_warehouse_has_the_seed_with_customers_as_text(warehouse: Warehouse) -> None:
    loaded = sql(
        warehouse,
        "select customer_id, purchased_on, cds, dollars from purchases order by purchase_id",
    )
    assert loaded == list(read_purchases())


def test_the_features_are_those_computed_by_hand(features: dict[str, dict[str, Any]]) -> None:
    by_hand = features_by_hand(DAY)
    assert len(features) == len(by_hand) == 23_570
    differing = [
        (customer, column, value, by_hand[customer][column])
        for customer, row in features.items()
        for column, value in row.items()
        if value != by_hand[customer][column]
    ]
    assert differing == []


def test_purchases_after_the_day_change_no_feature(warehouse: Warehouse) -> None:
    before = features_of(warehouse, FIRST_WEEKS)
    assert before == features_by_hand(FIRST_WEEKS)
    assert 0 < len(before) < 23_570
    sql(
        warehouse,
        f"create or replace table all_purchases as from purchases; "
        f"delete from purchases where purchased_on > date '{FIRST_WEEKS}'",
    )
    try:
        assert sql(warehouse, "select count(*) from purchases")[0][0] < 69_659
        assert features_of(warehouse, FIRST_WEEKS) == before
    finally:
        sql(warehouse, "create or replace table purchases as from all_purchases")


def test_the_day_itself_is_known(warehouse: Warehouse) -> None:
    bought_that_day = {row[0] for row in read_purchases() if row[1] == FIRST_WEEKS}
    known = features_of(warehouse, FIRST_WEEKS)
    assert bought_that_day
    assert {known[customer]["recency_weeks"] for customer in bought_that_day} == {0}


def test_a_night_changes_the_features_of_about_a_seventh(
    warehouse: Warehouse, features: dict[str, dict[str, Any]]
) -> None:
    night_before = features_of(warehouse, DAY - timedelta(days=1))
    changed = sum(
        {**row, "feature_date": None} != {**night_before[customer], "feature_date": None}
        for customer, row in features.items()
    )
    assert 0.12 < changed / len(features) < 0.17


def test_the_leak_test_finds_the_one_customer_with_a_leak(warehouse: Warehouse) -> None:
    leak = "update customer_features set frequency = frequency {} 1 where customer_id = '00042'"
    sql(warehouse, leak.format("+"))
    # exactly one result: the other 23,569 rows pass
    with pytest.raises(SystemExit, match="Got 1 result, configured to fail if != 0"):
        warehouse.dbt("test", "-s", "customer_features_know_nothing_later")
    sql(warehouse, leak.format("-"))
