"""The look of a report: contrast of its colours, geometry of its charts, and what it needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import dbt_onnx
from dbt_onnx.errors import ConfigError
from dbt_onnx.reporting.charts import Line, Rect, Table, grouped, line, nice_top, outlines, stacked
from dbt_onnx.reporting.page import check_jinja

STYLE = (Path(dbt_onnx.__file__).parent / "reporting" / "page.css").read_text(encoding="utf-8")
SCHEMES = dict(
    zip(("light", "dark", "print"), re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL), strict=True)
)
TEXTS = ("ink", "quiet", "link", "good", "fair", "bad")


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2.2."""
    digits = colour if len(colour) == 6 else "".join(2 * digit for digit in colour)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_gives_the_contrasts_of_the_standard() -> None:
    assert contrast("000", "ffffff") == pytest.approx(21)
    assert contrast("777777", "fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_texts_have_a_contrast_of_4_5_and_shapes_of_3(scheme: str) -> None:
    colours = dict(re.findall(r"--(\w+): #(\w+)", SCHEMES[scheme]))
    for name, colour in colours.items():
        needed = 4.5 if name in TEXTS else 3.0 if name[0] == "s" else 1.0
        assert contrast(colour, colours["paper"]) >= needed, (name, colour)
    assert set(TEXTS) < set(colours)
    assert len(colours) == len(TEXTS) + 2 + 9


def test_all_schemes_have_the_same_colours_and_the_rest_of_the_style_has_none() -> None:
    names = [re.findall(r"--(\w+):", scheme) for scheme in SCHEMES.values()]
    assert names[0] == names[1] == names[2]
    rest = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,6}\b", rest) == []


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1), (1, 1), (0.3, 0.3), (0.26, 0.3), (23_570, 25_000), (99, 100), (1e-9, 1e-9)],
)
def test_an_axis_ends_at_a_round_number(value: float, top: float) -> None:
    assert nice_top(value) == pytest.approx(top)


def test_stacked_columns_stand_on_each_other() -> None:
    assert stacked([{"s1": 25, "s2": 50}, {"s1": 100, "s2": 0}], top=100) == [
        Rect(0, 75, 40, 25, "s1"),
        Rect(0, 25, 40, 50, "s2"),
        Rect(50, 0, 40, 100, "s1"),
    ]


def test_grouped_columns_stand_side_by_side() -> None:
    assert grouped([{"s0": 1, "s1": 0.5}], top=2) == [
        Rect(0, 50, 42, 50, "s0"),
        Rect(42, 75, 42, 25, "s1"),
    ]


def test_rectangles_of_a_class_are_one_path() -> None:
    rects = [Rect(0, 75, 40, 25, "s1"), Rect(50, 0.5, 40, 99.5, "s1"), Rect(0, 0, 1, 1, "s2")]
    assert outlines(rects) == {
        "s1": "M0 75h40v25h-40zM50 0.5h40v99.5h-40z",
        "s2": "M0 0h1v1h-1z",
    }


def test_a_line_goes_up_when_its_values_do() -> None:
    assert line([(0, 0), (0.5, 1)], "s1") == Line(((0, 100), (50, 0)), "s1")


def test_columns_of_numbers_are_aligned_but_never_names_or_dates() -> None:
    rows = [("1", "1,000", "–", "50.0%", "1998-04-01", ""), ("2", "-0.5", "1.0e-07", "–", "–", "a")]
    table = Table(caption="", header=tuple("abcdef"), rows=rows)
    assert table.is_number == (False, True, True, True, False, False)
    assert Table(caption="", header=("a", "b"), rows=[]).is_number == (False, False)


def test_without_jinja2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ConfigError, match="a report needs the package jinja2") as caught:
        check_jinja()
    assert caught.value.hint == "pip install 'dbt-onnx[report]'"
