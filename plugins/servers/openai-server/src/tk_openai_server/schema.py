"""Requests of the OpenAI protocol, as far as they are answered here; a field that is not known is refused.

Where no model is named, it is the one that is served, without any adapter.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Prompts = (
    str
    | TokenIds
    | Annotated[list[str], Field(min_length=1, max_length=2048)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=2048)]
)
"""One text, or several, as characters or as tokens."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class StreamOptions(_Model):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Generated(_Model):
    """What both ways of completing share. What is not given is as the server's `sampling` section says."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=64)] | None = None
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    user: str | None = None
    logprobs_of: Literal["model", "sampled"] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None


class Function(_Model):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Model):
    type: Literal["function"]
    function: Function


class ChatMessage(BaseModel):
    """Checked as a row of data is, so that what is served is read as what was trained on."""

    model_config = ConfigDict(extra="allow")
    role: str


class ChatRequest(_Generated):
    messages: Annotated[list[ChatMessage], Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, Any] | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None


class CompletionRequest(_Generated):
    prompt: Annotated[Prompts, Field(examples=["Once upon a time"])]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    return_token_ids: bool = False
    echo: bool = False
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(_Model):
    model: str | None = None
    input: Annotated[Prompts, Field(examples=["Once upon a time"])]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class WeightsRequest(_Model):
    folder: str
    version: Annotated[int, Field(ge=0, lt=2**63)]


class TokenizeRequest(_Model):
    model: str | None = None
    prompt: Annotated[str, Field(examples=["Once upon a time"])] | None = None
    messages: list[ChatMessage] | None = None
    tools: list[Tool] | None = None


class LoadAdapterRequest(_Model):
    lora_name: Annotated[str, Field(min_length=1, max_length=256)]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]


class UnloadAdapterRequest(_Model):
    lora_name: str
