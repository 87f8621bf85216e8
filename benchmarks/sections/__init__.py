"""A module per section: `measure(scale)` yields a `Row` as soon as it is known."""
