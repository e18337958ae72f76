"""What the server counts, as Prometheus reads it. Each server has counters of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self.requests = Counter("tk_requests", "Requests answered.", ["path", "status"], registry=own)
        self.in_flight = Gauge("tk_requests_in_flight", "Requests on their way.", registry=own)
        self.seconds = Histogram(
            "tk_request_seconds", "From first byte to last.", ["path"], buckets=SECONDS, registry=own
        )
        self.first_token = Histogram("tk_first_token_seconds", "Until the first token.", buckets=SECONDS, registry=own)
        self.prompts = Counter("tk_prompt_tokens", "Tokens of prompts.", registry=own)
        self.generated = Counter("tk_generated_tokens", "Tokens generated.", registry=own)

    def text(self) -> bytes:
        return generate_latest(self._registry)
