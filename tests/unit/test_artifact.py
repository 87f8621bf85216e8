"""A model file is scored only if it is at a permitted path, has the registered bytes, and fits its contract."""

from __future__ import annotations

import hashlib
import json
import os
import random
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import onnx_models as models
import pytest

from dbt_onnx.artifacts.artifact import load_artifact, write_artifact
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError, DbtOnnxError
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry


def linear_contract(**changes: Any) -> Contract:
    parts: dict[str, Any] = {
        "features": (Feature(name="a"), Feature(name="b")),
        "inputs": (Input(name="x", dtype="float32", features=("a", "b")),),
        "outputs": (Output(name="y", kind="value", dtype="float32", columns=("y",)),),
    }
    return Contract(**{**parts, **changes})


def registered(root: Path, model: Any = None, contract: Contract | None = None) -> RegistryEntry:
    return write_artifact(
        root,
        (model or models.linear()).SerializeToString(),
        model_name="m",
        model_version="1",
        contract=contract or linear_contract(),
    )


def write(root: Path, model: Any = None, contract: Contract | None = None) -> RegistryEntry:
    """Register like a registry that does not vouch for cards, so that a card's content is checked by itself."""
    return replace(registered(root, model, contract), card_sha256=None)


def replaced(root: Path, entry: RegistryEntry, content: bytes) -> RegistryEntry:
    """Replace the model's bytes, and register the new ones with their own sha256."""
    sha256 = hashlib.sha256(content).hexdigest()
    (root / entry.artifact).write_bytes(content)
    change_card(root, sha256=sha256)
    return replace(entry, sha256=sha256)


def change_card(root: Path, **changes: Any) -> None:
    path = root / "m/1/card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(root: Path, entry: RegistryEntry, error: type[DbtOnnxError] = ArtifactError) -> str:
    with pytest.raises(error) as caught:
        load_artifact(root, entry)
    assert caught.value.hint
    return caught.value.message


def test_a_written_artifact_is_loaded_as_it_was_written(tmp_path: Path) -> None:
    content = models.linear().SerializeToString()
    artifact = load_artifact(tmp_path, write(tmp_path))
    assert artifact.model_bytes == content
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert artifact.contract == linear_contract()
    assert (artifact.model_name, artifact.model_version) == ("m", "1")
    assert artifact.path == tmp_path / "m/1/model.onnx"
    assert artifact.signature.inputs[0].name == "x"


def test_the_bytes_are_not_part_of_what_is_printed(tmp_path: Path) -> None:
    assert "MatMul" not in repr(load_artifact(tmp_path, write(tmp_path)))


def test_writing_the_same_model_twice_gives_the_same_card(tmp_path: Path) -> None:
    write(tmp_path)
    first = (tmp_path / "m/1/card.json").read_bytes()
    write(tmp_path)
    assert (tmp_path / "m/1/card.json").read_bytes() == first
    assert sorted(item.name for item in (tmp_path / "m/1").iterdir()) == ["card.json", "model.onnx"]


def test_writing_another_model_over_a_version_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ArtifactError, match="already exists and contains another model"):
        write(tmp_path, models.linear(metadata={"changed": "yes"}))


@pytest.mark.parametrize(
    "change",
    [
        {"features": (Feature(name="a", null_policy="fill", fill=99.0), Feature(name="b"))},
        {"outputs": (Output(name="y", kind="value", dtype="float32", columns=("z",)),)},
    ],
)
def test_writing_another_card_over_a_version_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    entry = registered(tmp_path)
    before = (tmp_path / "m/1/card.json").read_bytes()
    with pytest.raises(
        ArtifactError, match="already exists and contains another card of this model"
    ) as caught:
        registered(tmp_path, contract=linear_contract(**change))
    assert "choose a new version" in caught.value.hint
    assert (tmp_path / "m/1/card.json").read_bytes() == before
    assert registered(tmp_path) == entry


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace('"reject"', '"nan"', 1),
        lambda text: text.replace("\n", " \n", 1),
        lambda text: text + " ",
        lambda text: "{}",
    ],
)
def test_a_card_that_was_edited_is_refused_by_its_sha256(tmp_path: Path, edit: Any) -> None:
    entry = registered(tmp_path)
    path = tmp_path / "m/1/card.json"
    assert entry.card_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_artifact(tmp_path, entry).card_sha256 == entry.card_sha256
    content = edit(path.read_text())
    path.write_text(content)
    message = refusal(tmp_path, entry)
    assert "card.json is not the card that was registered with 'm/1'" in message
    assert hashlib.sha256(content.encode()).hexdigest() in message
    assert entry.card_sha256 in message


