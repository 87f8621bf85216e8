"""The precision at which a feature is compared with its earlier value.

    exact       integers, text, moments, and floats with a stricter tolerance than their tensor's type
    float32     floats and decimals for a float32 tensor, rounded as the encoder rounds them
    float16     floats and decimals for a float16 tensor, rounded as the encoder rounds them
    9 digits    DOUBLE for a float64 tensor, with the `significant_digits` of `score()`; a whole
                number below 2^53 counts with all of its digits, and so does a DECIMAL

Each engine writes the rounding in SQL, see `dbt_onnx.engines.rounding`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from dbt_onnx.kernel.contract import FLOAT_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.kernel.contract import Contract

EXACT = "exact"
PRECISION = re.compile(r"exact|float16|float32|(1[0-5]|[1-9]) digits")
"""The valid precisions in a run row. They are checked because they become part of a statement."""
NORMAL_RANGE = {"float16": (2.0**-14, 65504.0), "float32": (2.0**-126, (2 - 2.0**-23) * 2.0**127)}
"""The least and the greatest value of a type's normal range. Outside it, exact values are compared."""
BITS_OF_DOUBLE = 53

_EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


def precisions_of(contract: Contract, significant_digits: int) -> dict[str, str]:
    """Return {feature: precision}. A feature is exact if tensors of several types read it."""
    precisions = {}
    for feature in contract.features:
        found = {
            _precision(tensor.dtype, feature.tolerance, significant_digits)
            for tensor in contract.inputs
            if feature.name in tensor.features
        }
        precisions[feature.name] = found.pop() if len(found) == 1 else EXACT
    return precisions


def _precision(dtype: str, tolerance: float | None, significant_digits: int) -> str:
    if dtype not in FLOAT_TYPES:
        return EXACT
    # with a stricter tolerance, two values that round alike may differ: one is scored, the other rejected
    if tolerance is not None and tolerance < _EPSILON[dtype]:
        return EXACT
    if dtype != "float64":
        return dtype
    bits = bits_of(significant_digits)
    return EXACT if bits >= BITS_OF_DOUBLE else f"{significant_digits} digits"


def bits_of(significant_digits: int) -> int:
    """Return how many bits of a double this number of decimal digits takes."""
    return math.ceil(significant_digits * math.log2(10))


def function_name(base: str, precisions: Mapping[str, str]) -> str:
    """Return the name of the function that hashes the features, for the run row: the warehouse's function
    `base`, and the number of significant digits if values are rounded to any.
    """
    digits = {precision for precision in precisions.values() if precision.endswith("digits")}
    return "/".join((base, *sorted(digits)))
