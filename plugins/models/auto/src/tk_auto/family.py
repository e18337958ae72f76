"""The family of every checkpoint that transformers opens: resolve, load with the head that is asked for, save."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tk.config.sections import MediaSection
from tk.contracts import LM_HEAD, Head, LoadedModel

if TYPE_CHECKING:
    from torch import Tensor


class AutoFamily:
    """A ModelFamily over transformers' Auto classes. Has no options."""

    def resolve(self, name: str, revision: str | None = None) -> str:
        """Folder of a checkpoint: the folder itself, or the hub's snapshot (fetched, or from the cache when offline)."""
        from tk_auto import hub

        return str(hub.resolve(name, revision))

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
        """Load a resolved checkpoint; on "meta", its shapes only. A head it does not have is initialised alike in
        every process. Of models that take media, the text only. Raises TkError naming the folder and what is wrong.
        """
        from tk_auto import loading

        return loading.load(Path(path), device, dtype, head, attention, trust_remote_code)

    def save(self, model: LoadedModel, folder: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
        """Write config, safetensors, tokenizer, chat template and generation config, all or nothing."""
        from tk_auto import saving

        replaced: dict[str, Any] | None = None if weights is None else dict(weights)
        saving.save(model, folder, replaced)