@pytest.mark.parametrize(
    ("name", "version", "fault"),
    [("M", "1", "has 'm', and 'M' differs"), ("m", "V1", "has 'v1', and 'V1' differs")],
)
def test_a_folder_that_differs_by_case_only_is_not_written(
    tmp_path: Path, name: str, version: str, fault: str
) -> None:
    registered(tmp_path)
    (tmp_path / "m" / "v1").mkdir()
    with pytest.raises(ArtifactError, match=fault):
        write_artifact(
            tmp_path,
            models.linear().SerializeToString(),
            model_name=name,
            model_version=version,
            contract=linear_contract(),
        )
    assert not (tmp_path / name / version).exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '{"format_version": 1, "parity": {"tolerance": 1e999}}',
            "1e999 is too large for a 64-bit number",
        ),
        ('{"format_version": 1, "parity": {"tolerance": -1e999}}', "-1e999 is too large"),
        ('{"format_version": 1, "format_version": 1}', "the key 'format_version' occurs twice"),
        ('{"a": {"b": [{"c": 1, "c": 2}]}}', "the key 'c' occurs twice in one object"),
    ],
)
def test_a_card_with_a_value_that_readers_differ_about_is_refused(
    tmp_path: Path, text: str, fault: str
) -> None:
    entry = write(tmp_path)
    (tmp_path / "m/1/card.json").write_text(text)
    message = refusal(tmp_path, entry)
    assert "card.json is not valid JSON: " in message
    assert fault in message


def test_line_ends_that_git_changes_are_no_other_card(tmp_path: Path) -> None:
    entry = registered(tmp_path)
    path = tmp_path / "m/1/card.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_artifact(tmp_path, entry).card_sha256 == entry.card_sha256
    assert registered(tmp_path) == entry


@pytest.mark.parametrize("name", ["../m", "", "m; rm -rf .", "m/1", ".hidden", "客户"])
def test_an_unsafe_name_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="the model's name"):
        write_artifact(
            tmp_path,
            models.linear().SerializeToString(),
            model_name=name,
            model_version="1",
            contract=linear_contract(),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/m").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="symbolic link"):
        write(tmp_path / "artifacts")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    entry = write(tmp_path)
    (tmp_path / entry.artifact).unlink()
    assert "model.onnx does not exist" in refusal(tmp_path, entry)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    entry = replace(write(tmp_path), artifact="n/1/model.onnx")
    assert f"({tmp_path / 'n'} is missing)" in refusal(tmp_path, entry)


def test_a_truncated_file_is_refused_by_its_sha256(tmp_path: Path) -> None:
    entry = write(tmp_path)
    content = (tmp_path / entry.artifact).read_bytes()
    (tmp_path / entry.artifact).write_bytes(content[:-1])
    message = refusal(tmp_path, entry)
    assert "is not the file that was registered as 'm/1'" in message
    assert entry.sha256 in message
    assert hashlib.sha256(content[:-1]).hexdigest() in message
    assert f"({len(content) - 1:,} bytes)" in message


def test_each_of_200_flipped_bits_is_refused_by_the_sha256(tmp_path: Path) -> None:
    entry = write(tmp_path)
    content = (tmp_path / entry.artifact).read_bytes()
    bits = random.Random(7).sample(range(8 * len(content)), 200)
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / entry.artifact).write_bytes(flipped)
        assert "its sha256 is" in refusal(tmp_path, entry)


def test_a_git_lfs_pointer_is_told_apart(tmp_path: Path) -> None:
    entry = write(tmp_path)
    (tmp_path / entry.artifact).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ArtifactError) as caught:
        load_artifact(tmp_path, entry)
    assert "git lfs pull" in caught.value.hint


def test_registered_bytes_that_are_no_model_are_refused(tmp_path: Path) -> None:
    entry = replaced(tmp_path, write(tmp_path), b"hello")
    assert "is not an ONNX model" in refusal(tmp_path, entry)


def test_registered_bytes_with_external_data_are_refused(tmp_path: Path) -> None:
    model = models.linear()
    model.graph.initializer[0].CopyFrom(models.external(location="card.json"))
    entry = replaced(tmp_path, write(tmp_path), model.SerializeToString())
    assert "external data, in the file 'card.json'" in refusal(tmp_path, entry)


def test_registered_bytes_with_a_foreign_operator_are_refused(tmp_path: Path) -> None:
    model = models.linear()
    model.graph.node[0].domain = "evil"
    entry = replaced(tmp_path, write(tmp_path), model.SerializeToString())
    assert "unknown domain 'evil'" in refusal(tmp_path, entry)


@pytest.mark.parametrize(
    "artifact",
    ["../m/1/model.onnx", "m/../../x", "/etc/passwd", "m/1/./model.onnx", "", "m\\1", "m/1/\n"],
)
def test_a_path_out_of_the_artifacts_is_refused(tmp_path: Path, artifact: str) -> None:
    entry = replace(write(tmp_path), artifact=artifact)
    assert "the path is not safe" in refusal(tmp_path, entry)


