"""The registry returns exactly one entry, or an error that names what exists instead."""

import datetime as dt
import decimal
import os
from pathlib import Path
from typing import Any

import pytest

from dbt_onnx.artifacts.registry import Registry, parse_spec
from dbt_onnx.errors import ConfigError, RegistryError

SHA = "0123456789abcdef" * 4


def row(version: object = "1", alias: object = None, **changes: object) -> dict[str, object]:
    return {
        "model_name": "churn",
        "model_version": version,
        "alias": alias,
        "artifact": f"churn/{version}/model.onnx",
        "sha256": SHA,
        **changes,
    }


def registry(*rows: dict[str, object]) -> Registry:
    return Registry.from_rows(rows, where="main.model_registry")


def refusal(*rows: dict[str, object]) -> str:
    with pytest.raises(RegistryError) as caught:
        registry(*rows)
    assert "main.model_registry" in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_a_bare_name_is_the_champion() -> None:
    found = registry(row("1"), row("2", "champion"), row("3", "challenger")).resolve("churn")
    assert (found.model_version, found.alias) == ("2", "champion")


def test_an_alias_and_a_version_name_others() -> None:
    models = registry(row("1"), row("2", "champion"), row("3", "challenger"))
    assert models.resolve("churn@challenger").model_version == "3"
    assert models.resolve("churn/1").model_version == "1"


@pytest.mark.parametrize(
    ("value", "text"), [(7, "7"), (dt.date(2024, 1, 31), "2024-01-31"), (" 2 ", "2")]
)
def test_a_version_that_the_seed_typed_is_text_again(value: object, text: str) -> None:
    assert registry(row(value, artifact="a/model.onnx")).entries[0].model_version == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.1, "number 1.1"),
        (decimal.Decimal("1.10"), "number 1.10"),
        (1.0, "number 1.0"),
        (True, "truth value True"),
        (dt.datetime(2024, 1, 31), "datetime 2024-01-31 00:00:00"),
        (b"1", "bytes b'1'"),
    ],
)
def test_a_version_that_the_seed_read_as_something_else_is_refused(
    value: object, shown: str
) -> None:
    message = refusal(row(value))
    assert f"row 1: model_version was loaded as the {shown}" in message
    assert "`+column_types: {model_version: string}`" in message
    assert "`dbt seed --full-refresh`" in message


@pytest.mark.parametrize("asked", ["01", "001", "1_0"])
def test_a_version_that_lost_its_spelling_is_told_with_the_cure(asked: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry(row(1), row(10)).resolve(f"churn/{asked}")
    assert "it was loaded as a number: give the seed `+column_types" in caught.value.hint
    assert "--full-refresh" in caught.value.hint


def test_a_blank_line_is_no_version_however_it_was_loaded(tmp_path: Path) -> None:
    blank: dict[str, object] = dict.fromkeys(row())
    assert registry(row("1"), blank, row("2")).entries == registry(row("1"), row("2")).entries
    text = f"{HEADER}churn,1,,churn/1/m.onnx,{SHA}\n\n,,,,\nchurn,2,,churn/2/m.onnx,{SHA}\n"
    found = Registry.from_csv(write(tmp_path / "r.csv", text))
    assert [entry.model_version for entry in found.entries] == ["1", "2"]
    # a row with any value is not blank
    assert "row 2: model_name ''" in refusal(row("1"), {**blank, "alias": "champion"})


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{}, {"model_name": "Churn"}], "models 'Churn' and 'churn' differ only in letter case"),
        ([{"version": "v1"}, {"version": "V1"}], "versions 'churn/V1' and 'churn/v1' differ only"),
        (
            [{"version": "1"}, {"version": "2", "artifact": "churn/1/Model.onnx"}],
            "artifacts 'churn/1/Model.onnx' and 'churn/1/model.onnx' differ only in letter case",
        ),
    ],
)
def test_what_differs_by_letter_case_only_is_refused(
    rows: list[dict[str, Any]], fault: str
) -> None:
    assert fault in refusal(*(row(**changes) for changes in rows))


def test_a_card_of_the_registry_is_a_sha256_or_nothing() -> None:
    assert registry(row(card_sha256=SHA)).entries[0].card_sha256 == SHA
    assert registry(row(card_sha256=None)).entries[0].card_sha256 is None
    assert registry(row()).entries[0].card_sha256 is None
    assert "card_sha256 'abc' is not 64 lowercase" in refusal(row(card_sha256="abc"))


def test_an_empty_alias_is_none() -> None:
    assert registry(row(alias="")).entries[0].alias is None


def test_two_champions_are_refused() -> None:
    message = refusal(row("1", "champion"), row("2", "champion"))
    assert "model 'churn' has 2 versions with alias 'champion': 1, 2" in message


def test_two_models_may_each_have_a_champion() -> None:
    models = registry(row("1", "champion"), row("1", "champion", model_name="spend"))
    assert models.resolve("spend").model_name == "spend"


