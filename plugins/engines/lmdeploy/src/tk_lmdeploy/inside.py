"""LMDeploy's engine behind plain values. Runs in LMDeploy's environment, which need not have tk: `tk_remote.worker` says how.

Written to LMDeploy 0.18. What needs kernels for a GPU is imported only when there is one.
"""

import asyncio
import dataclasses

import torch
from lmdeploy.cli.serve import SubCliServe
from lmdeploy.messages import GenerationConfig, PytorchEngineConfig, ResponseType, TurbomindEngineConfig
from lmdeploy.version import __version__
from tk_worker import Streams, arguments

DEFAULTS = ["--backend", "pytorch", "--logprobs-mode", "raw_logprobs", "--disable-metrics"]
CONFIGS = {"pytorch": PytorchEngineConfig, "turbomind": TurbomindEngineConfig}
RENAMED = {"device": "device_type", "cache_block_seq_len": "block_size"}
"""Words of the command line -> what PyTorch's config calls them."""
OWN = ("role", "migration_backend", "adapters")
"""Options whose words are no values of the config; the first two serve apart, which is not done here."""


class Inside:
    def __init__(self, model, words, adapters):
        """model: folder of the checkpoint. words: as those of `lmdeploy serve api_server`. adapters: of LoRA, name -> folder."""
        parsed = arguments(_parser(), [*DEFAULTS, model], words, "LMDeploy's parser")
        if not torch.accelerator.is_available():
            raise ValueError(
                f"LMDeploy {__version__} needs a GPU, and torch {torch.__version__} of its environment sees none."
            )
        if adapters and parsed.backend != "pytorch":
            raise ValueError("engine.args: LMDeploy takes adapters with backend: pytorch only.")
        from lmdeploy.serve.core import AsyncEngine

        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._streams = Streams(self._loop)
        self._adapters = dict(adapters)
        self._engine = AsyncEngine(model, backend=parsed.backend, backend_config=_config(parsed, self._adapters))
        self._streams.call(self._begin())
        self.about = {
            "lmdeploy": __version__,
            "backend": parsed.backend,
            "dtype": parsed.dtype,
            "max_length": self._engine.session_len,
        }

    @property
    def busy(self):
        return self._streams.busy

    def add(self, request, ids, sampling, stop_ids, adapter):
        if adapter and self._adapters.get(adapter[0]) != adapter[1]:
            raise ValueError(f"LMDeploy serves the adapters that it began with: {adapter[0]!r} is none of them.")
        self._wake()
        self._streams.begin(
            request, self._answer(ids, _sampling(sampling, stop_ids), sampling["top_logprobs"], adapter)
        )

    def cancel(self, request):
        self._streams.end(request)

    def step(self):
        return self._streams.step()

    def sleep(self):
        if not self._engine.is_sleeping:
            self._streams.call(self._engine.sleep(1))

    def close(self):
        self._engine.close()

    def _wake(self):
        if self._engine.is_sleeping:
            self._engine.wakeup()

    async def _begin(self):
        self._engine.start_loop(self._loop, use_async_api=True)

    async def _answer(self, ids, config, count, adapter):
        session = self._engine.session_mgr.get()
        try:
            async with session.request_handle() as handle:
                parts = handle.async_stream_infer(
                    session.session_id,
                    input_ids=ids,
                    gen_config=config,
                    adapter_name=adapter[0] if adapter else None,
                    stream_output=True,
                )
                async for part in parts:
                    yield _event(part, config, count)
        finally:
            self._engine.session_mgr.remove(session)


def _parser():
    SubCliServe.add_parser_api_server()
    return SubCliServe.subparsers.choices["api_server"]


def _config(parsed, adapters):
    """The backend's config of what was parsed, as `lmdeploy serve api_server` makes it."""
    cls = CONFIGS[parsed.backend]
    pytorch = cls is PytorchEngineConfig
    names = {field.name for field in dataclasses.fields(cls)}
    given = {
        RENAMED.get(name, name) if pytorch else name: value for name, value in vars(parsed).items() if name not in OWN
    }
    found = {name: value for name, value in given.items() if name in names and value is not None}
    more = {"adapters": adapters or None} if pytorch else {}
    return cls(**found, enable_metrics=not parsed.disable_metrics, **more)


def _sampling(sampling, stop_ids):
    """Raises ValueError for what LMDeploy refuses."""
    greedy = sampling["temperature"] == 0
    shaped = sampling["temperature"] != 1 or sampling["top_p"] < 1 or sampling["top_k"] or sampling["min_p"]
    if sampling["logprobs"] and (sampling["repetition_penalty"] != 1 or (shaped and not greedy)):
        raise ValueError(
            "LMDeploy tells the model's own log-probs: leave temperature, top_p, top_k, min_p and penalties off."
        )
    try:
        return GenerationConfig(
            max_new_tokens=sampling["max_tokens"],
            do_sample=not greedy,
            temperature=1.0 if greedy else sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=1 if greedy else sampling["top_k"],
            min_p=sampling["min_p"],
            repetition_penalty=sampling["repetition_penalty"],
            random_seed=sampling["seed"],
            stop_token_ids=stop_ids,
            logprobs=max(1, sampling["top_logprobs"]) if sampling["logprobs"] else None,
        )
    except AssertionError as error:
        raise ValueError(f"LMDeploy refuses how it shall sample: {error}") from error


def _event(part, config, count):
    """What is new of a request, with the `count` likeliest tokens in each place. Raises ValueError where it is refused."""
    if part.status == ResponseType.INPUT_LENGTH_ERROR:
        raise ValueError("LMDeploy takes no prompt as long as this: see engine.args: {session_len: …}.")
    if part.status not in (ResponseType.SUCCESS, ResponseType.FINISH, ResponseType.CANCEL):
        raise RuntimeError(f"LMDeploy could not answer: {part.status.name}")
    ids, told = list(part.token_ids), part.logprobs or ()
    stopped = bool(ids) and ids[-1] in (config.stop_token_ids or ())
    ended = {ResponseType.FINISH: "stop" if stopped else "length", ResponseType.CANCEL: "cancelled"}
    return {
        "ids": ids,
        "logps": [place[token] for place, token in zip(told, ids, strict=False)],
        "top": [sorted(place.items(), key=lambda pair: -pair[1])[:count] for place in told] if count else [],
        "finish": ended.get(part.status, ""),
    }
