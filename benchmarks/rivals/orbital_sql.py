"""Convert a scikit-learn pipeline to SQL. Runs in the environment that has orbital."""

import json
import sys
from pathlib import Path

import joblib
import orbital
from orbital import types
from sklearn.pipeline import Pipeline

TYPES = {
    "f": types.FloatColumnType,
    "d": types.DoubleColumnType,
    "i": types.DoubleColumnType,  # an integer column is imputed as a double
    "s": types.StringColumnType,
}


def main(estimator: str, columns: str, into: str) -> None:
    fitted = joblib.load(estimator)
    pipeline = fitted if isinstance(fitted, Pipeline) else Pipeline([("model", fitted)])
    features = {name: TYPES[name[0]]() for name in json.loads(columns)}
    parsed = orbital.parse_pipeline(pipeline, features=features)
    parsed.features["id"] = types.Int64ColumnType()  # passed through to the result
    projection = orbital.ResultsProjection(["id"])
    sql = orbital.export_sql("features", parsed, dialect="duckdb", projection=projection)
    Path(into).write_text(sql)


if __name__ == "__main__":
    main(*sys.argv[1:])
