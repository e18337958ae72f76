"""The closed vocabulary of `requires` and `supports`: what parts of a run must agree on.

A package may add words of its own with its distribution's name in front ("tk-plugin-x:word"), in which the kinds have a
say that have a component which supports it; every other word must be listed here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capability:
    """What a word means, and the kinds whose parts must support it where it is wished for or required."""

    text: str
    kinds: tuple[str, ...] = ()


CAPABILITIES: dict[str, Capability] = {
    "packing": Capability("several samples share one row, and none sees another", ("methods", "tuners")),
    "index-select": Capability("only the supervised positions are given to the vocabulary projection"),
    "shared-prefix": Capability("answers to one prompt are computed in one row under a block mask", ("tuners",)),
    "adapter-off": Capability("the untuned model can be had by switching the adapter off", ("tuners",)),
    "whole-model": Capability(
        "what it saves is the whole model, so that it is given all weights to write", ("tuners",)
    ),
    "merge": Capability("what was trained can be merged into the base weights", ("tuners",)),
    "padding-left": Capability("padding may stand before the tokens", ("methods",)),
    "sequence-parallel": Capability("one row may be spread over several processes", ("methods", "strategies")),
    "sharding": Capability("parameters may be spread over several processes", ("tuners", "strategies")),
    "elementwise": Capability(
        "a weight's update depends on its own gradient and state only, so that tensors may be cut anywhere",
        ("optimizers",),
    ),
    "streaming": Capability("results can be had token by token", ("engines",)),
    "shared-module": Capability("generates on the module in memory as it stands in training", ("engines",)),
    "adapters": Capability("several adapters are at hand at once, chosen request by request"),
    "penalties": Capability("tokens that an answer has already can be made less likely", ("engines",)),
    "min-p": Capability("tokens far less likely than the likeliest can be left out", ("engines",)),
    "logit-bias": Capability("tokens can be made more or less likely by their ids", ("engines",)),
    "top-logprobs": Capability(
        "the likeliest tokens of each place can be had with their log-probabilities", ("engines",)
    ),
    "prompt-logprobs": Capability("log-probabilities of a prompt's own tokens can be had", ("engines",)),
    "model-logprobs": Capability(
        "log-probabilities of the model itself can be had, whatever distribution is sampled", ("engines",)
    ),
    "media": Capability("prompts may have pictures, videos and sound in them", ("engines",)),
    "scores": Capability("scores and vectors can be had of models without a vocabulary head", ("engines",)),
    "own-template": Capability("conversations are answered by a template of the engine's own", ("engines",)),
    "sleep": Capability("memory can be let go between requests", ("engines",)),
    "weight-update": Capability("weights can be replaced while it runs", ("engines",)),
    "embedding-noise": Capability(
        "what is trained on does not come from the model as it stands, so that its embeddings may have noise",
        ("methods", "trainers"),
    ),
    "compile": Capability("training steps can be compiled", ("trainers", "strategies")),
    "activation-offload": Capability("activations can wait in the memory of the CPU", ("trainers",)),
    "gradient-checkpointing": Capability("activations can be recomputed in the backward pass", ("models",)),
}


def is_known(word: str) -> bool:
    """Whether a capability may stand in a spec: listed here, or with a distribution's name in front."""
    return word in CAPABILITIES or ":" in word
