"""The metrics of the HTTP service, in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dbt_onnx.serving.folder import Served

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)


class Metrics:
    """Counts of requests by route and status, and their durations, from the head of a request to its response."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._took: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(_SECONDS) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def count(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests[route, status] += 1
        self._took[route][bisect_left(_SECONDS, seconds)] += 1
        self._seconds[route] += seconds

    def text(
        self,
        served: Iterable[Served],
        submitted: Mapping[str, Mapping[str, Mapping[str, int]]],
    ) -> bytes:
        """Return all metrics in Prometheus' text format: those of requests, of the `served` publications, and of
        the `submitted` requests, which are counts by publication, `state` and `delivery`.
        """
        lines = [*self._of_requests(), *_of_publications(list(served)), *_of_submitted(submitted)]
        return ("\n".join(lines) + "\n").encode()

    def _of_requests(self) -> Iterator[str]:
        name = "dbt_onnx_http_requests_total"
        yield from _head(name, "counter", "Requests that were answered.")
        for (route, status), count in sorted(self._requests.items()):
            yield f'{name}{{route="{route}",status="{status}"}} {count}'
        name = "dbt_onnx_http_request_seconds"
        yield from _head(name, "histogram", "Time from the head of a request to its answer.")
        for route, counts in sorted(self._took.items()):
            bounds = (*map(str, _SECONDS), "+Inf")
            for bound, count in zip(bounds, accumulate(counts), strict=True):
                yield f'{name}_bucket{{route="{route}",le="{bound}"}} {count}'
            yield f'{name}_sum{{route="{route}"}} {self._seconds[route]:.6f}'
            yield f'{name}_count{{route="{route}"}} {sum(counts)}'


def _of_publications(served: list[Served]) -> Iterator[str]:
    name = "dbt_onnx_publication_info"
    yield from _head(name, "gauge", "The publication that answers come from.")
    for each in served:
        if each.manifest is not None:
            yield f'{name}{{name="{each.name}",publication="{each.manifest.id}"}} 1'
    name = "dbt_onnx_publication_age_seconds"
    yield from _head(
        name, "gauge", "Seconds since the project's clock in the run that published it."
    )
    for each in served:
        if each.age is not None:
            yield f'{name}{{name="{each.name}"}} {each.age.total_seconds():.3f}'
    name = "dbt_onnx_publication_rows"
    yield from _head(name, "gauge", "Rows of the publication.")
    for each in served:
        if each.manifest is not None:
            yield f'{name}{{name="{each.name}"}} {each.manifest.rows}'
    name = "dbt_onnx_publication_problem"
    yield from _head(name, "gauge", "1 if it is damaged or older than stale_after.")
    for each in served:
        yield f'{name}{{name="{each.name}"}} {int(each.problem is not None)}'


def _of_submitted(
    submitted: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> Iterator[str]:
    figures = (
        ("dbt_onnx_submitted_requests", "state", "Submitted requests by state, while they are kept."),
        ("dbt_onnx_webhook_deliveries", "delivery", "Webhook deliveries by state, while their requests are kept."),
    )  # fmt: skip
    for name, column, about in figures:
        yield from _head(name, "gauge", about)
        for published, counts in submitted.items():
            for state, count in counts[column].items():
                yield f'{name}{{name="{published}",state="{state}"}} {count}'


def _head(name: str, kind: str, about: str) -> Iterator[str]:
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {kind}"
