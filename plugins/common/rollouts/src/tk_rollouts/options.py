"""Options that methods have in common whose answers an engine samples. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tk.config.options import doc


@dataclass(frozen=True)
class CorrectionOptions:
    """What is made of an engine whose probabilities are not quite the policy's."""

    correction: Annotated[
        Literal["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"],
        doc(
            "Weigh what is learned from a token (or an answer) by how much more probable it was to the policy than to the "
            "engine that sampled it; beyond the bounds such a weight is cut to them, or is 0. `engine_ratio` and `engine_gap` "
            "in the log tell how far they are apart."
        ),
    ] = "none"
    correction_max: Annotated[float | None, doc("The greatest such weight.", gt=0)] = 3.0
    correction_min: Annotated[float | None, doc("The least such weight.", gt=0)] = None

    def __post_init__(self) -> None:
        if None not in (self.correction_min, self.correction_max) and self.correction_min >= self.correction_max:  # type: ignore[operator]
            raise ValueError("correction_min: it must be less than correction_max.")
        if self.correction.endswith("truncate") and self.correction_min is None and self.correction_max is None:
            raise ValueError("correction: there is no bound to cut weights to: give correction_max or correction_min.")
