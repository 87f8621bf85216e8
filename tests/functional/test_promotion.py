"""The gate in a dbt project: what it refuses and why, what an override lets through, and what is then served."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from scipy import stats
from scoring_project import ScoringProject
from warehouse import line_contract, line_model

from dbt_onnx.artifacts.registry import CHAMPION, Registry
from dbt_onnx.cli import main
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output
from dbt_onnx.project.dbt_project import DbtProject
from dbt_onnx.project.gate_check import run_gate
from dbt_onnx.promotion.gate import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dbt_onnx.promotion.gate import Check

ROWS = 40
RISK = Contract(
    features=(Feature(name="a"), Feature(name="b")),
    inputs=(Input(name="X", dtype="float32", features=("a", "b")),),
    outputs=(
        Output(name="label", kind="label", dtype="int64", columns=("is_risk",)),
        Output(
            name="p", kind="probabilities", dtype="float32", columns=(None, "risk"), classes=(0, 1)
        ),
    ),
)


def graph(nodes: list[Any], outputs: list[Any], **constants: Any) -> bytes:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["N", 2])],
        outputs,
        [
            helper.make_tensor(name, kind, np.shape(values), np.ravel(values))
            for name, (kind, values) in constants.items()
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def risk_model(slope: float, offset: float) -> bytes:
    """Return risk = 1 / (1 + exp(-slope * a - offset)), with is_risk where risk is above a half."""
    nodes = [
        helper.make_node("Gemm", ["X", "W", "c"], ["z"]),
        helper.make_node("Sigmoid", ["z"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["p"], axis=1),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, ["N"]),
        helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 2]),
    ]
    kind = TensorProto.FLOAT
    return graph(
        nodes, outputs, W=(kind, [[slope], [0.0]]), c=(kind, [offset]), one=(kind, [[1.0]])
    )


def broken_model(node: str, *inputs: str, **constants: Any) -> bytes:
    """Return y = the node's result on (X, constants), summed by row."""
    nodes = [
        helper.make_node(node, ["X", *inputs], ["u"]),
        helper.make_node("ReduceSum", ["u", "axes"], ["y"], keepdims=1),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    return graph(nodes, outputs, axes=(TensorProto.INT64, [1]), **constants)


class Shop(ScoringProject):
    """A built project with the champions line/1 (y = 2a - b + 0.5) and risk/1, and two scoring models."""

    def register_version(self, name: str, version: str, model: bytes, contract: Contract) -> None:
        self.register(version, model, contract, name=name, alias="")

    def examine(self, spec: str, project: DbtProject, **limits: Any) -> dict[str, Check]:
        registry = Registry.from_csv(self.root / "seeds" / "model_registry.csv")
        entry = registry.resolve(spec)
        champion = next(
            (
                item
                for item in registry.entries
                if (item.model_name, item.alias) == (entry.model_name, CHAMPION)
            ),
            None,
        )
        checks = run_gate(
            project,
            entry,
            champion,
            artifacts=self.root / "artifacts",
            limits=Limits(**limits),
        )
        assert len({check.name for check in checks}) == len(checks)
        assert all(bool(check.fault) == (check.verdict == "failed") for check in checks)
        assert all(check.hint for check in checks if check.fault)
        return {check.name: check for check in checks}

    def seeds(self) -> tuple[str, str | None]:
        promotions = self.root / "seeds" / "model_promotions.csv"
        return (
            (self.root / "seeds" / "model_registry.csv").read_text(),
            promotions.read_text() if promotions.exists() else None,
        )

    def promotions(self, *columns: str) -> list[tuple[str, ...]]:
        with (self.root / "seeds" / "model_promotions.csv").open(newline="") as stream:
            return [tuple(row[name] for name in columns) for row in csv.DictReader(stream)]

    def run(self, command: str, *arguments: str) -> Result:
        options = ("--project-dir", str(self.root), "--profiles-dir", str(self.root))
        if command == "rollback":
            options = options[:2]
        done = CliRunner().invoke(main, [command, *arguments, *options])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in done.output
        return done

    @contextmanager
    def changed(self, change: str, undo: str) -> Iterator[None]:
        self.sql(change)
        try:
            yield
        finally:
            self.sql(undo)

    @contextmanager
    def altered(self, path: str, content: bytes | None) -> Iterator[None]:
        """Replace a file's content, or remove the file, inside the block."""
        file = self.root / path
        before = file.read_bytes()
        file.unlink() if content is None else file.write_bytes(content)
        try:
            yield
        finally:
            file.write_bytes(before)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.facts(ROWS)
    shop.register("1", risk_model(1.0, -10.0), RISK, name="risk")
    shop.scoring_model("scores")
    shop.scoring_model("risks", arguments="model='risk'")
    # two more: one that names a version, and one whose model is not a literal
    shop.scoring_model("pinned", arguments="model='line/1'")
    shop.scoring_model("computed", arguments="model='-'.join(['other'])")
    outcome = shop.dbt("build", "--exclude", "computed")
    assert outcome.success, outcome.error
    for version, model in {
        "same": line_model(),
        "reversed": line_model(a=-2.0),
        "constant": line_model(a=0.0, b=0.0),
        "infinite": broken_model("Div", "zero", zero=(TensorProto.FLOAT, [[0.0, 1.0]])),
        "one_row": broken_model("ReduceSum", "rows", rows=(TensorProto.INT64, [0])),
    }.items():
        shop.register_version("line", version, model, line_contract())
    shop.register_version("line", "renamed", line_model(), line_contract("z"))
    shop.register_version("line", "called_id", line_model(), line_contract("ID"))
    shop.register_version(
        "line", "other_features", line_model(), line_contract(features=("a", "c"))
    )
    shop.register_version("risk", "sharper", risk_model(2.0, -20.0), RISK)
    shop.register_version("risk", "lower", risk_model(1.0, -4.0), RISK)
    shop.register_version("fresh", "1", line_model(), line_contract())
    return shop


@pytest.fixture(scope="module")
def project(shop: Shop) -> DbtProject:
    return DbtProject(shop.root, profiles_dir=shop.root)


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.verdict == "failed"]


