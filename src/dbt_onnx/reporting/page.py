"""The report as one HTML file: no scripts, nothing from the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbt_onnx.errors import ConfigError
from dbt_onnx.reporting.charts import Chart, Table, outlines
from dbt_onnx.reporting.contents import glances_of, sections_of
from dbt_onnx.runs.health import age_text
from dbt_onnx.version import __version__

if TYPE_CHECKING:
    from dbt_onnx.reporting.gather import Facts

_FOLDER = Path(__file__).parent


def check_jinja() -> None:
    """Raise ConfigError if jinja2 is not installed, before anything is read."""
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"a report needs the package jinja2: {error}", hint="pip install 'dbt-onnx[report]'"
        ) from error


def page_of(facts: Facts) -> str:
    """Return the page about these facts. All texts are escaped. Raises ConfigError without jinja2."""
    check_jinja()
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["outlines"] = outlines
    environment.tests |= {
        "chart": lambda block: isinstance(block, Chart),
        "table": lambda block: isinstance(block, Table),
    }
    template = environment.get_template("page.html.jinja")
    style = Markup((_FOLDER / "page.css").read_text(encoding="utf-8"))  # noqa: S704, our own file
    page = template.render(
        facts=facts,
        glances=glances_of(facts),
        sections=sections_of(facts),
        style=style,
        version=__version__,
        stale_after=age_text(facts.health.stale_after),
    )
    return page.strip() + "\n"
