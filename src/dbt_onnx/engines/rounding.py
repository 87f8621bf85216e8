"""SQL that rounds a number to the value that reaches a model, see `dbt_onnx.runs.precisions`."""

from __future__ import annotations

from dataclasses import dataclass

from dbt_onnx.runs.precisions import BITS_OF_DOUBLE, NORMAL_RANGE, bits_of

_FRACTION_BITS_OF_FLOAT16 = 10
# a value that equals a whole number in this many leading bits is one: the rest is noise of a sum
_BITS_OF_WHOLE = 43
# above this value, the product with the splitting factor would overflow
_MAX_SPLIT = 1e290


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How an engine writes rounding in SQL.

    `double_suffix` turns a number with an exponent into a double literal. `nearest` and `half_even` are format
    strings of functions that round to a whole number. `half_even` must round halves to the even number; for
    `nearest` it does not matter how halves are rounded.
    """

    double_suffix: str
    nearest: str
    half_even: str

    def of(self, value: str, precision: str) -> str:
        """SQL of a double that is rounded to a precision other than `exact`."""
        if precision in NORMAL_RANGE:
            rounded = f"cast(cast({value} as float) as double)"
            if precision == "float16":
                # round only once: after rounding to float32, a value just above a half would round down
                two = f"2e0{self.double_suffix}"
                unit = f"pow({two}, floor(log2(abs({value}))) - {_FRACTION_BITS_OF_FLOAT16})"
                rounded = f"{self.half_even.format(f'{value} / {unit}')} * {unit}"
            # outside the normal range the exact value decides whether a row is rejected: do not round
            low, high = map(self._double, NORMAL_RANGE[precision])
            return (
                f"case when abs({value}) between {low} and {high} then {rounded} else {value} end"
            )
        bits = bits_of(int(precision.partition(" ")[0]))
        # Dekker's splitting leaves the upper bits of a double: T. J. Dekker, "A floating-point technique
        # for extending the available precision" (1971)
        product = f"{value} * {self._double(2.0 ** (BITS_OF_DOUBLE - bits) + 1)}"
        nearly = self._double(2.0 ** -max(bits, _BITS_OF_WHOLE))
        whole = self.nearest.format(value)
        return (
            f"case when abs({value}) < {self._double(2.0**BITS_OF_DOUBLE)} "
            f"and abs({value} - {whole}) <= abs({value}) * {nearly} then {whole} "
            f"when abs({value}) < {self._double(_MAX_SPLIT)} "
            f"then {product} - ({product} - {value}) else {value} end"
        )

    def _double(self, value: float) -> str:
        return f"{float(value):.17e}{self.double_suffix}"
