"""Whatever has changed since the last publication, the next one equals the relation in every value."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from publishing import CLOCK, ORIGIN_TYPES, Publisher, create, faults_of

if TYPE_CHECKING:
    from collections.abc import Callable

settings.register_profile("small", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("small")

KEY = ("region", "id")
TYPES = {
    "region": "varchar", "id": "integer", "y": "double", "embedding": "float[]", "label": "varchar", "tags": "varchar[]",
    "price": "decimal(9,2)", "day": "date", "as_of": "timestamp", **ORIGIN_TYPES,
}  # fmt: skip
Key = tuple[str, int]
Row = tuple[Any, ...]
Relation = dict[Key, Row]

keys = st.tuples(
    st.sampled_from(["", "a", "A", "é", "e\u0301", "a'b", 'a"b', "a\0b"]), st.integers(-1, 1)
)
moments = st.sampled_from([None, CLOCK, CLOCK - timedelta(days=1), CLOCK - timedelta(days=3)])
values = st.tuples(
    st.sampled_from([None, 0.0, 0.5, float("nan"), float("-inf")]),
    st.sampled_from([None, [], [None], [None, None], [0.0, 1.5], [1.5, None], [None, 1.5]]),
    st.sampled_from([None, "", "x", "X"]),
    st.sampled_from([None, [], [None], ["x"], ["x", "é"]]),
    st.sampled_from([None, "0.00", "-1.50"]),
    st.sampled_from([None, "0001-01-01", "2024-02-29"]),
    moments,
)
# only a few different origins, so that rows share them
origins = st.sampled_from(
    [
        (scored_at, fresh, "m", version, f"run {version}", status, reason, served_from)
        for scored_at, fresh, version, (status, reason, served_from) in itertools.product(
            [CLOCK, CLOCK - timedelta(days=1)],
            [CLOCK, CLOCK - timedelta(days=2), None],
            ["1", "2"],
            [
                ("scored", None, "serving_version"),
                ("rejected", "null:a", "earlier_version"),
                ("rejected", "null:a", "missing"),
                (None, None, "missing"),
                (None, None, "constant"),
            ],
        )
    ]
)
rows = st.tuples(values, origins).map(lambda parts: (*parts[0], *parts[1]))
FRESH = list(TYPES).index("fresh_as_of") - len(KEY)


def confirmed(relation: Relation, which: Callable[[Key], bool], hours: int) -> Relation:
    """Return the relation with a later `fresh_as_of` for some rows, as after a night that confirms them."""

    def later(row: Row) -> Row:
        fresh = row[FRESH] and row[FRESH] + timedelta(hours=hours)
        return (*row[:FRESH], fresh, *row[FRESH + 1 :])

    return {key: later(row) if which(key) else row for key, row in relation.items()}


@st.composite
def histories(draw: st.DrawFn) -> list[Relation]:
    relation = draw(st.dictionaries(keys, rows, min_size=1, max_size=12))
    found = [relation]
    for kind in draw(st.lists(st.sampled_from(["all", "some", "edited", "other"]), max_size=5)):
        some = draw(st.sets(keys, max_size=6))
        if kind == "all":
            relation = confirmed(relation, lambda _: True, 1)
        elif kind == "some":
            relation = confirmed(relation, some.__contains__, 1)
        elif kind == "edited":
            kept = {key: row for key, row in relation.items() if key not in some}
            relation = kept | draw(
                st.dictionaries(keys, rows, min_size=0 if kept else 1, max_size=6)
            )
        else:
            relation = draw(st.dictionaries(keys, rows, min_size=1, max_size=12))
        found.append(relation)
    return found


@given(histories())
def test_a_publication_is_the_relation_whatever_it_is_built_from(history: list[Relation]) -> None:
    root = Path(tempfile.mkdtemp())
    publisher = Publisher(root)
    try:
        before: Relation = {}
        for number, relation in enumerate(history):
            create(publisher, TYPES, [(*key, *row) for key, row in relation.items()])
            built = publisher.publish(key=KEY)
            whole = publisher.publish(
                key=KEY, name="whole", published_by="whole", full_refresh=True
            )
            assert faults_of(publisher, key=KEY) == []
            assert faults_of(publisher, key=KEY, name="whole") == []
            assert whole.rows_changed == whole.rows == built.rows == len(relation)
            assert built.rows_removed == len(before.keys() - relation.keys())
            assert built.rows_changed >= sum(
                differ(before.get(key), row) for key, row in relation.items()
            )
            absent = {("nowhere", 1), *before} - relation.keys()
            with publisher.open() as predictions:
                assert {predictions.get(key).status for key in absent} == {"missing"}
            if number and relation == confirmed(before, lambda _: True, 1):
                assert built.rows_changed == 0
            before = relation
        found = publisher.switches("rows_published, rows_changed, rows_removed, published_model")
        found = [row for row in found if row[-1] == "t_published"]
        assert [row[0] for row in found] == [len(relation) for relation in history]
    finally:
        publisher.close()
        shutil.rmtree(root)


def differ(one: Row | None, other: Row) -> bool:
    """Whether the row's own values differ; its origin is ignored."""
    if one is None:
        return True
    return repr(one[: FRESH - 1]) != repr(other[: FRESH - 1])
