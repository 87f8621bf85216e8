"""The sections of the benchmark, one module each. `measure(scale)` yields each `Row` as soon as it is measured."""