def test_a_version_that_says_the_same_passes_every_check(shop: Shop, project: DbtProject) -> None:
    checks = shop.examine("line/same", project)
    assert {name: (check.figure, check.verdict) for name, check in checks.items()} == {
        "artifact": (f"sha256 {shop.entries[-1]['sha256'][:12]}", "passed"),
        "sample of the card": ("no sample", "not checked"),
        "training parity": ("none recorded", "not checked"),
        "contract: scores": ("main.features, 40 rows", "passed"),
        "rejected rows": ("0.00% of 40, champion 0.00%", "passed"),
        "NaN or infinite": ("0 rows", "passed"),
        "varies: y": ("40 values", "passed"),
        "output columns": ("y", "passed"),
        # y = id - 0.5 for the ids 0 to 39
        "rank correlation: y": ("1.000; mean 19, was 19 (+0)", "passed"),
        "contract: computed": (
            "which model it scores with is not known before its first run",
            "not checked",
        ),
    }


@pytest.mark.parametrize(
    ("version", "check", "fault"),
    [
        (
            "reversed",
            "rank correlation: y",
            "y ranks 40 rows differently from line/1: Spearman's correlation is -1.000",
        ),
        ("constant", "varies: y", "y is the same for all 40 rows of main.features"),
        (
            "infinite",
            "NaN or infinite",
            "the model gives NaN or infinity for 40 of 40 rows of main.features",
        ),
        ("infinite", "rejected rows", "40 of 40 rows of main.features would be rejected"),
        (
            "one_row",
            "scores the current rows",
            "rows 1 to 40: output 'y' (value) should be float32[40] or [40, 1]; the model gave",
        ),
        ("renamed", "output columns", "line/1 gives y, and this version does not"),
        (
            "other_features",
            "contract: scores",
            "model 'line/other_features' cannot read main.features: column 'c' is missing",
        ),
    ],
)
def test_a_version_that_is_otherwise_fails_the_check_that_says_so(
    shop: Shop, project: DbtProject, version: str, check: str, fault: str
) -> None:
    checks = shop.examine(f"line/{version}", project)
    assert check in failed(checks)
    also = {
        "constant": ["comparison with line/1"],
        "renamed": ["comparison with line/1"],
        "infinite": ["rejected rows", "NaN or infinite", "comparison with line/1"],
    }
    assert set(failed(checks)) == {check, *also.get(version, [])}
    assert fault in checks[check].fault
    assert not any(item.final for item in checks.values())


