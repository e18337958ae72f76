"""Numbers of the answers' tokens by the run's models: log-probs before the first update, of a reference, values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from tk.contracts import Batch, Layout, Pass, Session
from tk_data.loader import filler
from tk_rollouts.answers import Answer, Group, answers_of

MakeBatch = Callable[[Sequence[Group], Layout], Batch]
"""What a method trains on: a sample is an answer with its prompt."""


def batch_of(session: Session, make: MakeBatch, groups: Sequence[Group]) -> Batch:
    """A batch of some groups; of none, a filler."""
    if groups:
        return make(groups, session.layout)
    stop = session.template.stop_ids()[:1] or (0,)
    idle = Group([stop[0], stop[0]], [Answer([stop[0]], trained=False)] * 2)
    return filler(make([idle], session.layout))


def score_tokens(
    session: Session,
    make: MakeBatch,
    groups: Sequence[Group],
    passes: Sequence[Pass],
    names: Mapping[str, tuple[str, str]],
) -> None:
    """Give each trained answer the statistics of its tokens. names: what they are called -> (pass, statistic).

    A group at a time, so that they do not depend on how answers are dealt to ranks and batches.
    """
    most = max(session.gather(len(groups)))
    for at in range(most):  # every rank asks equally often
        own = groups[at : at + 1]
        (outputs,) = session.score([batch_of(session, make, own)], passes)
        for name, (key, stat) in names.items():
            _give(own, name, outputs[key][stat])


def _give(groups: Sequence[Group], name: str, numbers: torch.Tensor) -> None:
    """Divide the numbers of a batch's selected positions among its answers."""
    values = iter(numbers.tolist())
    for answer in answers_of(groups):
        if answer.trained:
            answer.tokens[name] = [next(values) for _ in answer.ids]
