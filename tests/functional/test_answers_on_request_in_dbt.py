"""A customer asks in the morning; after the nightly run the answer is in the ledger, through dbt and the commands."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from scoring_project import CLOCK, ScoringProject, expect
from test_publishing import CURRENT, published

from dbt_onnx.cli import main
from dbt_onnx.serving import Predictions
from dbt_onnx.serving.real_time import RealTime

if TYPE_CHECKING:
    from pathlib import Path

MORNING = datetime.fromisoformat(CLOCK) + timedelta(hours=3)
HEALTH = (
    "{{ dbt_onnx.prediction_health(ref('scores'), registry=ref('model_registry'), key=['id']) }}"
)
ANSWERS = "select id, y, rejected_reason, scored_at from scores where score_reason = 'real_time' order by scored_at"


def command(project: ScoringProject, *arguments: str) -> str:
    where = ["--project-dir", str(project.root), "--profiles-dir", str(project.root)]
    done = CliRunner().invoke(main, [*arguments, *where], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output


def test_what_was_answered_in_the_morning_is_in_the_ledger_after_the_night(tmp_path: Path) -> None:
    project = ScoringProject(tmp_path)
    project.facts(20)
    project.scoring_model("scores", arguments="max_rejected_fraction=0.1")
    project.write("models/scores_current.sql", CURRENT)
    project.write("models/health.sql", HEALTH)
    with_model = ', registry=dbt.ref("model_registry"), model="line"'
    project.write(
        "python_models/scores_published.py",
        published("scores_current", key='["id"]', name="scores", more=with_model),
    )
    outcome = project.dbt("build")
    expect(outcome, scores="success", scores_published="success")

    folder = project.root / "serving/scores"
    asked: list[tuple[Any, ...]] = []
    service = RealTime(folder, max_seconds=60)
    with Predictions.open(folder) as predictions:
        for number, (key, a) in enumerate([(99, "0.75"), (3, "2.5"), (99, None), (99, "4")]):
            at = MORNING + timedelta(minutes=number)
            features = {"a": None if a is None else Decimal(a), "b": 1}
            answer, kept = service.score(predictions.manifest, (key,), features, now=at)
            kept.result(60)
            asked.append((key, answer.outputs.get("y"), answer.rejected_reason, at))

    # a night that fails: the answers are taken over nevertheless, and the failure is reported
    project.sql("update facts set a = null where id < 10")
    expect(project.dbt("run", "-s", "features", "scores"), scores="error")
    assert project.sql(ANSWERS) == asked
    expect(project.dbt("run", "-s", "health"), health="success")
    assert project.sql("select last_run_status from health") == [("error",)]

    project.facts(20)
    expect(project.dbt("build"), scores="success", scores_published="success")
    assert project.outcome.nodes["scores"].message == "line/1: scored 0, unchanged 20"
    assert project.sql(ANSWERS) == asked
    assert project.sql("select count(*), max(id) from scores_current") == [(20, 19)]

    assert "real_time" in command(project, "runs", "scores")
    said = command(project, "history", "scores", "99")
    assert said.count("real_time") == 3
    assert "rejected: null:a" in said
    command(project, "replay", "scores", "--all", "--registry", "seeds/model_registry.csv")
    erased = command(project, "forget", "scores", "99", "--why", "asked for")
    assert "erased 3 prediction(s) and 3 row(s) of inputs of 1 run(s)" in erased
    assert (
        "the answers of a service remain in the files in requests/ of publication(s) scores"
        in erased
    )
    expect(project.dbt("run", "-s", "scores"), scores="success")
    assert [row[0] for row in project.sql(ANSWERS)] == [3]
    command(project, "replay", "scores", "--all", "--registry", "seeds/model_registry.csv")
    service.close()
