"""Any registry, card or contract: one clear error, or the same content after it is written and read again."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parts import OUTPUT, TEXT, contracts, fuzz

from dbt_onnx.artifacts.card import parse_card
from dbt_onnx.artifacts.registry import REGISTRY_COLUMNS, Registry, RegistryEntry
from dbt_onnx.artifacts.registry_file import put_entry
from dbt_onnx.errors import DbtOnnxError, RegistryError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

SHA = "0123456789abcdef" * 4
VALUES: dict[str, st.SearchStrategy[str]] = {
    "model_name": st.sampled_from(["churn", "spend", "Churn", "a.b-c_d"]),
    "model_version": st.sampled_from(["1", "2", "1.10", "2024-01-31"]),
    "alias": st.sampled_from(["", "", "champion", "challenger"]),
    "artifact": st.sampled_from(["churn/1/model.onnx", "model.onnx", "a/b"]),
    "sha256": st.sampled_from([SHA, "f" * 64]),
}
ODD = TEXT | st.sampled_from(
    ["..", "../x", "/etc/passwd", "a/../b", "a//b", "c:x", "a\\b", "x'; drop table y; --", "$(id)",
     "a\x00", "a\nb", "\uff0e\uff0e/x", "nan", "1.1", "A" * 200, SHA.upper(), SHA[:-1]]
)  # fmt: skip


@st.composite
def rows(draw: st.DrawFn, *, odd: st.SearchStrategy[Any] = ODD) -> dict[str, Any]:
    """A row in which one value may be odd."""
    row: dict[str, Any] = {column: draw(values) for column, values in VALUES.items()}
    if draw(st.integers(0, 3)) == 0:
        row[draw(st.sampled_from(REGISTRY_COLUMNS))] = draw(odd)
    return row


def check_sound(registry: Registry, given_rows: list[dict[str, Any]]) -> None:
    """The entries equal the rows, have safe paths, and are found by version and by alias."""
    assert [
        [getattr(entry, column) or "" for column in REGISTRY_COLUMNS] for entry in registry.entries
    ] == [
        ["" if row[column] is None else str(row[column]).strip() for column in REGISTRY_COLUMNS]
        for row in given_rows
    ]
    root = Path("/artifacts")
    for entry in registry.entries:
        path = root / entry.artifact
        assert ".." not in path.parts
        assert path.is_relative_to(root)
        assert path != root
        assert not set("'\";$`|&<>\\\x00\n :") & set(entry.artifact + entry.model_name)
        assert registry.resolve(f"{entry.model_name}/{entry.model_version}") == entry
        if entry.alias:
            assert registry.resolve(f"{entry.model_name}@{entry.alias}") == entry


TYPED = ODD | st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.datetimes(),
    st.decimals(places=1, allow_nan=False, allow_infinity=False), st.binary(max_size=3),
    st.sampled_from([[], {}, Decimal("1.1"), dt.date(2024, 1, 31), ("a",)]),
)  # fmt: skip


@given(given_rows=st.lists(rows(odd=TYPED), max_size=4))
@fuzz(2.0)
def test_rows_of_a_warehouse_are_the_registry_or_refused(given_rows: list[dict[str, Any]]) -> None:
    try:
        registry = Registry.from_rows(given_rows, where="main.model_registry")
    except RegistryError as error:
        assert "main.model_registry" in error.message
        assert "row " in error.message or "model " in error.message
        return
    check_sound(registry, given_rows)


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Bytes of a seed as people and spreadsheets write it, sometimes with faults."""
    header = list(REGISTRY_COLUMNS)
    if draw(st.integers(0, 3)) == 0:
        header.insert(
            draw(st.integers(0, 5)), draw(st.sampled_from(["note", "", "alias", "Alias"]))
        )
    if draw(st.booleans()):
        header = draw(st.permutations(header))
    lines = []
    for row in draw(st.lists(rows(), max_size=4)):
        cells = [row.get(column, 'x, "y"\n\'') for column in header]
        lines.append(cells[: draw(st.sampled_from([len(cells)] * 9 + [0, 3]))])
        lines[-1] += [""] * draw(st.sampled_from([0] * 9 + [2]))
    text = io.StringIO()
    writer = csv.writer(
        text,
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )
    writer.writerows([header, *lines])
    content = draw(st.sampled_from(["", "\ufeff"])).encode() + text.getvalue().encode()
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.binary(max_size=3)) + content[place + 1 :]
    return content


