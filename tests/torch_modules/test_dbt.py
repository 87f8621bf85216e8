"""A module that is trained on the purchases of the reference project, and scored by dbt."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import torch
from scoring_project import ScoringProject, expect
from torch import nn

import dbt_onnx

PURCHASES = Path(__file__).parents[2] / "seeds" / "purchases.csv"
FEATURES = ("recency days", "frequency", "monetary")
# what is known of each customer on a day, and what happens in the 90 days after it
SNAPSHOT = """
    select
        customer_id as id,
        datediff('day', max(purchased_on) filter (purchased_on < day), day) as "recency days",
        count(*) filter (purchased_on < day) as frequency,
        sum(dollars) filter (purchased_on < day)::double as monetary,
        (count(*) filter (purchased_on >= day) = 0)::integer as churned
    from (select *, date '{day}' as day from purchases where purchased_on < date '{day}' + 90)
    group by customer_id, day having frequency > 0 order by id
"""


def snapshot(path, day):
    with duckdb.connect() as connection:
        connection.read_csv(str(path), dtype={"customer_id": "VARCHAR"}).create("purchases")
        return connection.sql(SNAPSHOT.format(day=day)).to_arrow_table()


def trained(rows):
    """Return a module that was trained to predict churn; it stays in training mode."""
    torch.manual_seed(0)
    values = torch.tensor(
        np.column_stack([rows[name].to_numpy() for name in FEATURES]), dtype=torch.float32
    )
    target = torch.tensor(rows["churned"].to_numpy(), dtype=torch.float32).unsqueeze(1)
    module = nn.Sequential(
        nn.BatchNorm1d(3),
        nn.Linear(3, 16),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(16, 1),
        nn.Sigmoid(),
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(3):
        for places in torch.randperm(len(values)).split(256):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy(module(values[places]), target[places]).backward()
            optimizer.step()
    return module


def test_dbt_scores_customers_as_torch_does(tmp_path):
    rows = snapshot(PURCHASES, "1997-10-01")
    module = trained(rows)
    project = ScoringProject(tmp_path / "project")
    seed = project.root / "seeds" / "model_registry.csv"
    seed.unlink()
    dbt_onnx.export(
        module, rows.select(FEATURES), name="churn", version="1", alias="champion", classes=[0, 1],
        artifacts=project.root / "artifacts", registry=seed,
    )  # fmt: skip
    header = seed.read_text().splitlines()[0].split(",")
    types = {"column_types": dict.fromkeys(header, "varchar")}
    project.write_yaml("seeds/seeds.yml", {"seeds": [{"name": "model_registry", "config": types}]})
    later = snapshot(PURCHASES, "1998-01-01")
    with project.connection() as connection:
        connection.register("later", later)
        connection.execute("create or replace table facts as select * exclude (churned) from later")
    project.scoring_model("scores", arguments="model='churn'")
    expect(project.dbt("build"), scores="success")

    with torch.no_grad():
        values = np.column_stack([later[name].to_numpy() for name in FEATURES])
        truth = module.eval()(torch.tensor(values, dtype=torch.float32)).numpy().reshape(-1)
    ledger = project.sql("select id, label, probability from scores order by id")
    assert [row[0] for row in ledger] == later["id"].to_pylist()
    np.testing.assert_allclose([row[2] for row in ledger], truth, atol=1e-5)
    assert [row[1] for row in ledger] == [int(share > 0.5) for share in truth]
    # it has learned something: those who come back have a smaller probability to leave
    left = np.array(later["churned"].to_pylist(), dtype=bool)
    assert truth[left].mean() - truth[~left].mean() > 0.1