@pytest.mark.parametrize(
    "artifact", ["'; drop table m; --", "$(touch x)", "m/1/`y`", "m/1/\uff0e."]
)
def test_a_name_that_sql_or_a_shell_would_run_is_refused(tmp_path: Path, artifact: str) -> None:
    entry = replace(write(tmp_path), artifact=artifact)
    assert "has a part that is not valid: it must consist of at most 128 letters" in refusal(
        tmp_path, entry
    )


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path, replace(write(tmp_path), artifact="m/1"))


def test_a_file_taken_for_a_directory_is_refused(tmp_path: Path) -> None:
    entry = replace(write(tmp_path), artifact="m/1/model.onnx/model.onnx")
    assert "does not exist" in refusal(tmp_path, entry)


@pytest.mark.parametrize("link", ["m/1/model.onnx", "m/1", "m"])
def test_a_symbolic_link_anywhere_below_the_artifacts_is_refused(tmp_path: Path, link: str) -> None:
    root = tmp_path / "artifacts"
    entry = write(root)
    (root / link).rename(tmp_path / "moved")
    (root / link).symlink_to(tmp_path / "moved")
    assert f"{root / link} is a symbolic link" in refusal(root, entry)


def test_a_symbolic_link_in_place_of_the_card_is_refused(tmp_path: Path) -> None:
    entry = write(tmp_path / "artifacts")
    card = tmp_path / "artifacts/m/1/card.json"
    card.rename(tmp_path / "card.json")
    card.symlink_to(tmp_path / "card.json")
    assert f"{card} is a symbolic link" in refusal(tmp_path / "artifacts", entry)


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "artifacts"
    entry, other = write(root), tmp_path / "outside"
    (root / "m/1").rename(other)
    (other / "model.onnx").write_bytes(b"secret")
    (root / "m/1").mkdir()
    (root / "m/1/model.onnx").write_bytes(b"")
    lstat = os.lstat

    def swap(place: Any, **settings: Any) -> os.stat_result:
        status = lstat(place, **settings)
        if str(place).endswith("model.onnx"):  # by now all folders have been checked
            (root / "m/1").rename(root / "m/before")
            (root / "m/1").symlink_to(other)
        return status

    monkeypatch.setattr(os, "lstat", swap)
    assert f"its sha256 is {hashlib.sha256(b'').hexdigest()} (0 bytes)" in refusal(root, entry)


def test_the_artifacts_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    entry = write(tmp_path / "artifacts")
    (tmp_path / "link").symlink_to(tmp_path / "artifacts")
    assert load_artifact(tmp_path / "link", entry).sha256 == entry.sha256


def test_a_hard_link_to_another_file_is_refused_by_its_sha256(tmp_path: Path) -> None:
    entry = write(tmp_path / "artifacts")
    (tmp_path / "secret").write_text("secret")
    path = tmp_path / "artifacts" / entry.artifact
    path.unlink()
    path.hardlink_to(tmp_path / "secret")
    message = refusal(tmp_path / "artifacts", entry)
    assert "its sha256 is" in message


def test_a_named_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    entry = write(tmp_path)
    (tmp_path / entry.artifact).unlink()
    os.mkfifo(tmp_path / entry.artifact)
    assert "is not a regular file" in refusal(tmp_path, entry)


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    entry = write(tmp_path)
    (tmp_path / "m/1/card.json").unlink()
    assert "card.json does not exist" in refusal(tmp_path, entry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ('{"format_version": NaN}', "NaN is not a JSON value"),
        ("[" * 100_000, "is not valid JSON"),
        ("[1]", "contains a list"),
        ("{}", "has format_version None; this dbt_onnx reads 1"),
        ('{"format_version": 2}', "has format_version 2"),
        ('{"format_version": 1}', "no model_name; no model_version; no sha256; no contract"),
    ],
)
def test_a_card_that_cannot_be_read_is_refused(tmp_path: Path, text: str, message: str) -> None:
    entry = write(tmp_path)
    (tmp_path / "m/1/card.json").write_text(text)
    assert message in refusal(tmp_path, entry)


@pytest.mark.parametrize(
    ("key", "value"), [("model_name", "n"), ("model_version", "2"), ("sha256", "0" * 64)]
)
def test_the_card_of_another_model_is_refused(tmp_path: Path, key: str, value: str) -> None:
    entry = write(tmp_path)
    change_card(tmp_path, **{key: value})
    message = refusal(tmp_path, entry)
    assert "does not belong to model 'm/1'" in message
    assert f"{key} is {value!r} in the card and {getattr(entry, key)!r} in the registry" in message


