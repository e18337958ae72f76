"""The reward `remote`: a request an answer, many at once."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from acme_tk_remote.options import RemoteOptions
from tk.contracts import Scored
from tk.errors import TkError, UsageError


class Remote:
    """A Reward (tk.contracts). Raises UsageError for a column that no row has, TkError for a server that gives no score."""

    def __init__(self, options: RemoteOptions) -> None:
        if not options.url.startswith(("http://", "https://")):
            raise UsageError(f"rewards.remote.url: {options.url!r} is no address: it begins with http:// or https://.")
        self.options = options

    async def __call__(self, batch: Scored) -> Sequence[float | None]:
        missing = [name for name in self.options.columns if batch.completions and name not in batch.columns]
        if missing:
            there = ", ".join(batch.columns) or "none"
            raise UsageError(f"rewards.remote.columns: no row has {', '.join(missing)}; there are: {there}.")
        room = asyncio.Semaphore(self.options.at_once)

        async def ask(index: int) -> float | None:
            async with room:
                return await asyncio.to_thread(self._score, self._question(batch, index))

        return await asyncio.gather(*map(ask, range(len(batch.completions))))

    def _question(self, batch: Scored, index: int) -> Mapping[str, Any]:
        said = [{"role": message.role, "content": message.text} for message in batch.prompts[index]]
        columns = {name: batch.columns[name][index] for name in self.options.columns}
        return {"prompt": said, "completion": batch.completions[index].text, "columns": columns}

    def _score(self, question: Mapping[str, Any]) -> float | None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.options.url, json.dumps(question).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=self.options.timeout) as response:
                score = json.load(response)["score"]
            return None if score is None else float(score)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TkError(f"rewards.remote: {self.options.url} gave no score: {error!r}.") from error