def test_a_probability_is_compared_by_rank_and_decisions(shop: Shop, project: DbtProject) -> None:
    checks = shop.examine("risk/sharper", project)
    # both cross a half at a = 10; a sharper slope changes no rank and no decision
    assert failed(checks) == []
    assert checks["changed decisions: is_risk"].figure == "0.00%"
    assert checks["changed decisions: risk at 0.5"].figure == "0.00%"

    a = np.arange(ROWS) / 2
    champion, lower = 1 / (1 + np.exp(10 - a)), 1 / (1 + np.exp(4 - a))
    # the label is that of ArgMax: a tie at a half gives the first class
    changed = ((champion > 0.5) != (lower > 0.5)).mean()
    checks = shop.examine("risk/lower", project)
    assert failed(checks) == ["changed decisions: is_risk", "changed decisions: risk at 0.5"]
    assert checks["changed decisions: is_risk"].figure == f"{changed:.2%}"
    assert f"is_risk decides {changed:.2%} of 40 rows differently from risk/1" in (
        checks["changed decisions: is_risk"].fault
    )
    rank = checks["rank correlation: risk"].figure
    single = champion.astype(np.float32), lower.astype(np.float32)
    assert rank.startswith(
        f"{stats.spearmanr(*single).statistic:.3f}; mean {lower.mean():.4g}, was"
    )
    assert failed(shop.examine("risk/lower", project, max_changed_decisions=0.5)) == []
    elsewhere = shop.examine("risk/lower", project, threshold=0.9999)
    assert failed(elsewhere) == ["changed decisions: is_risk", "changed decisions: risk at 0.9999"]


def test_a_sample_is_the_same_rows_each_time(shop: Shop, project: DbtProject) -> None:
    figures = [
        shop.examine("line/same", project, sample=7)["rank correlation: y"].figure for _ in "12"
    ]
    assert figures[0] == figures[1]
    checks = shop.examine("line/same", project, sample=7)
    assert checks["rejected rows"].figure.startswith("0.00% of 7,")
    assert checks["contract: scores"].figure == "main.features, 40 rows"
    # seven rows spread over the forty, not the first seven
    assert figures[0] != "1.000; mean 2.5, was 2.5 (+0)"


@pytest.mark.parametrize(
    ("change", "undo", "fault"),
    [
        (
            "alter table features rename to gone",
            "alter table gone rename to features",
            "main.features is not in the warehouse",
        ),
        (
            "create or replace table kept as from features; delete from features",
            "insert into features from kept; drop table kept",
            "main.features has no rows",
        ),
        (
            "insert into features values (7, 0, 0)",
            "delete from features where id = 7 and b = 0",
            "key ['id'] is not unique in main.features: {'id': 7} 2 times",
        ),
        (
            "alter table features alter b type varchar",
            "alter table features alter b type double",
            "column 'b' is VARCHAR, which cannot be cast to float32 for input 'X'",
        ),
        (
            "alter table features rename id to number",
            "alter table features rename number to id",
            "key column(s) ['id'] not found in main.features",
        ),
        (
            "alter table features alter id type varchar",
            "alter table features alter id type integer",
            "key column 'id' is VARCHAR in the features and INTEGER in main.scores__current",
        ),
        (
            "alter table scores__current alter y type double; alter table scores__history alter y type double",
            "alter table scores__current alter y type float; alter table scores__history alter y type float",
            "output column 'y' is FLOAT by the contract and DOUBLE in main.scores__current",
        ),
    ],
)
def test_features_or_ledger_that_do_not_fit_fail_the_contract(
    shop: Shop, project: DbtProject, change: str, undo: str, fault: str
) -> None:
    with shop.changed(change, undo):
        checks = shop.examine("line/same", project)
    assert failed(checks) == ["contract: scores"]
    assert fault in checks["contract: scores"].fault
    assert failed(shop.examine("line/same", project)) == []


def test_an_output_called_like_the_key_fails_the_contract(shop: Shop, project: DbtProject) -> None:
    checks = shop.examine("line/called_id", project)
    assert "output column(s) ['id'] collide with the key ['id']" in checks["contract: scores"].fault


def test_rejected_rows_are_counted_against_the_limit(shop: Shop, project: DbtProject) -> None:
    with shop.changed(
        "update features set b = null where id < 8", "update features set b = 1 where id < 8"
    ):
        checks = shop.examine("line/same", project)
        assert failed(checks) == ["rejected rows"]
        assert checks["rejected rows"].figure == "20.00% of 40, champion 20.00%"
        assert checks["rejected rows"].fault.endswith("would be rejected: null:b 8")
        # a run's limit is a tenth by default, whatever limit the gate has
        assert failed(shop.examine("line/same", project, max_rejected=0.2)) == ["rejected rows"]


def test_the_cards_sample_is_scored_again(shop: Shop, project: DbtProject) -> None:
    path = "artifacts/line/same/card.json"
    card = json.loads((shop.root / path).read_text())
    parity = {"features": {"a": [1.0], "b": [1.0]}, "outputs": {"y": [1.5]}, "tolerance": 1e-5}
    parity |= {"rows_compared": 1000, "max_abs_difference": 2e-7}
    with shop.altered(path, json.dumps({**card, "parity": parity}).encode()):
        checks = shop.examine("line/same", project)
        assert checks["sample of the card"].figure == "1 rows, difference 0.0e+00"
        assert checks["training parity"].figure == "1,000 rows, difference 2.0e-07"
        assert (checks["training parity"].verdict, failed(checks)) == ("passed", [])
    parity["outputs"] = {"y": [1.6]}
    with shop.altered(path, json.dumps({**card, "parity": parity}).encode()):
        checks = shop.examine("line/same", project)
    assert failed(checks) == ["sample of the card"]
    assert "the model no longer gives the outputs in its card" in checks["sample of the card"].fault


