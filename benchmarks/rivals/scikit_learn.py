"""The scikit-learn estimator itself, applied to one chunk of the table at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import joblib
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from benchmarks.measure import Stopwatch
from benchmarks.models import MISSING
from benchmarks.rivals import feeds, warehouse
from benchmarks.rivals.stream import column_of
from benchmarks.workloads import CHUNK_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping


def score(*, folder: str, workload: Mapping[str, Any]) -> dict[str, float]:
    """A task: write key, score and stamps into `scores`."""
    estimator = joblib.load(workload["model"]["estimator"])  # its imports are not measured
    with Stopwatch() as watch:
        connection = warehouse.connect(folder, workload)
        reader = connection.cursor().query(warehouse.select(workload)).to_arrow_reader(CHUNK_ROWS)
        statement = "create table scores as"
        for batch in reader:
            found = _predict(estimator, batch, workload)
            connection.register(
                "predictions", pa.table({"id": batch.column(0), "score": column_of(found)})
            )
            connection.execute(
                f"{statement} select id, score, {warehouse.STAMPS} from predictions",
                warehouse.stamps(workload),
            )
            statement = "insert into scores"
    return watch.taken()


def _predict(estimator: Any, batch: pa.RecordBatch, workload: Mapping[str, Any]) -> Any:
    if workload["table"] == "mixed":
        frame = batch.to_pandas()[workload["columns"]]
        texts = [name for name in workload["columns"] if name.startswith("s")]
        frame[texts] = frame[texts].fillna(MISSING)
        return estimator.predict_proba(frame)[:, 1].astype("float32")
    (rows,) = feeds.of_arrays(batch.columns[1:], workload).values()
    if workload["table"] == "array":
        return estimator.transform(rows).astype("float32")
    names = workload["columns"]
    return estimator.predict_proba(pd.DataFrame(rows, columns=names))[:, 1].astype("float32")
