"""`dbt-onnx report`: its numbers are those of the macros, and its texts cannot become code."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from report_pages import Page
from scoring_project import CLOCK, ScoringProject, expect
from warehouse import line_contract, line_model

from dbt_onnx.authoring.distributions import describe
from dbt_onnx.cli import main
from dbt_onnx.project.dbt_project import DbtProject
from dbt_onnx.promotion.promotions_file import PROMOTION_COLUMNS
from dbt_onnx.reporting.gather import MAX_RUNS, gather
from dbt_onnx.reporting.page import page_of

if TYPE_CHECKING:
    from pathlib import Path

LATER = "2024-01-11 06:00:00"
OUTPUT, FEATURE = "<script>alert(1)</script>", "<b>"
HOOK = """on-run-end: "{{ dbt_onnx.record_test_results(results) }}"\n"""
JUDGED = (
    f"ref('scores'), ref('happened'), key=['id'], column='{OUTPUT}', outcome='is_true', "
    "known_at='known_at', made_at='as_of'"
)
COMPARED = f"ref('scores'), ref('others'), key=['id'], column='{OUTPUT}'"
MODELS = {
    "happened": "select id, id % 3 = 0 as is_true, timestamp '2024-01-11' as known_at "
    "from {{ ref('features') }}",
    "outcomes": f"{{{{ dbt_onnx.prediction_outcomes({JUDGED}) }}}}",
    "calibration": f"{{{{ dbt_onnx.prediction_calibration({JUDGED}, bins=4) }}}}",
    "comparison": f"{{{{ dbt_onnx.compare_predictions({COMPARED}, threshold=0.3) }}}}",
    "movers": f"{{{{ dbt_onnx.prediction_movers({COMPARED}, limit=5) }}}}",
    "health": "{{ dbt_onnx.prediction_health(ref('scores'), registry=ref('model_registry'), "
    "key=['id'], entities=ref('features')) }}",
}
ALL_DRIFT = {"warn_psi": 1e-9, "error_psi": None, "min_rows": 1}
# the deciles of -0.5, 0.5 and 1.5
MIDDLE = [
    ("-0.3", "-0.1", "0.0%"), ("-0.1", "0.1", "0.0%"), ("0.1", "0.3", "0.0%"), ("0.3", "0.5", "33.3%"),
    ("0.5", "0.7", "0.0%"), ("0.7", "0.9", "0.0%"), ("0.9", "1.1", "0.0%"), ("1.1", "1.3", "0.0%"),
]  # fmt: skip
PROMOTIONS = f"""{",".join(PROMOTION_COLUMNS)}
2024-01-09T10:00:00.000000Z,line,2,1,promote,overridden,<i>trust me</i>
"""


def claim(kind: str, name: str, **arguments: Any) -> dict[str, Any]:
    config = {"store_failures": True, "severity": "warn"}
    return {f"dbt_onnx.{kind}": {"name": name, "arguments": arguments, "config": config}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ScoringProject:
    """Two runs of a champion and a challenger, with outcomes, drift, a test that fails, and hostile names."""
    project = ScoringProject(tmp_path_factory.mktemp("report"))
    settings = project.root / "dbt_project.yml"
    settings.write_text(settings.read_text() + HOOK)
    project.sql(
        f"create or replace table facts as select i::integer as id, 0.25 + i % 20 / 80e0 as a, "
        f'1.0::double as "{FEATURE}" from range(200) as numbers (i)'
    )
    contract = line_contract(OUTPUT, features=("a", FEATURE))
    for version, alias in (("2", "champion"), ("3", "challenger")):
        project.register(version, line_model(a=4.0 / int(version)), contract, alias=alias)
        path = project.root / "artifacts" / "line" / version / "card.json"
        card = json.loads(path.read_text())
        trained = np.random.default_rng(7).uniform(0.2, 0.6, 500)
        card["reference"] = {"a": describe(pa.array(trained))}
        card["reference_outputs"] = {OUTPUT: describe(pa.array(2 * trained - 0.5))}
        path.write_text(json.dumps(card))
    project.scoring_model("scores")
    project.scoring_model("others", arguments="model='line@challenger'")
    for name, sql in MODELS.items():
        project.write(f"models/{name}.sql", sql)
    project.write(
        "tests/cannot_run.sql",
        "select * from {{ ref('scores') }} where cast('<img src=x>' || id as integer) = 1",
    )
    project.write("seeds/model_promotions.csv", PROMOTIONS)
    project.write_yaml(
        "python_models/tests.yml",
        {"models": [{"name": "scores", "data_tests": [
            claim("features_match_training", "drift_of_a", features="ref('features')", columns=["a"], **ALL_DRIFT),
            claim("predictions_match_baseline", "drift_of_y", column=OUTPUT, **ALL_DRIFT),
            claim("predictions_match_baseline", "drift_since", column=OUTPUT, baseline="previous_run", **ALL_DRIFT),
        ]}]},
    )  # fmt: skip
    expect(project.dbt("build", "--exclude", "cannot_run"), scores="success", others="success")
    project.sql(
        f"update facts set a = null where id = 9; update facts set a = a + 0.1 where id < 60; "
        f'update facts set "{FEATURE}" = 0.9 where id = 70'
    )
    later = {"dbt_onnx_clock": LATER}
    expect(project.dbt("build", "--exclude", "cannot_run", vars=later), movers="success")
    expect(project.dbt("test", "--select", "cannot_run", vars=later), cannot_run="error")
    return project


def report(project: ScoringProject, out: Path, *arguments: str, status: str = "degraded") -> str:
    folders = ["--project-dir", str(project.root), "--profiles-dir", str(project.root)]
    clock = LATER if status == "degraded" else CLOCK
    variables = ["--vars", f"{{dbt_onnx_clock: '{clock}'}}"]
    result = CliRunner().invoke(
        main, ["report", "--out", str(out), *folders, *variables, *arguments]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{out}: {status}, ")
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(project: ScoringProject, tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(project, tmp_path_factory.mktemp("out") / "report.html", "scores")


@pytest.fixture(scope="module")
def page(content: str) -> Page:
    return Page(content)


def records(project: ScoringProject, query: str) -> list[dict[str, Any]]:
    with project.connection() as connection:
        cursor = connection.execute(query)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def test_the_health_is_that_of_the_macro(project: ScoringProject, page: Page, content: str) -> None:
    [health] = records(project, "select * from health")
    texts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", content)
    assert dict(texts[:5]) == {
        name: f"{health[name]:,}"
        for name in ("entities", "current", "stale", "missing", "rejected")
    }
    assert health["rejected"] == 1
    ages = page.tables["Ages of the predictions"][1:]
    assert sum(int(row[1]) for row in ages) == health["entities"]
    # the rejected entity keeps its prediction of the day before
    assert ages == [["under 1 day", "199", "99.5%"], ["1 to 2 days", "1", "0.5%"]]
    served = page.tables["Where the served predictions come from"][1:]
    assert served == [["serving_version", "line/2", "200", "100.0%"]]


def test_runs_are_those_of_the_table(project: ScoringProject, page: Page) -> None:
    runs = records(
        project,
        "select *, epoch(ended_at - started_at) as seconds from dbt_onnx_runs "
        "where scoring_model = 'scores' order by started_at",
    )
    assert [row[:1] + row[5:10] for row in page.tables["Runs, oldest first"][1:]] == [
        [
            run["run_id"][:8],
            *(str(run[f"rows_{name}"]) for name in ("in", "scored", "rejected", "unchanged")),
            f"{run['seconds']:.2f}",
        ]
        for run in runs
    ]
    first, second = page.tables["Runs, oldest first"][1:]
    assert (first[10], second[10]) == ("new 200", "features changed 61")
    assert (first[2], second[2]) == (CLOCK[:16], LATER[:16])


def test_indexes_are_those_of_the_tests(project: ScoringProject, page: Page) -> None:
    def index(test: str) -> str:
        [row] = records(
            project, f"select figure from main_dbt_test__audit.{test} where problem = 'psi'"
        )
        return f"{row['figure']:.3f}"

    [feature] = page.tables["Features, the most changed first; grey is training, blue is now"][1:]
    assert feature[:2] == ["a", index("drift_of_a")]
    assert feature[3] == "0.0% → 0.5%"
    assert float(index("drift_of_a")) > 0.01
    assert (
        f"{OUTPUT}: the stability index is {index('drift_of_y')} against training "
        f"and {index('drift_since')} against the run before."
    ) in page.text


def test_shares_of_the_scores_are_those_of_the_ledger(project: ScoringProject, page: Page) -> None:
    rows = page.tables[f"Share of the predictions by {OUTPUT}"]
    assert rows[0] == [OUTPUT, "in training", "before the last run", "now"]
    card = json.loads((project.root / "artifacts/line/2/card.json").read_text())
    trained = card["reference_outputs"][OUTPUT]
    edges = [-np.inf, *np.float32(trained["edges"]).tolist(), np.inf]
    name = '"' + OUTPUT + '"'
    # the rejected row keeps no prediction in force by this version but its old one
    queries = {
        2: f"select {name} as y from scores where as_of = '{CLOCK}' and status = 'scored'",
        3: f"select arg_max({name}, as_of) as y from scores where status = 'scored' group by id",
    }
    assert [row[1] for row in rows[1:]] == [f"{share:.1%}" for share in trained["shares"]]
    for column, query in queries.items():
        values = np.array([row["y"] for row in records(project, query)])
        shares = [np.mean((values > low) & (values <= high)) for low, high in pairwise(edges)]
        assert [row[column] for row in rows[1:]] == [f"{share:.1%}" for share in shares]


def test_outcomes_and_comparisons_are_those_of_the_models(
    project: ScoringProject, page: Page
) -> None:
    def same(caption: str, query: str, form: Any) -> None:
        rows = records(project, query)
        assert rows, query
        assert page.tables[caption][1:] == [form(row) for row in rows]

    figures = ("rows", "positives", "auc", "log_loss", "brier_score")
    same(
        "outcomes: outcomes by month and version",
        "select * from outcomes",
        lambda row: ["2024-01", "line/2", *(shown(row[name]) for name in figures)],
    )
    same(
        "Calibration of line/2 by month, newest first",
        "select * from calibration order by month desc, bin desc",
        lambda row: [
            "2024-01", f"{row['mean_prediction']:.1%}", f"{row['share_positive']:.1%}",
            shown(row["rows"]), shown(row["positives"]),
        ],
    )  # fmt: skip
    same(
        "comparison: champion against challenger",
        "select * exclude (first_moment, last_moment) from comparison order by paired_rows desc",
        lambda row: [row["champion"], row["challenger"], *map(shown, list(row.values())[2:])],
    )
    same(
        "movers: the entities that the challenger moves most",
        "select * from movers",
        lambda row: [
            str(row["id"]), f"{row['moment']:%Y-%m-%d %H:%M}", "line/2", "line/3",
            *(shown(row[name]) for name in ("champion_value", "challenger_value", "difference")),
        ],
    )  # fmt: skip


def test_promotions_and_failing_tests_are_listed(page: Page) -> None:
    assert page.tables["Promotions of line, newest first"][1:] == [
        ["2024-01-09 10:00", "line/2", "line/1", "promote", "overridden", "<i>trust me</i>"]
    ]
    tests = {row[0]: row for row in page.tables["Tests that did not pass"][1:]}
    assert sorted(tests) == ["cannot_run", "drift_of_a", "drift_of_y", "drift_since"]
    assert tests["cannot_run"][1] == "error"
    assert "<img src=x>" in tests["cannot_run"][4]


def test_no_text_becomes_markup_and_nothing_is_loaded(content: str, page: Page) -> None:
    names = {name for name, _ in page.tags}
    assert not names & {"script", "img", "b", "iframe", "link", "object", "embed", "base", "form"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    [policy] = [meta for meta in page.named("meta") if meta.get("http-equiv")]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert str(policy["content"]).startswith("default-src 'none'")
    for pattern in ("https?:", "//[a-z]", r"url\(", "@import", "src="):
        assert re.findall(pattern, re.sub("&[a-z]+;img src=x", "", content)) == []
    attributes = {name for _, given in page.tags for name in given}
    assert not [name for name in attributes if name.startswith("on")]
    assert {given["href"][:1] for _, given in page.tags if given.get("href")} == {"#"}


def test_the_page_can_be_read_with_a_keyboard_and_a_screen_reader(page: Page) -> None:
    assert page.named("html") == [{"lang": "en"}]
    assert [name for name, _ in page.tags].count("h1") == 1
    assert {cell.get("scope") for cell in page.named("th")} == {"row", "col"}
    assert {str(given["tabindex"]) for _, given in page.tags if "tabindex" in given} == {"0", "-1"}
    assert page.named("a")[0] == {"class": "skip", "href": "#content"}
    ids = [str(given["id"]) for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in page.named("a")} <= set(ids)
    for drawing in page.named("svg"):
        assert drawing.get("aria-label") or drawing.get("aria-hidden") == "true"


def test_ten_models_with_many_runs_and_features_take_less_than_a_megabyte(
    project: ScoringProject,
) -> None:
    opened = DbtProject(
        project.root, profiles_dir=project.root, variables={"dbt_onnx_clock": LATER}
    )
    facts = gather(opened, None, stale_after=timedelta(days=2))
    assert [model.health.scoring_model for model in facts.models] == ["others", "scores"]
    model = facts.models[1]
    features = [
        {**row, "column_name": f"feature_{number}"}
        for number in range(100)
        for row in model.features
    ]
    large = replace(model, runs=[*model.runs] * (MAX_RUNS // 2), features=features)
    content = page_of(replace(facts, models=[large] * 10)).encode()
    assert len(Page(content.decode()).named("article")) == 10
    assert len(content) < 1_000_000


def test_a_page_can_be_written_before_the_first_build_and_without_training_distributions(
    tmp_path: Path,
) -> None:
    project = ScoringProject(tmp_path)
    project.facts(3)
    project.scoring_model("scores")
    project.dbt("deps")
    page = Page(report(project, tmp_path / "report.html", status="broken"))
    assert "no run has succeeded" in page.text
    assert page.tables == {}
    expect(project.dbt("build"), scores="success")
    page = Page(report(project, tmp_path / "report.html", status="healthy"))
    # y is -0.5, 0.5 and 1.5
    assert page.tables["Share of the predictions by y"] == [
        ["y", "now"],
        ["up to -0.3", "33.3%"],
        *([f"above {low} to {high}", share] for low, high, share in MIDDLE),
        ["above 1.3", "33.3%"],
    ]
    assert page.tables["Runs, oldest first"][1][10] == "new 3"