def test_a_contract_of_unknown_form_is_refused(tmp_path: Path) -> None:
    entry = write(tmp_path)
    change_card(tmp_path, contract={"features": [{"naem": "a"}]})
    assert "naem" in refusal(tmp_path, entry, ContractError)


X, Y = linear_contract().inputs[0], linear_contract().outputs[0]
CLASSES = Output(
    name="probabilities",
    kind="probabilities",
    dtype="float32",
    columns=("p0", "p1"),
    classes=(0, 1),
)
LABEL = Output(name="label", kind="label", dtype="int64", columns=("label",))


@pytest.mark.parametrize(
    ("model", "changes", "fault"),
    [
        (models.linear(), {"inputs": (replace(X, name="z"),)}, "the graph has no input 'z'"),
        (models.linear(), {"inputs": (replace(X, name="z"),)}, "the card does not feed input 'x'"),
        (models.linear(), {"inputs": (replace(X, dtype="float64"),)},
         "input 'x' is float64 in the card and float32 in the graph"),
        (models.linear(), {"features": (Feature(name="a"),),
                           "inputs": (replace(X, features=("a",), rank=1),)},
         "input 'x' has rank 1 in the card and 2 in the graph"),
        (models.linear(), {"features": (Feature(name="a", width=2), Feature(name="b"))},
         "input 'x' takes 2 value(s) per row, but the card's features give 3"),
        (models.linear(), {"outputs": (replace(Y, name="z"),)}, "the graph has no output 'z'"),
        (models.linear(), {"outputs": (replace(Y, dtype="float64"),)},
         "output 'y' is float64 in the card and float32 in the graph"),
        (models.linear(), {"outputs": (replace(Y, kind="label"),)},
         "output 'y' gives labels of type float32, not integers or text"),
        (models.classifier(), {"outputs": (replace(CLASSES, name="label", dtype="int64"),)},
         "gives probabilities of type int64, not of a floating-point type"),
        (models.classifier(), {"outputs": (replace(CLASSES, classes=(1, 0)),)},
         "has classes [1, 0] in the card and [0, 1] in the graph"),
        (models.classifier(zipmap=True), {"outputs": (replace(CLASSES, kind="values"),)},
         "is values in the card and a map_sequence in the graph"),
        (models.classifier(zipmap=True), {"outputs": (replace(CLASSES, classes=("0", "1")),)},
         "has int64 keys"),
    ],
)  # fmt: skip
def test_a_contract_that_is_not_the_graphs_is_refused(
    tmp_path: Path, model: Any, changes: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ContractError) as caught:
        write(tmp_path, model, linear_contract(**changes))
    assert "card and graph disagree" in caught.value.message
    assert fault in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("zipmap", [False, True])
def test_a_classifiers_contract_is_accepted(tmp_path: Path, zipmap: bool) -> None:
    contract = linear_contract(outputs=(LABEL, CLASSES))
    entry = write(tmp_path, models.classifier(zipmap=zipmap), contract)
    assert load_artifact(tmp_path, entry).contract == contract


def test_a_zipmap_is_read_and_not_run(tmp_path: Path) -> None:
    contract = linear_contract(outputs=(LABEL, CLASSES))
    model = models.classifier(zipmap=True)
    artifact = load_artifact(tmp_path, write(tmp_path, model, contract))
    assert b"ZipMap" in artifact.model_bytes
    assert b"ZipMap" not in artifact.scoring_bytes


def test_loading_compares_card_and_graph_too(tmp_path: Path) -> None:
    entry = write(tmp_path)
    other = linear_contract(outputs=(replace(Y, name="z"),))
    change_card(tmp_path, contract=other.to_dict())
    message = refusal(tmp_path, entry, ContractError)
    assert "card and graph disagree: the graph has no output 'z'" in message
    assert str(tmp_path / entry.artifact) in message


def test_an_artifact_straight_below_the_root_is_loaded(tmp_path: Path) -> None:
    entry = write(tmp_path)
    for name in ("model.onnx", "card.json"):
        (tmp_path / "m/1" / name).rename(tmp_path / name)
    assert load_artifact(tmp_path, replace(entry, artifact="model.onnx")).sha256 == entry.sha256


def test_a_card_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    entry = write(tmp_path)
    with (tmp_path / "m/1/card.json").open("r+b") as stream:
        stream.truncate(2**26 + 1)
    assert "at most 67,108,864 are read" in refusal(tmp_path, entry)


def test_loading_takes_no_more_memory_than_the_files_need(tmp_path: Path) -> None:
    entry = write(tmp_path)
    # the first call also imports modules, which should not be counted
    load_artifact(tmp_path, entry)
    tracemalloc.start()
    try:
        load_artifact(tmp_path, entry)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