@given(content=files() | st.binary(max_size=60))
@fuzz(2.0)
def test_a_seed_is_read_and_written_or_refused(content: bytes) -> None:
    """A version is added and takes its alias; everything else in the file stays unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model_registry.csv"
        path.write_bytes(content)
        try:
            registry = Registry.from_csv(path)
        except RegistryError as error:
            assert str(path) in error.message
            _check_refused(path, content)
            return
        check_sound(registry, [vars(entry) for entry in registry.entries])
        added = RegistryEntry(
            model_name="churn", model_version="9", alias="champion", artifact="c/9", sha256=SHA
        )
        before = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
        assert all(before[0].count(column) == 1 for column in REGISTRY_COLUMNS)
        if "Churn" in {entry.model_name for entry in registry.entries}:
            with pytest.raises(
                RegistryError, match="has 'Churn', and 'churn' differs from it only"
            ):
                put_entry(path, added)
            assert path.read_bytes() == content
            return
        assert put_entry(path, added) == added
        after = list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
        assert [entry for entry in Registry.from_csv(path).entries if entry != added] == [
            e
            if (e.model_name, e.alias) != ("churn", "champion")
            else RegistryEntry(**{**vars(e), "alias": None})
            for e in registry.entries
        ]
        place = before[0].index("alias")
        assert [_without(row, place) for row in after[:-1]] == [_without(r, place) for r in before]


def _without(row: list[str], place: int) -> list[str]:
    return row[:place] + row[place + 1 :]


def _check_refused(path: Path, content: bytes) -> None:
    try:
        put_entry(
            path,
            RegistryEntry(model_name="a", model_version="1", alias=None, artifact="b", sha256=SHA),
        )
    except RegistryError:
        assert path.read_bytes() == content
    else:
        raise AssertionError("a row was written into a registry that is not valid")


# --- cards ------------------------------------------------------------------------------------

JSON: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from([None, True, False, 0, 1, -1, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, "", "a"])
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT | st.just("kind"), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
WHOLE = {
    "format_version": 1, "model_name": "m", "model_version": "1", "sha256": SHA,
    "contract": Contract(
        features=(
            Feature(name="a", null_policy="fill", fill=0.5, tolerance=0.1),
            Feature(name="b", null_policy="nan", width=2),
            Feature(name="c", time_unit="day"),
        ),
        inputs=(
            Input(name="x", dtype="float32", features=("a", "b")),
            Input(name="z", dtype="int64", features=("c",), rank=1),
        ),
        outputs=(
            OUTPUT,
            Output(name="p", kind="probabilities", dtype="float32", columns=("p0", None), classes=(0, 1)),
            Output(name="e", kind="vector", dtype="float32", columns=("e",), width=3),
        ),
    ).to_dict(),
    "reference": {
        "a": {"kind": "numeric", "rows": 3, "nulls": 0, "edges": [0, 1], "shares": [0.5, 0.25, 0.25]},
        "b": {"kind": "categorical", "rows": 3, "nulls": 0, "shares": {"x": 0.75}, "other": 0.25},
    },
    "parity": {"features": {"a": [1.0]}, "outputs": {"y": [0.5]}, "tolerance": 1e-5},
}  # fmt: skip


def places(value: Any, trail: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [trail, *(place for key, item in inner for place in places(item, (*trail, key)))]


PLACES = [place for place in places(WHOLE) if place]


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "add"]), JSON),
        min_size=1, max_size=2,
    )
)  # fmt: skip
@fuzz(5.0)
def test_a_card_with_any_value_anywhere_is_read_or_refused(
    changes: list[tuple[tuple[Any, ...], str, Any]],
) -> None:
    card: Any = json.loads(json.dumps(WHOLE))
    for place, how, value in changes:
        around: Any = card
        try:
            for step in place[:-1]:
                around = around[step]
            if how == "delete":
                del around[place[-1]]
            elif how == "add" and isinstance(around, list):
                around.append(value)
            else:
                around[place[-1] if how == "set" else "other"] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change has removed the place
    try:
        read = parse_card(json.dumps(card).encode(), where="card.json")
        contract = Contract.from_dict(read["contract"])
    except DbtOnnxError as error:
        assert error.hint
        return
    check_usable(contract)


@given(contract=contracts())
@fuzz()
def test_a_contract_is_the_same_after_json(contract: Contract) -> None:
    check_usable(contract)


def check_usable(contract: Contract) -> None:
    """An accepted contract is the same after writing and reading, and has only plain values."""
    again = Contract.from_dict(json.loads(json.dumps(contract.to_dict())))
    assert again == contract
    assert repr(again) == repr(contract)
    assert len(contract.output_fields()) == len(
        {name for output in contract.outputs for name in output.columns if name is not None}
    )
    for output in contract.outputs:
        assert len(set(output.classes or ())) == len(output.classes or ())
    for feature in contract.features:
        if feature.tolerance is not None:
            assert 0 <= float(feature.tolerance) < float("inf")
