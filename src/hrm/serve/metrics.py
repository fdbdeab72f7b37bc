"""What a server measures of itself, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms in a registry of their own."""

    def __init__(self) -> None:
        self.registry = on = CollectorRegistry()
        self.requests = Counter("hrm_requests", "Requests that were answered", ["route", "status"], registry=on)
        self.seconds = Histogram(
            "hrm_request_seconds", "Time of a request, its stream included", ["route"], buckets=_SECONDS, registry=on
        )
        self.first = Histogram(
            "hrm_time_to_first_token_seconds", "From a request's arrival to its first token", ["model"],
            buckets=_SECONDS, registry=on,
        )  # fmt: skip
        self.between = Histogram(
            "hrm_time_between_tokens_seconds", "From one token of a request to the next", ["model"],
            buckets=_SECONDS, registry=on,
        )  # fmt: skip
        self.batch = Histogram(
            "hrm_batch_size", "Requests that shared a segment", ["model"], buckets=_SIZES, registry=on
        )
        self.waiting = Gauge("hrm_waiting", "Requests that wait for a slot", ["model"], registry=on)
        self.depth = Gauge("hrm_mean_depth_segments", "Mean depth of the tokens drawn last", ["model"], registry=on)
        self.tokens = Counter("hrm_tokens", "Tokens that were drawn", ["model"], registry=on)
        self.segments = Counter("hrm_token_segments", "Depths of the drawn tokens, summed", ["model"], registry=on)
        self.puzzles = Counter("hrm_puzzles", "Puzzles that were tried to the end", ["model"], registry=on)
        self.thought = Counter("hrm_puzzle_segments", "Segments that these took", ["model"], registry=on)
        self.cache = Gauge("hrm_cache_bytes", "Keys and values that are held", ["model"], registry=on)

    def step(self, model: str, step: Any) -> None:
        """Take what an engine says of a step; called in its thread."""
        self.batch.labels(model).observe(step.requests)
        if (written := getattr(step, "written", 0)) > 0:
            self.tokens.labels(model).inc(written)
            self.segments.labels(model).inc(step.depth)
            self.depth.labels(model).set(step.depth / written)
        if (answered := getattr(step, "answered", 0)) > 0:
            self.puzzles.labels(model).inc(answered)
            self.thought.labels(model).inc(step.depth)

    def now(self, engines: Mapping[str, Any]) -> None:
        """Take what is so at this moment, also where nothing has been computed since; None for a model not loaded."""
        for model, engine in engines.items():
            self.waiting.labels(model).set(0 if engine is None else engine.waiting)
            self.cache.labels(model).set(getattr(engine, "cache_bytes", 0))
