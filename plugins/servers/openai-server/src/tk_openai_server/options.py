"""Options of the server `openai`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class ServerOptions:
    """Who may ask, and for what."""

    host: Annotated[str, doc("Address to listen on; this machine only unless given.")] = "127.0.0.1"
    port: Annotated[int, doc("Port; 0: any that is free.", ge=0, le=65535)] = 8000
    api_keys: Annotated[list[str], doc("Keys, one of which clients must show; none: anybody may ask.", secret=True)] = (
        field(default_factory=list)
    )
    model_name: Annotated[str, doc("What clients call the model; its own or its run's name unless given.")] = ""
    vectors: Annotated[bool, doc("Offer the model's vectors of texts, not its answers.")] = False
    load_adapters: Annotated[
        bool, doc("Let clients load adapters from folders of this machine, and unload them (/v1/load_lora_adapter).")
    ] = False
    weight_updates: Annotated[
        bool, doc("Let clients put other weights in the model, from folders of this machine (/v1/update_weights).")
    ] = False
    max_body: Annotated[int, doc("Bytes of a request.", ge=1)] = 4_000_000
    max_prompt: Annotated[int | None, doc("Tokens of a prompt; the model's positions unless given.", ge=1)] = None
    max_output: Annotated[int | None, doc("Tokens of an answer that may be asked for.", ge=1)] = None
    max_answers: Annotated[int, doc("Answers that one request may ask for: its prompts times n.", ge=1)] = 1024
    logprobs: Annotated[
        Literal["model", "sampled"],
        doc(
            "Log-probabilities that are told: the model's own, as OpenAI and vLLM give them, or those of the distribution that "
            "tokens are sampled from, after penalties, temperature, top_k and top_p."
        ),
    ] = "model"
    max_requests: Annotated[
        int, doc("Requests on their way at once, those that wait for the engine included.", ge=1)
    ] = 256
    timeout: Annotated[float, doc("Seconds that a request may take to come, and its answer to be made.", gt=0)] = 600.0
    drain: Annotated[int, doc("Seconds that answers on their way have when the server is ended.", ge=0)] = 30

    def __post_init__(self) -> None:
        if not all(key.strip() for key in self.api_keys):
            raise ValueError("api_keys: a key is empty, and would let anybody in: was its variable set?")
