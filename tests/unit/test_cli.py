"""`inspect`, `register` and `verify` as they are called from a shell."""

from __future__ import annotations

import csv
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_models as models
import pytest
from click.testing import CliRunner, Result
from onnx import helper

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.artifacts.artifact import Artifact


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(item) for item in arguments], env={"COLUMNS": "200"})
    # a command may end only with SystemExit
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


class Project:
    """An empty dbt project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = folder / "seeds/model_registry.csv"

    def save(self, model: Any) -> Path:
        path = self.folder / "some model.onnx"
        onnx.save(model, path)
        return path

    def register(self, model: Any, *options: object, version: str = "1") -> Result:
        names = ("--name", "m", "--version", version, "--project-dir", self.folder)
        return run("register", self.save(model), *names, *options)

    def registered(self, model: Any, *options: object, version: str = "1") -> Artifact:
        result = self.register(model, *options, version=version)
        assert result.exit_code == 0, result.output
        return self.load(version)

    def load(self, version: str = "1") -> Artifact:
        entry = Registry.from_csv(self.registry).resolve(f"m/{version}")
        return load_artifact(self.folder / "artifacts", entry)

    def verify(self) -> Result:
        return run("verify", "--project-dir", self.folder)

    def rows(self) -> list[dict[str, str]]:
        with self.registry.open(newline="") as stream:
            return list(csv.DictReader(stream))

    def change_card(self, **changes: Any) -> None:
        path = self.folder / "artifacts/m/1/card.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        # no card_sha256, so that the card's content is checked by itself
        rows = self.rows()
        rows[0]["card_sha256"] = ""
        with self.registry.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def stored(artifact: Artifact) -> list[tuple[str, str]]:
    return [(field.name, str(field.type)) for field in artifact.contract.output_fields()]


AB = ("--features", "a,b")


def test_a_registered_model_is_the_file_its_card_and_a_row(project: Project) -> None:
    artifact = project.registered(models.linear(), *AB, "--alias", "champion")
    assert artifact.model_bytes == models.linear().SerializeToString()
    assert project.rows() == [
        {
            "model_name": "m",
            "model_version": "1",
            "alias": "champion",
            "artifact": "m/1/model.onnx",
            "sha256": artifact.sha256,
            "card_sha256": hashlib.sha256(
                (project.folder / "artifacts/m/1/card.json").read_bytes()
            ).hexdigest(),
        }
    ]
    assert artifact.contract.feature_names == ("a", "b")
    assert stored(artifact) == [("prediction", "float")]


def test_the_sample_in_the_card_is_what_the_formula_gives(project: Project) -> None:
    parity = project.registered(models.linear(), *AB).card["parity"]
    a, b = np.array(parity["features"]["a"]), np.array(parity["features"]["b"])
    assert len(set(zip(a, b, strict=True))) > 10
    np.testing.assert_allclose(parity["outputs"]["prediction"], 2 * a - b + 0.5, rtol=1e-6)


@pytest.mark.parametrize("text", ["a,b", "a, b", '["a", "b"]'])
def test_names_in_the_files_metadata_are_used(project: Project, text: str) -> None:
    model = models.linear(metadata={"feature_names": text})
    assert project.registered(model).contract.feature_names == ("a", "b")


def test_the_option_goes_before_the_metadata(project: Project) -> None:
    model = models.linear(metadata={"feature_names": "x1,x2"})
    assert project.registered(model, *AB).contract.feature_names == ("a", "b")


def test_one_input_per_column_names_the_features(project: Project) -> None:
    contract = project.registered(models.columns()).contract
    assert [(item.name, item.features, item.rank) for item in contract.inputs] == [
        ("a", ("a",), 2),
        ("b", ("b",), 1),
    ]


def test_an_open_width_is_what_the_features_give(project: Project) -> None:
    model = models.linear(shape=["n", None])
    assert project.registered(model, *AB).contract.inputs[0].features == ("a", "b")


def test_a_list_column_is_a_feature_of_several_values(project: Project) -> None:
    artifact = project.registered(models.linear(), "--features", "e[2]")
    assert artifact.contract.feature("e").width == 2
    assert all(len(item) == 2 for item in artifact.card["parity"]["features"]["e"])
    assert project.verify().exit_code == 0


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (["n", 2], (), "does not name its features"),
        (["n", 2], ("--features", "a"), "match the 1 value(s) of a: it takes 2 for input 'x'"),
        (
            ["n", 2],
            ("--features", "a,b,c"),
            "match the 3 value(s) of a, b, c: it takes 2 for input 'x'",
        ),
        (["n", 2], ("--features", "a,a"), "feature 'a' is named twice"),
        (["n", 2], ("--features", "__dbt_onnx_key_0,b"), "reserved prefix"),
        (["n", 2], ("--features", "a\x00,b"), "without NUL characters"),
        (["n", 2, 1], AB, "has 3 axes"),
        (["n", 2], (*AB, "--output", "y=status"), "collides with a column of the ledger"),
        (["n", 2], (*AB, "--output", "y="), "no output column is stored"),
        (["n", 2], (*AB, "--output", "y=p,q"), "fills 1 column(s), but 2 name(s) are given"),
        (["n", 2], (*AB, "--output", "y:probabilities=p"), "for the classes []"),
    ],
)
def test_what_cannot_be_described_is_refused_and_nothing_is_written(
    project: Project, shape: Any, options: tuple[str, ...], message: str
) -> None:
    result = project.register(models.linear(shape=shape), *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Hint: " in result.stderr
    assert not (project.folder / "artifacts").exists()
    assert not project.registry.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--name", "../m"), "--name '../m'"),
        (("--version", "$(id)"), "--version '$(id)'"),
        (("--alias", "Champion!"), "alias 'Champion!'"),
        (("--output", "z=y"), "--output names output 'z'; the model has y"),
        (("--output", "y:nothing=y"), "--output names output 'y:nothing'"),
        (("--output", "y"), "--output 'y' is not of the form NAME=VALUE"),
        (("--output", "y=a", "--output", "y=b"), "given twice"),
        (("--classes", "z=a,b"), "--classes names output 'z'"),
        (("--null-policy", "a=maybe"), "'maybe' is not one of reject, nan"),
        (("--null-policy", "z=nan"), "there is no feature 'z'; the features are a, b"),
        (("--fill", "a=much"), "the fill value 'much' of feature 'a' is not of type float32"),
        (("--time-unit", "a=year"), "'year' is not one of day, hour"),
        (("--time-unit", "*=day"), "there is no feature '*'; the features are a, b"),
    ],
)
def test_a_wrong_option_is_a_usage_error(
    project: Project, options: tuple[str, ...], message: str
) -> None:
    result = project.register(models.linear(), *AB, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not project.registry.exists()


def test_a_missing_option_is_a_usage_error(project: Project) -> None:
    result = run("register", project.save(models.linear()), "--name", "m")
    assert result.exit_code == 2
    assert "--version" in result.stderr


def test_policies_fills_and_time_units_are_in_the_contract(project: Project) -> None:
    options = ("--null-policy", "*=nan", "--fill", "b=1.5", "--time-unit", "a=day")
    artifact = project.registered(models.linear(), *AB, *options)
    a, b = artifact.contract.features
    assert (a.null_policy, a.fill, a.time_unit) == ("nan", None, "day")
    assert (b.null_policy, b.fill, b.time_unit) == ("fill", 1.5, None)
    assert artifact.card["parity"]["features"]["a"][0].startswith("1970-01-01")
    assert project.verify().exit_code == 0


def test_binary_probabilities_fill_one_column(project: Project) -> None:
    artifact = project.registered(models.classifier(), *AB)
    assert stored(artifact) == [("label", "int64"), ("probability", "float")]
    assert artifact.contract.outputs[1].columns == (None, "probability")
    assert artifact.contract.outputs[1].classes == (0, 1)


@pytest.mark.parametrize("zipmap", [False, True])
def test_each_of_several_classes_has_its_column(project: Project, zipmap: bool) -> None:
    artifact = project.registered(models.classifier(["no", "yes", "hm"], zipmap=zipmap), *AB)
    assert artifact.contract.outputs[1].classes == ("no", "yes", "hm")
    assert [name for name, _ in stored(artifact)] == [
        "label", "probability_no", "probability_yes", "probability_hm",
    ]  # fmt: skip
    sample = artifact.card["parity"]["outputs"]
    most = [
        max((sample[f"probability_{label}"][row], label) for label in ("no", "yes", "hm"))
        for row in range(1, 16)
    ]
    ties = [row for row in range(1, 16) if sample["probability_no"][row] == pytest.approx(1 / 3)]
    assert len(ties) < 5
    for row, (_, label) in enumerate(most, start=1):
        assert row in ties or sample["label"][row] == label


def test_columns_of_probabilities_can_be_chosen(project: Project) -> None:
    options = ("--output", "probabilities=-,p_yes,p_hm", "--output", "label=")
    artifact = project.registered(models.classifier(["no", "yes", "hm"]), *AB, *options)
    assert [name for name, _ in stored(artifact)] == ["p_yes", "p_hm"]


def test_classes_that_the_file_hides_can_be_given(project: Project) -> None:
    model = models.classifier([0, 1, 2])
    del model.graph.output[0]
    model.graph.node[-1].CopyFrom(
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1)
    )
    assert stored(project.registered(model, *AB)) == [
        ("probabilities", "fixed_size_list<item: float>[3]")
    ]
    options = ("--classes", "probabilities=a,b,c", "--output", "probabilities:probabilities=-,-,c")
    artifact = project.registered(model, *AB, *options, version="2")
    assert artifact.contract.outputs[0].classes == ("a", "b", "c")
    assert stored(artifact) == [("c", "float")]


def test_a_matrix_is_a_vector_or_columns_by_its_names(project: Project) -> None:
    assert stored(project.registered(models.vector(3), *AB)) == [
        ("embedding", "fixed_size_list<item: float>[3]")
    ]
    split = project.registered(
        models.vector(3), *AB, "--output", "embedding=one,two,three", version="2"
    )
    assert [name for name, _ in stored(split)] == ["one", "two", "three"]
    assert split.contract.outputs[0].kind == "values"


def test_an_output_with_a_colon_in_its_name_can_be_named(project: Project) -> None:
    model = models.vector(3, name="Identity:0")
    options = ("--output", "Identity:0=e")
    assert project.registered(model, *AB, *options).contract.outputs[0].kind == "vector"
    options = ("--output", "Identity:0:values=e,f,-")
    artifact = project.registered(model, *AB, *options, version="2")
    assert [name for name, _ in stored(artifact)] == ["e", "f"]


def test_several_values_keep_the_names_of_their_outputs(project: Project) -> None:
    model = models.linear()
    model.graph.node.append(helper.make_node("Neg", ["y"], ["z"]))
    model.graph.output.append(models.tensor("z", ["n", 1]))
    assert [name for name, _ in stored(project.registered(model, *AB))] == ["y", "z"]


def test_a_shape_that_the_file_declares_wrongly_does_not_matter(project: Project) -> None:
    model = models.linear()
    model.graph.output[0].CopyFrom(models.tensor("y", ["n"]))
    assert stored(project.registered(model, *AB)) == [("prediction", "float")]


def test_a_model_of_one_row_at_a_time_is_registered_with_a_warning(project: Project) -> None:
    result = project.register(models.linear(shape=[1, 2]), *AB)
    assert result.exit_code == 0
    assert "Warning: the batch is fixed at 1" in result.stdout
    assert project.verify().exit_code == 0


def test_rows_that_influence_each_other_are_refused(project: Project) -> None:
    model = models.linear()
    model.graph.node[1].output[0] = "u"
    model.graph.node.append(helper.make_node("Softmax", ["u"], ["y"], axis=0))
    result = project.register(model, *AB)
    assert result.exit_code == 1
    assert "changes with the rows scored beside it" in result.stderr


def test_another_number_of_rows_is_refused(project: Project) -> None:
    model = models.linear()
    model.graph.node[1].output[0] = "u"
    model.graph.node.append(helper.make_node("ReduceSum", ["u"], ["y"]))
    result = project.register(model, *AB)
    assert result.exit_code == 1
    assert "has shape [1, 1] for 16 rows" in result.stderr


def test_a_version_is_registered_once(project: Project) -> None:
    first = project.registered(models.linear(), *AB)
    result = project.register(models.vector(), *AB)
    assert result.exit_code == 2
    assert "version '1' of model 'm' is already registered" in result.stderr
    assert first.sha256 in result.stderr
    assert project.load().model_bytes == first.model_bytes


@pytest.mark.parametrize(("name", "version"), [("M", "9"), ("m", "V1")])
def test_a_name_that_differs_by_case_only_is_not_registered(
    project: Project, name: str, version: str
) -> None:
    project.registered(models.linear(), *AB, version="v1")
    before = project.registry.read_bytes()
    names = ("--name", name, "--version", version, "--project-dir", project.folder)
    result = run("register", project.save(models.linear()), *names, *AB)
    assert result.exit_code == 2
    assert "differs from it only in letter case" in result.stderr
    assert project.registry.read_bytes() == before
    assert [item.name for item in (project.folder / "artifacts").iterdir()] == ["m"]


def test_an_alias_is_moved_only_on_demand(project: Project) -> None:
    project.registered(models.linear(), *AB, "--alias", "champion")
    result = project.register(models.vector(), *AB, "--alias", "champion", version="2")
    assert result.exit_code == 2
    assert "alias 'champion' of model 'm' belongs to version '1'" in result.stderr
    assert not (project.folder / "artifacts/m/2").exists()
    project.registered(models.vector(), *AB, "--alias", "champion", "--move-alias", version="2")
    assert [row["alias"] for row in project.rows()] == ["", "champion"]


def test_other_columns_and_models_of_the_seed_stay(project: Project) -> None:
    project.registry.parent.mkdir()
    project.registry.write_text(
        "model_name,model_version,alias,artifact,sha256,owner\n"
        f'other,7,champion,other/7/model.onnx,{"0" * 64},"Ann, Bob"\n'
    )
    project.registered(models.linear(), *AB, "--alias", "champion")
    first, second = project.rows()
    assert (first["alias"], first["owner"]) == ("champion", "Ann, Bob")
    assert (second["model_name"], second["owner"]) == ("m", "")


def test_a_broken_seed_stops_registration(project: Project) -> None:
    project.registry.parent.mkdir()
    project.registry.write_text("model_name,model_version\n")
    result = project.register(models.linear(), *AB)
    assert result.exit_code == 2
    assert "has no column alias" in result.stderr
    assert project.registry.read_text() == "model_name,model_version\n"


def test_a_hostile_file_is_neither_inspected_nor_registered(project: Project) -> None:
    model = models.linear()
    model.graph.initializer[0].CopyFrom(models.external())
    for result in (project.register(model, *AB), run("inspect", project.save(model))):
        assert result.exit_code == 1
        assert "as external data" in result.stderr
    assert not (project.folder / "artifacts").exists()


@pytest.mark.parametrize("name", ["absent.onnx", "."])
def test_a_file_that_is_not_there_is_refused(project: Project, name: str) -> None:
    result = run("inspect", project.folder / name)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


def test_inspect_shows_what_a_model_wants_and_gives(project: Project) -> None:
    path = project.save(models.classifier(["no", "yes"], zipmap=True))
    result = run("inspect", path)
    assert result.exit_code == 0
    for text in ("(n, 2)", "float32", "map string to float32", "no, yes", "first axis"):
        assert text in result.stdout
    assert "does not name its features" in result.stdout
    assert "--features" in result.stdout


def test_names_that_nest_too_deep_to_be_read_name_no_features(project: Project) -> None:
    model = models.linear(metadata={"feature_names": "[" * 200_000})
    result = run("inspect", project.save(model))
    assert (result.exit_code, result.exception) == (0, None)
    assert "does not name its features" in result.stdout


def test_inspect_shows_the_columns_of_a_model_that_says_enough(project: Project) -> None:
    result = run("inspect", project.save(models.linear(metadata={"feature_names": "age,income"})))
    for text in ("age", "income", "prediction", "dbt-onnx register"):
        assert text in result.stdout


def test_text_from_a_file_neither_steers_the_terminal_nor_is_markup(project: Project) -> None:
    odd = "\x1b[31m[bold]a[/bold]"
    result = run("inspect", project.save(models.linear(metadata={"feature_names": f"{odd},b"})))
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "\\x1b[31m[bold]a[/bold]" in result.stdout


def test_verify_passes_what_was_registered(project: Project) -> None:
    project.registered(models.linear(), *AB, "--alias", "champion")
    project.registered(models.classifier(["no", "yes"], zipmap=True), *AB, version="2")
    result = project.verify()
    assert result.exit_code == 0
    assert result.stdout.count("16 rows") == 2
    assert "FAILED" not in result.stdout


def test_verify_reads_another_seed(project: Project) -> None:
    project.registered(models.linear(), *AB)
    moved = project.registry.rename(project.folder / "registry.csv")
    assert project.verify().exit_code == 2
    result = run("verify", "--project-dir", project.folder, "--registry", moved.name)
    assert result.exit_code == 0


def test_verify_fails_each_row_for_its_own_reason(project: Project) -> None:
    for version in "1234":
        project.registered(models.linear(), *AB, version=version)
    folder = project.folder / "artifacts/m"
    (folder / "1/model.onnx").unlink()
    (folder / "2/model.onnx").write_bytes(b"x")
    (folder / "3/card.json").unlink()
    result = project.verify()
    assert result.exit_code == 1
    assert result.stdout.count("FAILED") == 3
    for text in ("m/1: ", "does not exist", "m/2: ", "its sha256 is", "m/3: ", "card.json"):
        assert text in result.stdout
    assert "m/4: " not in result.stdout
    assert result.stdout.count("Hint: ") == 3


def test_verify_compares_the_sample_with_the_card(project: Project) -> None:
    parity = project.registered(models.linear(), *AB).card["parity"]
    near = [value + 1e-6 for value in parity["outputs"]["prediction"]]
    project.change_card(parity={**parity, "outputs": {"prediction": near}})
    assert project.verify().exit_code == 0
    far = [value + 1e-3 for value in parity["outputs"]["prediction"]]
    project.change_card(parity={**parity, "outputs": {"prediction": far}})
    result = project.verify()
    assert result.exit_code == 1
    assert (
        "the model no longer gives the outputs in its card: prediction: row 1 is" in result.stdout
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": {"prediction": [1.0]}}, "1 values in the card, but 16 were scored"),
        ({"outputs": {"other": [1.0]}}, "the sample has columns ['other'], not ['prediction']"),
        ({"outputs": {"prediction": [None] * 16}}, "the card says None"),
        ({"features": {"a": [1.0] * 16}}, "'b'"),
        ({"features": {"a": [1.0], "b": [1.0, 2.0]}}, "the card's sample cannot be read"),
        ({"features": {"a": [{"x": 1}], "b": [1.0]}}, "'a'"),
        ({"features": {"a": ["x"] * 16, "b": [1.0] * 16}}, "'a'"),
        ({"features": 7}, "not a dict of lists"),
        ({"tolerance": "wide"}, "not a dict of lists"),
    ],
)
def test_verify_survives_any_sample(project: Project, change: dict[str, Any], message: str) -> None:
    parity = project.registered(models.linear(), *AB).card["parity"]
    project.change_card(parity={**parity, **change})
    result = project.verify()
    assert result.exit_code == 1
    assert message in result.stdout


def test_a_card_without_a_sample_is_told(project: Project) -> None:
    project.registered(models.linear(), *AB)
    project.change_card(parity={})
    result = project.verify()
    assert result.exit_code == 0
    assert "no sample" in result.stdout


def test_a_card_that_was_edited_fails_its_version_only(project: Project) -> None:
    project.registered(models.linear(), *AB)
    project.registered(models.vector(), *AB, version="2")
    path = project.folder / "artifacts/m/1/card.json"
    path.write_text(path.read_text().replace('"reject"', '"nan"', 1))
    result = project.verify()
    assert result.exit_code == 1
    assert result.stdout.count("FAILED") == 1
    assert "m/1: " in result.stdout
    assert "card.json is not the card that was registered with 'm/1'" in result.stdout


def of_today(project: Project, *versions: str) -> None:
    """A registry without card_sha256, with a user's column and one row longer than the header."""
    for version in versions:
        project.registered(models.linear(), *AB, version=version)
    lines = project.registry.read_text().splitlines()
    shorter = [line.rpartition(",")[0] for line in lines]
    owned = [f"{line},ann" for line in shorter[1:-1]]
    owned.append(f"{shorter[-1]},bob,and,more")
    project.registry.write_text("\n".join([f"{shorter[0]},owner", *owned, ""]))


