"""Options of the tuner `lora`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class LoraOptions:
    """LoRA (Hu et al., 2021) and its variants, as peft has them."""

    rank: Annotated[int, doc("Rank of the update matrices.", ge=1)] = 16
    alpha: Annotated[float | None, doc("The update is scaled by alpha / rank; twice the rank unless given.", gt=0)] = (
        None
    )
    dropout: Annotated[float, doc("Dropout on the input of the update matrices.", ge=0, lt=1)] = 0.0
    bias: Annotated[Literal["none", "all", "lora_only"], doc("Which biases are trained too.")] = "none"
    targets: Annotated[
        str | list[str],
        doc('"all-linear" (all linear layers but the head), a list of module names, or a regex of whole names.'),
    ] = "all-linear"
    groups: Annotated[
        list[str],
        doc(
            "Of a model with several module groups (language_model, vision_tower, aligner), those that get adapters; "
            "the language model alone unless given."
        ),
    ] = field(default_factory=list)
    exclude: Annotated[str | list[str], doc("Module names, or a regex of whole names, that get no adapter.")] = field(
        default_factory=list
    )
    modules_to_save: Annotated[list[str], doc("Modules that are trained whole and saved with the adapter.")] = field(
        default_factory=list
    )
    rslora: Annotated[bool, doc("Scale by alpha / sqrt(rank) (arXiv:2312.03732).")] = False
    dora: Annotated[bool, doc("Train magnitudes apart from directions (arXiv:2402.09353).")] = False
    lora_plus_ratio: Annotated[
        float, doc("Learning rate of the B matrices over that of A (LoRA+, arXiv:2402.12354).", gt=0)
    ] = 1.0
    init: Annotated[
        str,
        doc(
            "Initialisation: true (B = 0), gaussian, orthogonal, olora (arXiv:2406.01775), pissa or pissa_niter_N "
            "(arXiv:2404.02948; N iterations of a fast SVD).",
            pattern=r"^(true|gaussian|orthogonal|olora|pissa|pissa_niter_[1-9][0-9]*)$",
        ),
    ] = "true"
    rank_pattern: Annotated[dict[str, int], doc("Other ranks by group, module name or regex.")] = field(
        default_factory=dict
    )
    alpha_pattern: Annotated[dict[str, float], doc("Other alphas by group, module name or regex.")] = field(
        default_factory=dict
    )
    lr_scale: Annotated[
        dict[str, float], doc("Factor on the learning rate by group, name, glob or re:expression; the first that fits.")
    ] = field(default_factory=dict)
    layers_to_transform: Annotated[list[int], doc("Only these layers get adapters; all unless given.")] = field(
        default_factory=list
    )
    target_parameters: Annotated[
        list[str], doc("Parameters (not modules) that get an update, such as the experts of a mixture.")
    ] = field(default_factory=list)
    token_indices: Annotated[list[int], doc("Token ids whose embeddings are trained too.")] = field(
        default_factory=list
    )
