"""Models in memory: their families, what is trained of them, and the forms that they are written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from tk.config.sections import MediaSection
from tk.contracts.media import MediaProcessor

if TYPE_CHECKING:
    from torch import Tensor, nn


Pooling = Literal["mean", "last", "first"]
"""How one vector is made of a sequence's hidden states."""


@dataclass(frozen=True)
class Head:
    """What stands on a model's backbone.

    kind: "lm" (the vocabulary), "value" (one number a token), "score" (a number a label, for each sequence) or "none".
    labels: names of a score head's numbers. problem: how they are read, in transformers' words: "regression",
    "single_label_classification" or "multi_label_classification".
    pooling: how a model without a head makes one vector of a sequence: the mean of its tokens' hidden states, or that of
    its first or last token; None: as the checkpoint says, the mean where it says nothing.
    """

    kind: Literal["lm", "value", "score", "none"] = "lm"
    labels: tuple[str, ...] = ()
    problem: str = ""
    pooling: Pooling | None = None


LM_HEAD = Head()


@dataclass
class LoadedModel:
    """A model in memory with what belongs to it.

    module: the torch module (on the meta device for plans).
    tokenizer: as transformers loads it. media: how it takes pictures and the like; None for text.
    path: the folder or id that it was loaded from; what an adapter names as its base.
    head: what the module ends in.
    groups: module groups (language_model, vision_tower, aligner …) -> name prefixes.
    unread: names of parameters that no output depends on, which tuners leave as they are.
    supports: capabilities of this checkpoint (packing needs every layer to receive sample boundaries).
    adapters: further ones, by name, where there are any.
    """

    module: Any
    tokenizer: Any
    path: str
    media: MediaProcessor | None = None
    head: Head = LM_HEAD
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    supports: frozenset[str] = frozenset()
    adapters: Adapters | None = None

    @property
    def max_length(self) -> int | None:
        """Tokens that it can read, where its config says so."""
        found = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None


class Adapters(Protocol):
    """Adapters of a loaded model beside its own, by name."""

    @property
    def names(self) -> Sequence[str]: ...

    def add(self, name: str, folder: Path) -> None:
        """Load what a tuner has saved. Raises TkError where it does not fit, or changes nothing; all is then as it was."""
        ...

    def remove(self, name: str) -> None:
        """Let go of one. Raises UsageError where there is none of that name. Nothing that names it may be on its way."""
        ...

    def chosen(self, names: Sequence[str]) -> Mapping[str, Any]:
        """Arguments of the module's forward by which each row is computed with the adapter of its name; "": the model's own."""
        ...


@runtime_checkable
class ModelFamily(Protocol):
    """A model family. Built as `target([options])`."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Folder of a checkpoint, fetched or converted first where needed. `name`: short name, folder or hub id."""
        ...

    def load(
        self,
        path: str,
        *,
        device: str = "cpu",
        dtype: str = "auto",
        head: Head = LM_HEAD,
        attention: str = "auto",
        trust_remote_code: bool = False,
        media: MediaSection | None = None,
    ) -> LoadedModel:
        """Load a resolved checkpoint. device "meta" reads no weights; "auto" is the accelerator where there is one.

        media: where pictures and the like may be read from.
        """
        ...

    def save(self, model: LoadedModel, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Write a checkpoint that plain transformers opens; `weights` replace the module's own."""
        ...


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with their own factor on the learning rate, and weight decay on or off."""

    parameters: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    decay: bool = True
    name: str = ""


@runtime_checkable
class Tuner(Protocol):
    """What is trained of a model. Built as `target([options])`."""

    def attach(self, model: LoadedModel) -> None:
        """Freeze, or put adapters on `model.module` (replaced where need be). Works on the meta device."""
        ...

    def parameter_groups(self, module: nn.Module) -> Sequence[ParamGroup]: ...

    def adapter_off(self, module: nn.Module) -> AbstractContextManager[None]:
        """The untuned model for as long as it is entered. Raises TkError where the tuner has no such thing."""
        ...

    def save(self, model: LoadedModel, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write what was trained in the form that peft or transformers opens.

        weights: full tensors by name: those that were trained; all, where the tuner supports `whole-model`.
        """
        ...

    def load(self, model: LoadedModel, folder: Path) -> None:
        """Read into an attached module what `save` wrote."""
        ...

    def changes_output(self, model: LoadedModel) -> bool:
        """Whether the tuned model computes anything else than the untuned; True where the untuned one is gone.

        An adapter that changes nothing (its names do not fit, it was never trained) is not served or exported.
        """
        ...

    def adapters(self, model: LoadedModel) -> Adapters:
        """What is needed to have several of its adapters on a model (`adapters`). Raises TkError without that."""
        ...

    def merge(self, model: LoadedModel) -> None:
        """Fold adapters into the base weights, so that `model.module` is a plain model with the base's keys."""
        ...


class Exporter(Protocol):
    """A form that a trained model is written in. Built as `target([options])`."""

    def export(self, model: LoadedModel, folder: Path, *, family: ModelFamily) -> Path:
        """Write a merged model; nothing is left behind where it fails. Returns the folder or file written."""
        ...


class Hub(Protocol):
    """Built as `target([options])`."""

    def fetch(self, name: str, revision: str | None = None) -> Path: ...
