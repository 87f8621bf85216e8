"""The SQL type of each output type equals the type that DuckDB gives to the Arrow column."""

from __future__ import annotations

from typing import get_args

import duckdb
import pyarrow as pa
import pytest

from dbt_onnx.engines.duckdb.writing import output_types
from dbt_onnx.kernel.contract import TensorType, arrow_type_of


@pytest.mark.parametrize("dtype", get_args(TensorType))
def test_the_sql_types_are_duckdbs_own(dtype: TensorType) -> None:
    element = arrow_type_of(dtype)
    fields = [pa.field("one", element), pa.field("many", pa.list_(element, 3))]
    relation = duckdb.connect().from_arrow(pa.schema(fields).empty_table())
    assert output_types(fields) == dict(
        zip(relation.columns, map(str, relation.types), strict=True)
    )
