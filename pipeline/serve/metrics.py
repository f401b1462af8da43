"""Count what a service does, as text for Prometheus (exposition format 0.0.4).

A replica of Ray Serve also reports to Ray: ``GET /metrics`` reaches only one replica, Ray's metrics port has all of them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.run.metrics import Metric

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH = (1, 2, 4, 8, 16)
QUALITY = tuple(step / 10 for step in range(1, 11))


ON_RAY = {
    "requests": Metric("counter", "matteline_serve_requests", "Answers by path and status.", ("path", "status")),
    "failures": Metric("counter", "matteline_serve_failures", "Refused and failed requests by error code.", ("code",)),
    "answer": Metric(
        "histogram", "matteline_serve_answer_seconds", "Seconds from a picture's arrival to its cutout, encoded.", (), SECONDS
    ),
    "batch": Metric("histogram", "matteline_serve_batch_pictures", "Pictures per pass of the model.", (), BATCH),
    "stage": Metric(
        "histogram",
        "matteline_serve_stage_seconds",
        "Seconds per stage: read, decode, wait, model (a batch), encode.",
        ("stage",),
        SECONDS,
    ),
    "quality": Metric("histogram", "matteline_serve_quality", "Quality of the masks.", (), QUALITY),
}
"""Metrics of the replicas. Outside Ray, nothing happens (``run.metrics``)."""


@dataclass
class _Histogram:
    bounds: Sequence[float]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[next((at for at, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))] += 1
        self.sum += value

    def lines(self, name: str, labels: str = "") -> Iterable[str]:
        for bound, count in zip([*map(str, self.bounds), "+Inf"], itertools.accumulate(self.counts), strict=True):
            yield f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {count}'
        shown = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{shown} {self.sum:.6f}"
        yield f"{name}_count{shown} {sum(self.counts)}"


class Metrics:
    """The counters of one service. Used by one event loop only. ``gauges`` are read when the text is asked for."""

    def __init__(self) -> None:
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        """Help text and value by name."""
        self._requests: Counter[tuple[str, int]] = Counter()
        self._failures: Counter[str] = Counter()
        self._answer = _Histogram(SECONDS)
        self._stages: dict[str, _Histogram] = {}
        self._batch, self._quality = _Histogram(BATCH), _Histogram(QUALITY)

    def count_request(self, path: str, status: int, code: str | None) -> None:
        """Count an answer. ``path`` is one of the service's own, or ``other``; ``code`` is that of a refusal."""
        self._requests[path, status] += 1
        ON_RAY["requests"].add(1, path=path, status=str(status))
        if code:
            self._failures[code] += 1
            ON_RAY["failures"].add(1, code=code)

    def observe_answer(self, seconds: float) -> None:
        """Count the seconds of a cutout, from the arrival of its picture: slow uploads and downloads are the client's."""
        self._answer.observe(seconds)
        ON_RAY["answer"].observe([seconds])

    def observe_batch(self, pictures: int, seconds: float) -> None:
        """Count a pass of the model."""
        self._batch.observe(pictures)
        ON_RAY["batch"].observe([pictures])
        self.observe_stage("model", seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count the seconds of a stage: read, decode, wait, model (a pass), encode."""
        self._stages.setdefault(stage, _Histogram(SECONDS)).observe(seconds)
        ON_RAY["stage"].observe([seconds], stage=stage)

    def observe_quality(self, quality: float) -> None:
        """Count a mask."""
        self._quality.observe(quality)
        ON_RAY["quality"].observe([quality])

    def text(self) -> str:
        """Return all metrics."""
        lines = [*_head("requests_total", "counter", "Answers by path and status.")]
        lines += [
            f'matteline_serve_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self._requests.items())
        ]
        lines += _head("failures_total", "counter", "Refused and failed requests by error code.")
        lines += [f'matteline_serve_failures_total{{code="{code}"}} {count}' for code, count in sorted(self._failures.items())]
        lines += _head("answer_seconds", "histogram", "Seconds from a picture's arrival to its cutout, encoded.")
        lines += self._answer.lines("matteline_serve_answer_seconds")
        lines += _head("stage_seconds", "histogram", "Seconds per stage: read, decode, wait, model (a batch), encode.")
        for stage, histogram in sorted(self._stages.items()):
            lines += histogram.lines("matteline_serve_stage_seconds", f'stage="{stage}"')
        lines += _head("batch_pictures", "histogram", "Pictures per pass of the model.")
        lines += self._batch.lines("matteline_serve_batch_pictures")
        lines += _head("quality", "histogram", "Quality of the masks.")
        lines += self._quality.lines("matteline_serve_quality")
        for name, (about, read) in self.gauges.items():
            lines += [*_head(name, "gauge", about), f"matteline_serve_{name} {read():g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP matteline_serve_{name} {about}", f"# TYPE matteline_serve_{name} {kind}"]
