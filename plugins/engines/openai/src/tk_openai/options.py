"""Options of the engine `openai`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class OpenAIOptions:
    """Which endpoint, and how much is asked of it at once."""

    url: Annotated[str, doc("Address of the endpoint, up to /v1.")]
    model: Annotated[str, doc("What the model is called there; the first one listed unless given.")] = ""
    key_variable: Annotated[str, doc("Environment variable that holds the key.")] = "OPENAI_API_KEY"
    max_requests: Annotated[int, doc("Requests that are on their way at once.", ge=1)] = 32
    timeout: Annotated[float, doc("Seconds that an answer may take.", gt=0)] = 600.0
    retries: Annotated[int, doc("Times that a request is sent anew that was turned away or not heard.", ge=0)] = 5
    logprobs_of: Annotated[
        Literal["sampled"] | None,
        doc(
            "`sampled`: the endpoint tells log-probs of the distribution that it samples from, as `vllm serve --logprobs-mode "
            "processed_logprobs` does. `tk serve` is asked for them; answers of others are refused where it makes a difference."
        ),
    ] = None
    extra: Annotated[dict[str, Any], doc("Further fields of each request.")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError("url: it begins with http:// or https://.")