def test_a_registry_of_today_is_told_and_filled_by_one_command(project: Project) -> None:
    of_today(project, "1", "2", "3")
    result = project.verify()
    assert result.exit_code == 0
    assert "has no card_sha256 for m/1, m/2, m/3" in result.stdout
    assert "`dbt-onnx verify --record-cards` fills it" in result.stdout
    (project.folder / "artifacts/m/2/model.onnx").write_bytes(b"x")
    result = run("verify", "--project-dir", project.folder, "--record-cards")
    assert result.exit_code == 1
    assert "recorded 2 cards in seeds/model_registry.csv" in result.stdout
    assert "+column_types: {card_sha256: string}" in result.stdout
    assert "dbt seed --full-refresh -s model_registry" in result.stdout
    with project.registry.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == [
        "model_name", "model_version", "alias", "artifact", "sha256", "owner", "card_sha256",
    ]  # fmt: skip
    digests = [
        hashlib.sha256((project.folder / f"artifacts/m/{n}/card.json").read_bytes()).hexdigest()
        for n in "123"
    ]
    assert [row[5:] for row in rows] == [
        ["ann", digests[0]],
        ["ann"],
        ["bob", digests[2], "and", "more"],
    ]
    # from now on the cards are checked against it, and a second call changes nothing
    path = project.folder / "artifacts/m/1/card.json"
    path.write_text(path.read_text() + " ")
    before = project.registry.read_bytes()
    result = run("verify", "--project-dir", project.folder, "--record-cards")
    assert "m/1: " in result.stdout
    assert "recorded 0 cards" in result.stdout
    assert project.registry.read_bytes() == before


