"""vLLM's engine behind plain values. Runs in vLLM's environment, which need not have tk: `tk_remote.worker` says how."""

import hashlib
import math
import sys

import cloudpickle
import torch
from tk_worker import arguments, lora_rank
from vllm import EngineArgs, SamplingParams, __version__
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # vLLM's own processes cannot import this file

ENDS = {"stop": "stop", "length": "length", "abort": "cancelled", "error": "error"}
"""vLLM's word for how an answer ended -> tk's."""


class Inside:
    def __init__(self, model, words, adapters):
        """model: folder of the checkpoint. words: as those of `vllm serve`. adapters: of LoRA, name -> folder."""
        parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
        parsed = arguments(parser, _defaults(adapters), [*words, "--model", model], "vLLM's parser")
        config = EngineArgs.from_cli_args(parsed).create_engine_config(UsageContext.ENGINE_CONTEXT)
        self._engine = LLMEngine(config, Executor.get_class(config), log_stats=False)
        self._sleeps, self._asleep = config.model_config.enable_sleep_mode, False
        self._adapters = {}
        self._tops = {}
        self._version = 0
        self.about = {
            "vllm": __version__,
            "dtype": str(config.model_config.dtype),
            "max_length": config.model_config.max_model_len,
            "digest": self.digest(),
        }

    @property
    def busy(self):
        return self._engine.has_unfinished_requests()

    def add(self, request, ids, sampling, stop_ids, adapter):
        self._wake()
        params = SamplingParams(
            max_tokens=sampling["max_tokens"],
            temperature=sampling["temperature"],
            top_p=sampling["top_p"],
            top_k=sampling["top_k"],
            min_p=sampling["min_p"],
            repetition_penalty=sampling["repetition_penalty"],
            presence_penalty=sampling["presence_penalty"],
            frequency_penalty=sampling["frequency_penalty"],
            logit_bias={int(token): bias for token, bias in sampling["logit_bias"].items()} or None,
            seed=sampling["seed"] if sampling["temperature"] else None,
            stop_token_ids=stop_ids,
            ignore_eos=True,  # the ends are those that are named
            logprobs=sampling["top_logprobs"] if sampling["logprobs"] else None,  # and of the sampled token
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        lora = self._adapter(*adapter) if adapter else None
        self._engine.add_request(request, {"prompt_token_ids": ids}, params, lora_request=lora)
        self._tops[request] = sampling["top_logprobs"]

    def cancel(self, request):
        self._engine.abort_request([request])
        self._tops.pop(request, None)

    def step(self):
        events = [
            event for output in self._engine.step() for event in _events(output, self._tops.get(output.request_id, 0))
        ]
        for event in events:
            if event["finish"]:
                self._tops.pop(event["request"], None)
        return events

    def update(self, folder, version):
        """Read the safetensors of a folder in the checkpoint's names; the digest of what is served from now on."""
        self._wake()
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
        self._engine.reset_prefix_cache(reset_running_requests=True)  # what is on its way is read again; raises, else
        self._version = version
        return self.digest()

    def digest(self):
        """SHA-256 of every parameter that is served, one after the other; of every rank's, where there are several."""
        return "-".join(self._engine.collective_rpc(_digest))

    def sleep(self):
        if self._sleeps and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def close(self):
        self._engine.engine_core.shutdown()

    def _wake(self):
        if self._asleep:
            self._engine.wake_up()
            self._asleep = False

    def _adapter(self, name, folder):
        """vLLM knows an adapter by a number: one for each folder, and what it holds."""
        number = self._adapters.setdefault((name, folder), len(self._adapters) + 1)
        return LoRARequest(name, number, folder)


def _defaults(adapters):
    """What tk asks for where the user's own arguments do not say otherwise."""
    words = ["--skip-tokenizer-init", "--logprobs-mode", "processed_logprobs"]
    if current_platform.is_cpu():
        words += ["--dtype", "float32"]
    if adapters:
        rank = _allowed(lora_rank(adapters.values()))
        words += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(rank)]
    return words


def _allowed(rank):
    """vLLM takes some ranks only, and any that is smaller."""
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)


def _events(output, count):
    """What is new of a request, with the `count` likeliest tokens in each place."""
    for part in output.outputs:
        finish = ENDS.get(part.finish_reason, part.finish_reason) or ""
        ids = list(part.token_ids)
        logps = [step[token].logprob for step, token in zip(part.logprobs or (), ids, strict=False)]
        top = [_likeliest(step, count) for step in part.logprobs or ()] if count else []
        error = "vLLM could not answer." if finish == "error" else ""
        if ids or finish:
            yield {
                "request": output.request_id,
                "ids": ids,
                "logps": logps,
                "top": top,
                "finish": finish,
                "error": error,
            }


def _likeliest(step, count):
    """The sampled token stands among them where it is no likely one; those that cannot be sampled are left out."""
    found = sorted(((token, one.logprob) for token, one in step.items()), key=lambda pair: -pair[1])
    return [pair for pair in found[:count] if pair[1] > -math.inf]


def _digest(worker):
    """In each of vLLM's processes."""
    total = hashlib.sha256()
    for name, parameter in sorted(worker.get_model().named_parameters()):
        total.update(name.encode())
        total.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
