"""New customers of early 1997: what each is served between two scoring runs, and when runs stop."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from datetime import date
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
from test_reference_project import ROOT, Reference

if TYPE_CHECKING:
    from collections.abc import Iterator

SCORED_ON = date(1997, 1, 15)
COLUMNS = "customer_id, served_from, is_stale, age, churn_probability, is_churn, model_version"


@dataclass(frozen=True)
class Customer:
    first_purchased_on: date
    first_month: str
    first_cds: int


def customers(by: date) -> Iterator[tuple[str, Customer]]:
    """Yield everyone who has bought by that day, reading the file line by line in time order."""
    seen = set()
    with (ROOT / "seeds" / "purchases.csv").open(newline="") as file:
        lines = sorted(csv.DictReader(file), key=lambda line: int(line["purchase_id"]))
    lines.sort(key=lambda line: line["purchased_on"])
    for line in lines:
        day = date.fromisoformat(line["purchased_on"])
        if day <= by and line["customer_id"] not in seen:
            seen.add(line["customer_id"])
            yield line["customer_id"], Customer(day, line["purchased_on"][:7], int(line["cds"]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    reference = Reference(tmp_path_factory.mktemp("fallback"))
    selection = ("--select", "+churn_predictions", "--exclude-resource-type", "test")
    reference.build(*selection, as_of=SCORED_ON.isoformat())
    return reference


def served(reference: Reference, day: date) -> dict[str, tuple[Any, ...]]:
    """Return the view as of that day, by customer, with no new scoring run."""
    selection = ("--select", "customers", "churn_with_fallback", "--exclude-resource-type", "test")
    reference.build(*selection, as_of=day.isoformat())
    return {row[0]: row[1:] for row in reference.sql(f"select {COLUMNS} from churn_with_fallback")}


def test_new_customers_get_the_average_of_their_segment_or_the_constant(
    reference: Reference,
) -> None:
    day = date(1997, 1, 20)
    found, known = served(reference, day), dict(customers(day))
    assert set(found) == set(known)
    scored = {
        row[0]: row[1:]
        for row in reference.sql(
            "select customer_id, churn_probability, is_churn from churn_predictions"
        )
    }
    assert set(scored) == {n for n, c in known.items() if c.first_purchased_on <= SCORED_ON}

    segments: dict[tuple[str, int], list[str]] = {}
    for name in scored:
        segments.setdefault((known[name].first_month, known[name].first_cds), []).append(name)
    expected_from: Counter[str] = Counter()
    for name, customer in known.items():
        members = segments.get((customer.first_month, customer.first_cds), [])
        source, is_stale, age, probability, label, version = found[name]
        if name in scored:
            expected_from["serving_version"] += 1
            assert (source, is_stale, age) == ("serving_version", False, day - SCORED_ON)
            assert (probability, label, version) == (*scored[name], "2")
            continue
        assert (is_stale, age, version) == (True, None, None)
        if len(members) >= 20:
            expected_from["segment_average"] += 1
            average = fmean(scored[member][0] for member in members)
            labels = Counter(scored[member][1] for member in members)
            assert (source, label) == ("segment_average", labels.most_common(1)[0][0])
            assert probability == pytest.approx(average, abs=1e-6)
        else:
            expected_from["constant"] += 1
            assert (source, label) == ("constant", 1)
            assert probability == pytest.approx(0.78, abs=1e-6)
    assert Counter(row[0] for row in found.values()) == expected_from
    assert expected_from == {"serving_version": 3435, "segment_average": 1338, "constant": 17}


def test_when_runs_stop_old_predictions_are_served_and_nobodys_average(
    reference: Reference,
) -> None:
    day = date(1997, 1, 25)
    found = served(reference, day)
    sources = Counter((source, is_stale, age) for source, is_stale, age, *_ in found.values())
    assert sources == {
        ("serving_version", True, day - SCORED_ON): 3435,
        ("constant", True, None): len(dict(customers(day))) - 3435,
    }
