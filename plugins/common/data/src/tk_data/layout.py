"""How a run's rows are laid out, from its config and tokenizer."""

from __future__ import annotations

from typing import Any, Literal

from tk.config.sections import DataSection
from tk.contracts import Layout, MediaProcessor


def layout_for(
    data: DataSection,
    tokenizer: Any,
    multiple: int = 1,
    *,
    shared_prefix: bool = False,
    media: MediaProcessor | None = None,
    touch: frozenset[str] = frozenset(),
) -> Layout:
    """Padding with the tokenizer's pad token (or end of sequence: padding is masked), on the right unless asked for.

    multiple: row lengths are rounded up to a multiple of it. shared_prefix, media, touch: as in the layout.
    """
    ends = tokenizer.eos_token_id
    eos = ends[0] if isinstance(ends, (list, tuple)) else ends
    pad = next((token for token in (tokenizer.pad_token_id, eos) if token is not None), 0)
    side: Literal["left", "right"] = "left" if data.padding_side == "left" else "right"
    return Layout(int(pad), side, data.packing, multiple, shared_prefix=shared_prefix, media=media, touch=touch)