def test_a_version_given_twice_is_refused() -> None:
    assert "version '1' of model 'churn' is registered 2 times" in refusal(row(1), row("1"))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"model_name": "churn'; drop table x; --"}, "model_name"),
        ({"model_name": None}, "model_name ''"),
        ({"model_name": "a" * 129}, "model_name"),
        ({"model_name": "../churn"}, "model_name"),
        ({"version": "$(rm -rf .)"}, "model_version"),
        ({"version": "-1"}, "model_version"),
        ({"alias": "Champion"}, "alias 'Champion'"),
        ({"artifact": "../model.onnx"}, "'..' part"),
        ({"artifact": "churn/../../model.onnx"}, "'..' part"),
        ({"artifact": "/etc/passwd"}, "is absolute"),
        ({"artifact": "churn//model.onnx"}, "empty"),
        ({"artifact": "churn\\model.onnx"}, "backslash"),
        ({"artifact": "c:model.onnx"}, "colon"),
        ({"artifact": "churn/\x00"}, "unprintable"),
        (
            {"artifact": "churn/'; drop table x; --"},
            "is not valid: it must consist of at most 128 letters",
        ),
        ({"artifact": "churn/$(id)/m"}, "is not valid: it must consist of at most 128 letters"),
        ({"artifact": "\uff0e\uff0e/m"}, "is not valid: it must consist of at most 128 letters"),
        ({"artifact": "a/" * 600 + "m"}, "has 1,201 characters; at most 1,000"),
        ({"artifact": None}, "is empty"),
        ({"sha256": SHA.upper()}, "64 lowercase hexadecimal digits"),
        ({"sha256": SHA[:-1]}, "64 lowercase hexadecimal digits"),
        ({"sha256": None}, "64 lowercase hexadecimal digits"),
    ],
)
def test_an_unsafe_value_is_refused(changes: dict[str, object], fault: str) -> None:
    message = refusal(row(**changes))  # type: ignore[arg-type]
    assert "row 1: " in message
    assert fault in message


def test_every_fault_is_named_at_once() -> None:
    message = refusal(row("1", sha256="x"), row("2", artifact="/x"), row("3", "champion"))
    assert "row 1: sha256" in message
    assert "row 2: artifact" in message


def test_a_missing_column_is_named() -> None:
    incomplete = row()
    del incomplete["sha256"]
    assert "it has no column sha256; it has model_name" in refusal(incomplete)


@pytest.mark.parametrize(
    ("spec", "message", "hint"),
    [
        ("chrun", "has no model 'chrun'; it has churn", "did you mean 'churn'?"),
        ("spend", "has no model 'spend'", "dbt-onnx register"),
        ("churn@challenger", "has no alias 'challenger'", "write challenger into the alias column"),
        ("churn/9", "has no version '9' in main.model_registry; its versions are 1, 2 (champion)",
         "register that version"),
    ],
)  # fmt: skip
def test_a_spec_without_an_answer_says_what_exists(spec: str, message: str, hint: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry(row("1"), row("2", "champion")).resolve(spec)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_model_without_champion_says_so() -> None:
    with pytest.raises(RegistryError, match="model 'churn' has no alias 'champion'"):
        registry(row("1")).resolve("churn")


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(RegistryError, match="it is empty") as caught:
        registry().resolve("churn")
    assert "`dbt seed` restores the rows that a build with `--empty` left out" in caught.value.hint
    with pytest.raises(RegistryError, match="it has churn") as caught:
        registry(row("1")).resolve("spend")
    assert "--empty" not in caught.value.hint


def test_the_registry_among_seeds_is_told_by_its_columns(tmp_path: Path) -> None:
    others = {
        "purchases.csv": b"customer_id,dollars\n1,2.50\n",
        "aliases.csv": b"model_name,alias\nchurn,champion\n",
        "empty.csv": b"",
        "latin.csv": b"model_name,artifact,sha256,\xe9\n",
        "long.csv": b"x" * 200_000,
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    first = [tmp_path / name for name in (*others, "gone.csv")]
    assert Registry.from_seeds(first) is None
    path = write(tmp_path / "r.csv", f"\ufeff{HEADER}churn,1,,churn/1/m.onnx,{SHA}\n")
    other = write(tmp_path / "other.csv", f"{HEADER}spend,1,,spend/1/m.onnx,{SHA}\n")
    found = Registry.from_seeds([*first, path, other])
    assert found == Registry.from_csv(path)


def test_a_registry_among_seeds_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", f"{HEADER}churn,1,,../m.onnx,{SHA}\n")
    with pytest.raises(RegistryError, match=r"r\.csv is not valid: row 1"):
        Registry.from_seeds([path])


@pytest.mark.parametrize(
    "spec",
    [
        7,
        None,
        "",
        "@champion",
        "churn@",
        "churn/",
        "churn@a@b",
        "churn/1@a",
        "a b",
        "churn@A",
        "a/'",
    ],
)
def test_a_malformed_spec_is_refused(spec: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(spec)
    assert repr(spec) in caught.value.message
    assert "churn@challenger" in caught.value.hint


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


HEADER = "model_name,model_version,alias,artifact,sha256\n"


def test_a_csv_is_read_like_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", f"\ufeff{HEADER}churn,1.10,,churn/1/m.onnx,{SHA}\n")
    (entry,) = Registry.from_csv(path).entries
    assert (entry.model_version, entry.alias, entry.artifact) == ("1.10", None, "churn/1/m.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column model_name"),
        ("model_name,model_version,alias,artifact\n", "has no column sha256"),
        (f"{HEADER}churn,1\n", "row 1: artifact ''"),
        (f'{HEADER}"churn,1', "cannot be read"),
        (f"alias,{HEADER}", "has the column alias more than once"),
    ],
)
def test_a_malformed_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        Registry.from_csv(write(tmp_path / "r.csv", text))


def test_an_absent_csv_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"absent\.csv cannot be read"):
        Registry.from_csv(tmp_path / "absent.csv")


def test_a_csv_that_would_be_waited_for_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.csv")
    with pytest.raises(RegistryError, match="it is not a regular file"):
        Registry.from_csv(tmp_path / "r.csv")