def test_a_champion_that_cannot_be_asked_is_a_reason_to_look(
    shop: Shop, project: DbtProject
) -> None:
    with shop.altered("artifacts/line/1/model.onnx", None):
        checks = shop.examine("line/same", project)
    assert failed(checks) == ["comparison with line/1"]
    assert "does not exist" in checks["comparison with line/1"].fault


def test_a_first_version_has_nothing_to_be_compared_with(shop: Shop, project: DbtProject) -> None:
    checks = shop.examine("fresh/1", project)
    assert failed(checks) == []
    # no scoring model uses it yet: only its file and card can be checked
    assert list(checks) == [
        "artifact",
        "sample of the card",
        "training parity",
        "contract: computed",
        "comparison",
    ]
    before = shop.seeds()[0]
    shop.promote("", name="line")
    try:
        checks = shop.examine("line/same", project)
    finally:
        shop.promote("1", name="line")
    assert (checks["comparison"].figure, checks["comparison"].verdict) == (
        "no champion yet", "not checked",
    )  # fmt: skip
    assert shop.seeds()[0] == before


@pytest.mark.parametrize("content", [None, b"not a model"])
def test_a_file_that_is_not_what_was_registered_passes_with_no_override(
    shop: Shop, content: bytes | None
) -> None:
    before = shop.seeds()
    with shop.altered("artifacts/line/same/model.onnx", content):
        done = shop.run("promote", "line/same", "--override", "I know better")
    assert done.exit_code == 1
    assert "FAILED" in done.stdout
    assert "line/same is not promoted; seeds/model_registry.csv is unchanged" in done.stderr
    assert "--override does not pass this check: artifact" in done.stderr
    assert shop.seeds() == before


def test_a_warehouse_that_another_process_holds_is_said(shop: Shop, project: DbtProject) -> None:
    program = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(shop.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        checks = shop.examine("line/same", project)
        holder.communicate(b"\n")
    assert failed(checks) == ["warehouse"]
    assert "is held by another process" in checks["warehouse"].fault


def test_what_code_does_not_tell_is_read_from_the_last_run(
    shop: Shop, project: DbtProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbt_onnx.project.scoring_calls.literal_arguments", lambda code: {})
    checks = shop.examine("line/same", project)
    assert checks["contract: scores"].figure == "main.features, 40 rows"
    assert "contract: pinned" not in checks
    assert "rank correlation: y" in checks


def test_a_promotion_is_refused_overridden_served_and_rolled_back(shop: Shop) -> None:
    before = shop.seeds()
    refused = shop.run("promote", "line/reversed")
    assert refused.exit_code == 1
    assert "refused: y ranks 40 rows differently from line/1" in refused.stderr
    assert (
        "Hint: check the difference; if it is intended, promote with --override" in refused.stderr
    )
    assert shop.seeds() == before

    why = 'the old one was upside down, "really" {{ 1/0 }}'
    promoted = shop.run("promote", "line/reversed", "--override", why)
    assert promoted.exit_code == 0, promoted.output
    assert "overridden: y ranks 40 rows differently" in promoted.stdout
    assert "line/reversed is champion; line/1 was, and has no alias now" in promoted.stdout
    assert "the file is a new seed" in promoted.stdout
    (row,) = shop.promotions("action", "gate", "model_version", "replaced_version", "reason")
    assert row[:4] == ("promote", "overridden", "reversed", "1")
    assert row[4].startswith(f"{why} (despite rank correlation: y -1.000; mean")

    # the seed gives SQL the same text, word for word
    assert shop.dbt("seed").success
    assert shop.sql("select model_version, gate, reason from model_promotions") == [
        ("reversed", "overridden", row[4])
    ]
    assert shop.dbt("run", "-s", "scores").success
    with shop.scores() as scores:
        assert scores.sql("select model_version, count(*) from scores group by 1 order by 1") == [
            ("1", ROWS),
            ("reversed", ROWS),
        ]

    assert shop.run("rollback", "line").exit_code == 0
    assert shop.seeds()[0] == before[0]
    assert shop.dbt("build", "-s", "model_registry", "scores").success
    with shop.scores() as scores:
        assert scores.sql("select count(*) from scores") == [(2 * ROWS,)]