def test_a_version_registered_in_a_registry_of_today_adds_no_column(project: Project) -> None:
    of_today(project, "1")
    project.registered(models.linear(), *AB, version="2")
    assert "card_sha256" not in project.registry.read_text()
    assert "has no card_sha256 for m/1, m/2" in project.verify().stdout


def test_what_an_interrupted_registration_has_left_is_told(project: Project) -> None:
    project.registered(models.linear(), *AB)
    project.registered(models.linear(), *AB, version="2")
    lines = project.registry.read_text().splitlines(keepends=True)
    project.registry.write_text("".join(lines[:-1]))
    (project.folder / "artifacts/m/3").mkdir()
    (project.folder / "artifacts/m/3/.model.onnx.k2j1").write_bytes(b"cut sho")
    result = project.verify()
    assert result.exit_code == 0
    for version in "23":
        text = (
            f"{project.folder}/artifacts/m/{version} is not registered: `register` was interrupted"
        )
        assert text in " ".join(result.stdout.split())
    # repeating the command completes the registration
    project.registered(models.linear(), *AB, version="2")
    assert "m/2 is not registered" not in project.verify().stdout


def test_two_champions_stop_verify(project: Project) -> None:
    project.registered(models.linear(), *AB, "--alias", "champion")
    project.registered(models.vector(), *AB, version="2")
    text = project.registry.read_text().replace("m,2,,", "m,2,champion,")
    project.registry.write_text(text)
    result = project.verify()
    assert result.exit_code == 2
    assert "model 'm' has 2 versions with alias 'champion': 1, 2" in result.stderr


def test_the_version_of_the_program_is_told() -> None:
    assert run("--version").stdout.startswith("dbt-onnx, version 0.1.0")
