"""How the hidden states and logits of a checkpoint are reached: its decoder and head, found and proved, or the whole model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tk.errors import TkError
from tk_tensor.branches import Masks, masks_for
from tk_tensor.head import Projection
from tk_tensor.nested import tensors
from tk_tensor.probe import accepts, at_rest, distance, names, on_meta, probe_ids, tolerance

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""Config fields of transformers with a factor on the logits; which of them divide is found out by the probe."""
CAPS = ("final_logit_softcapping",)
IDLE = "idle"
"""Name of the inputs with media of no sample, which are run so that every rank runs the same modules."""
TOWER = ("last_hidden_state", "hidden_states", "attentions")
"""What a model's features of media hold of the tower itself, behind the layer that is read too: nothing depends on it."""
LABEL_HEADS = ("score", "classifier")
"""Linear layers of transformers' classification models."""


@dataclass(frozen=True)
class Route:
    """Names of a model's parts; they are looked up in each forward, so that a strategy or tuner may replace them.

    decoder: what gives hidden states ("" : the module itself); None: only the whole module's logits can be trusted.
    head: the vocabulary projection, None without one; `scale` and `cap` of its logits.
    labels: the layer of a value or classification head. whole_scores: it is more than a linear layer on the last token
        of a sequence (encoders), so that scores are those of the whole model.
    keep: where the whole module is run, it takes an index tensor of the positions whose logits it computes.
    ignored: inputs that the model has no use for.
    masks: the form of masks that it takes for rows whose samples share a beginning; None where it cannot.
    flatten: packed rows are joined into one, for attention that keeps samples apart in single rows only.
    """

    decoder: str | None = None
    head: str | None = None
    labels: str | None = None
    whole_scores: bool = False
    scale: float = 1.0
    cap: float | None = None
    keep: bool = False
    ignored: frozenset[str] = frozenset()
    masks: Masks | None = None
    flatten: bool = False

    def projection(self, module: nn.Module) -> Projection:
        if self.head is None:
            raise TkError(f"{type(module).__name__} has no vocabulary head, and this method asks for token statistics")
        return Projection(module.get_submodule(self.head), self.scale, self.cap)

    def label_head(self, module: nn.Module) -> nn.Module:
        if self.labels is None:
            raise TkError(f"{type(module).__name__} has no value head: load it with the head that its role names")
        return module.get_submodule(self.labels)

    def arguments(self, module: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if "branches" in inputs:
            if self.masks is None:
                raise TkError(f"{type(module).__name__} takes no mask for samples that share a beginning")
            mask = self.masks(inputs, next(p.dtype for p in module.parameters() if p.is_floating_point()))
            inputs = {k: v for k, v in inputs.items() if k not in ("branches", "trees")} | {"attention_mask": mask}
        packed = inputs.get("attention_mask") is None
        if packed and "position_ids" in self.ignored:
            raise TkError(
                "this model takes no position_ids, so that packed samples would see each other: turn off packing"
            )
        kept = {k: v for k, v in inputs.items() if k not in self.ignored and k != IDLE}
        if packed and self.flatten:
            joined = {k: kept[k] for k in ("input_ids", "position_ids") if k in kept}
            kept |= {k: v.reshape(*v.shape[:-2], 1, -1) for k, v in joined.items()}
        if "use_cache" not in self.ignored:
            kept["use_cache"] = False
        if IDLE in inputs:
            kept["inputs_embeds"] = _touched(module, kept.pop("input_ids"), inputs[IDLE])
        return kept

    def hidden(self, module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """[B·T, H] last hidden states (after the final norm)."""
        arguments = self.arguments(module, inputs)
        if self.decoder is not None:
            states = module.get_submodule(self.decoder)(**arguments)[0]
        else:
            states = module(**arguments, output_hidden_states=True).hidden_states[-1]
            states = states[:, -inputs["input_ids"].shape[1] :]
        return states.reshape(-1, states.shape[-1])

    def scores(self, module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
        """[B, labels] of the whole model, for rows that hold one sample each."""
        if "branches" in inputs or inputs.get("attention_mask") is None:
            raise TkError(f"{type(module).__name__} scores whole rows: turn off packing")
        logits: Tensor = module(**self.arguments(module, inputs)).logits
        return logits

    def logits(self, module: nn.Module, inputs: Mapping[str, Any], select: Tensor) -> Tensor:
        """[N, V] logits of the whole model at flat positions `select`, computed for as few others as it allows."""
        arguments, width = self.arguments(module, inputs), inputs["input_ids"].shape[1]
        joined = self.flatten and inputs.get("attention_mask") is None
        if not self.keep:
            # A tuner's virtual tokens stand before the row's own.
            logits = module(**arguments).logits if joined else module(**arguments).logits[:, -width:]
            return logits.reshape(-1, logits.shape[-1]).index_select(0, select)
        row, column = (torch.zeros_like(select), select) if joined else (select // width, select % width)
        columns, where = torch.unique(column, return_inverse=True)
        return module(**arguments, logits_to_keep=columns).logits[row, where]


def route_of(module: nn.Module) -> Route:
    """The shortest way to a model's logits that gives what the model itself gives.

    Decoder, head, factor and soft cap are looked for below adapters too, and compared with the model's own logits on a
    few tokens (1e-4 of the largest in single precision); where they differ, or something trained stands outside of
    them (prompt tuning), the whole model is run, for the selected positions only if it can. On the meta device nothing
    is compared.
    """
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    paths = {id(m): name for name, m in reversed(list(module.named_modules(remove_duplicate=False)))}
    body = _body(inner)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    labels = next((getattr(inner, n) for n in LABEL_HEADS if isinstance(getattr(inner, n, None), nn.Module)), None)
    top = module if body is None else body
    route = Route(
        decoder=None if body is None else paths[id(body)],
        head=None if head is None else paths[id(head)],
        labels=None if labels is None else paths[id(labels)],
        ignored=frozenset(a for a in ("position_ids", "use_cache") if not accepts(top, a)),
        masks=masks_for(module),
        flatten="flash" in str(getattr(getattr(inner, "config", None), "_attn_implementation", "")),
    )
    if body is None:
        return _whole(module, route)
    outside = _trained(module) - {id(p) for part in (body, head, labels) if part is not None for p in part.parameters()}
    if outside:
        return _whole(module, replace(route, decoder=None))
    if head is None:
        if _counts_otherwise(module, route):
            route = replace(route, ignored=route.ignored | {"position_ids"})
        return replace(route, whole_scores=labels is not None and _scores_whole(module, route))
    candidates = [replace(route, scale=s, cap=c) for s in _scales(inner) for c in _caps(inner)]
    return (
        candidates[0]
        if on_meta(module)
        else _proved(module, candidates) or _whole(module, replace(route, decoder=None))
    )


def _body(inner: nn.Module) -> nn.Module | None:
    """What a transformers model puts its head on: with media towers where it has them."""
    body = getattr(inner, "base_model", None)
    if body is inner and hasattr(inner, "get_decoder"):
        body = inner.get_decoder()
    return body if isinstance(body, nn.Module) else None


def _touched(module: nn.Module, ids: Tensor, idle: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
    """[B, T, H] embeddings of tokens, which depend on features of media (times 0) as they do where there are some.

    So every rank runs the same modules forwards and backwards, in one order, which sharded modules wait for.
    """
    inner: Any = module.get_base_model() if hasattr(module, "get_base_model") else module
    owner: Any = next(part for part in inner.modules() if hasattr(part, "get_image_features"))
    made = [getattr(owner, f"get_{type}_features")(**tensors) for type, tensors in idle.items()]
    embedded: Tensor = inner.get_input_embeddings()(ids)
    for features in made:
        if isinstance(features, Mapping):
            features = {name: value for name, value in features.items() if name not in TOWER}
        embedded = embedded + sum(tensor.sum() * 0 for tensor in tensors(features) if tensor.is_floating_point())
    return embedded


def _trained(module: nn.Module) -> set[int]:
    return {id(p) for p in module.parameters() if p.requires_grad}


def _fields(inner: nn.Module, fields: tuple[str, ...]) -> Iterator[float]:
    config = getattr(inner, "config", None)
    for part in (config, config.get_text_config() if hasattr(config, "get_text_config") else None):
        for name in fields:
            value = getattr(part, name, None)
            if isinstance(value, int | float) and value:
                yield float(value)


def _scales(inner: nn.Module) -> list[float]:
    found = [s for value in _fields(inner, SCALES) for s in (value, 1.0 / value)]
    return list(dict.fromkeys([*found, 1.0]))


def _caps(inner: nn.Module) -> list[float | None]:
    return list(dict.fromkeys([*_fields(inner, CAPS), None]))


@torch.no_grad()
def _counts_otherwise(module: nn.Module, route: Route) -> bool:
    """Whether the positions that a model makes are not those from 0 on (RoBERTa's begin after that of padding)."""
    if on_meta(module) or "position_ids" in route.ignored:
        return False
    ids = probe_ids(module, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with at_rest(module):
        own = route.hidden(module, inputs)
        given = route.hidden(module, inputs | {"position_ids": torch.arange(7, device=ids.device).expand(2, 7)})
    return distance(given, own) > tolerance(module)


@torch.no_grad()
def _scores_whole(module: nn.Module, route: Route) -> bool:
    """Whether a sequence classifier computes its scores otherwise than by the linear layer on the last token."""
    if not type(module.get_base_model() if hasattr(module, "get_base_model") else module).__name__.endswith(
        "ForSequenceClassification"
    ):
        return False
    if on_meta(module):
        return not _causal(module)
    ids = probe_ids(module, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with at_rest(module):
        whole = route.scores(module, inputs)
        last = route.hidden(module, inputs).reshape(*ids.shape, -1)[:, -1]
        try:
            found = route.label_head(module)(last)
        except (RuntimeError, IndexError):  # a head of other sizes than the hidden states', or that picks of a sequence
            return True
    return distance(found, whole) > tolerance(module)


def _causal(module: nn.Module) -> bool:
    """Whether the classifier is one of a language model: by its layer's name, on meta."""
    inner: Any = module.get_base_model() if hasattr(module, "get_base_model") else module
    return hasattr(inner, "score")


@torch.no_grad()
def _proved(module: nn.Module, candidates: list[Route]) -> Route | None:
    """The candidate whose logits are the model's own, if there is one."""
    ids = probe_ids(module, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with at_rest(module):
        reference = module(**candidates[0].arguments(module, inputs)).logits
        if reference.shape[:2] != ids.shape:
            return None
        reference = reference.reshape(-1, reference.shape[-1])
        states = candidates[0].hidden(module, inputs)
        distances = [distance(c.projection(module)(states), reference) for c in candidates]
    best = min(range(len(candidates)), key=distances.__getitem__)
    return candidates[best] if distances[best] <= tolerance(module) else None


@torch.no_grad()
def _whole(module: nn.Module, route: Route) -> Route:
    """The route that runs the whole module, with an index tensor of positions where it understands one."""
    inner = module.get_base_model() if hasattr(module, "get_base_model") else module
    # peft's prompt learning makes positions of its own, and warns at each call that it does not use the given ones.
    prompts = getattr(getattr(module, "active_peft_config", None), "is_prompt_learning", False)
    unused = {a for a in ("position_ids", "use_cache") if not accepts(module, a)} | (
        {"position_ids"} if prompts else set()
    )
    route = replace(route, ignored=frozenset(unused))
    if on_meta(module) or not names(inner, "logits_to_keep"):
        return route
    ids = probe_ids(module, (2, 7))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    select = torch.tensor([1, 5, 10], device=ids.device)
    kept = replace(route, keep=True, flatten=False)
    with at_rest(module):
        full = module(**route.arguments(module, inputs)).logits
        if full.shape[:2] != ids.shape:
            return route
        close = distance(kept.logits(module, inputs, select), full.flatten(0, 1)[select]) <= tolerance(module)
    return replace(route, keep=close)
