"""What the server counts, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from kdlora.ship.answers import Predictor

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PATHS = ("/", "/predict", "/health", "/metrics", "/docs", "/openapi.json")


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self, predictor: Predictor) -> None:
        disable_created_metrics()  # a time for every counter doubles the page
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "kdlora_requests", "Requests answered.", ["path", "status"], registry=registry
        )
        self.errors = Counter(
            "kdlora_errors", "Requests refused or failed, by kind.", ["kind"], registry=registry
        )
        self.texts = Counter("kdlora_texts", "Texts predicted.", registry=registry)
        self.truncated = Counter(
            "kdlora_truncated_texts",
            "Texts longer than what the model reads, of which some had no say.",
            registry=registry,
        )
        self.windows = Counter(
            "kdlora_windows",
            "Windows that texts were read in; one a text where the model has none.",
            registry=registry,
        )
        self.queue = Gauge("kdlora_queue_texts", "Texts that wait.", registry=registry)
        self.batches = Histogram(
            "kdlora_batch_texts", "Texts computed together.", buckets=_TEXTS, registry=registry
        )
        self.compute = Histogram(
            "kdlora_batch_seconds", "Time to compute a batch.", buckets=_SECONDS, registry=registry
        )
        self.latency = Histogram(
            "kdlora_predict_seconds",
            "Time from the headers of a request to its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        card = predictor.card
        Info("kdlora_model", "The model that is served.", registry=registry).info(
            {"run_id": card.run_id, "task": card.task, "variant": predictor.variant}
        )

    def waiting(self, texts: int) -> None:
        self.queue.set(texts)

    def batch(self, texts: int, seconds: float) -> None:
        self.texts.inc(texts)
        self.batches.observe(texts)
        self.compute.observe(seconds)

    def request(self, path: str, status: int) -> None:
        """Count an answer; unknown paths share one label, or a stranger could make millions."""
        self.requests.labels(path if path in PATHS else "other", str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
