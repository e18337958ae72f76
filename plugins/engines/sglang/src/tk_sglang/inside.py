"""SGLang's engine behind plain values. Runs in SGLang's environment, which need not have tk: `tk_remote.worker` says how.

Written to SGLang 0.5.23. What needs kernels for a GPU is imported only when there is one.
"""

import argparse

import torch
from sglang.srt.server_args import ServerArgs
from sglang.version import __version__
from tk_worker import Streams, arguments, lora_rank

ENDS = {"stop": "stop", "length": "length", "abort": "cancelled"}
"""SGLang's word for how an answer ended -> tk's."""
REFUSED = 400


class Inside:
    def __init__(self, model, words, adapters):
        """model: folder of the checkpoint. words: as those of `sglang serve`. adapters: of LoRA, name -> folder."""
        parser = argparse.ArgumentParser()
        ServerArgs.add_cli_args(parser)
        parsed = arguments(parser, _defaults(adapters), [*words, "--model-path", model], "SGLang's parser")
        if parsed.device in (None, "cuda") and not torch.accelerator.is_available():
            raise ValueError(
                f"SGLang {__version__} needs a GPU, and torch {torch.__version__} of its environment sees none. Its build "
                "for CPUs is asked for by engine.args: {device: cpu}."
            )
        from sglang.srt.entrypoints.engine import Engine

        self._engine = Engine(server_args=ServerArgs.from_cli_args(parsed))
        self._manager = self._engine.tokenizer_manager
        self._streams = Streams(self._engine.loop)
        self._own_ends = set(self._manager.model_config.hf_eos_token_id or ())
        self._seeds = parsed.enable_deterministic_inference
        self._saver = parsed.enable_memory_saver
        self._kept = None if parsed.enable_weights_cpu_backup else ["kv_cache"]
        self._asleep = False
        self._adapters = {}
        self.about = {
            "sglang": __version__,
            "dtype": str(self._manager.model_config.dtype),
            "max_length": self._manager.context_len - self._manager.num_reserved_tokens,
            "digest": self.digest(),
        }

    @property
    def busy(self):
        return self._streams.busy

    def add(self, request, ids, sampling, stop_ids, adapter):
        filtered = sampling["top_p"] < 1 or sampling["top_k"] or sampling["min_p"]
        if sampling["logprobs"] and sampling["temperature"] and filtered:
            raise ValueError("SGLang tells log-probs before top_p, top_k and min_p: leave them off, or logprobs.")
        self._wake()
        self._streams.begin(request, self._answer(request, ids, sampling, stop_ids, adapter))

    def cancel(self, request):
        if request in self._manager.rid_to_state:
            self._manager.abort_request(request)  # its end is told as that of any
        else:
            self._streams.end(request)

    def step(self):
        return self._streams.step()

    def update(self, folder, version):
        """Read the safetensors of a folder in the checkpoint's names; the digest of what is served from now on."""
        from sglang.srt.managers.io_struct import UpdateWeightFromDiskReqInput

        self._wake()
        asked = UpdateWeightFromDiskReqInput(model_path=folder, weight_version=str(version))
        done, message, _ = self._streams.call(self._manager.update_weights_from_disk(asked))
        if not done:
            raise RuntimeError(message)
        return self.digest()

    def digest(self):
        """SHA-256 over SGLang's checksums of what each of its processes serves."""
        from sglang.srt.managers.io_struct import CheckWeightsReqInput

        done, message, _, digest = self._streams.call(self._manager.check_weights(CheckWeightsReqInput()))
        if not done or digest is None:
            raise RuntimeError(f"SGLang tells no checksum of its weights: {message}")
        return digest

    def sleep(self):
        if self._saver and not self._asleep:
            self._engine.release_memory_occupation(self._kept)
            self._asleep = True

    def close(self):
        self._engine.shutdown()

    def _wake(self):
        if self._asleep:
            self._engine.resume_memory_occupation(self._kept)
            self._asleep = False

    async def _answer(self, request, ids, sampling, stop_ids, adapter):
        parts = await self._engine.async_generate(
            input_ids=ids,
            sampling_params=self._sampling(sampling, stop_ids),
            return_logprob=sampling["logprobs"],
            top_logprobs_num=sampling["top_logprobs"],
            lora_path=await self._adapter(*adapter) if adapter else None,
            stream=True,
            rid=request,
        )
        async for part in parts:
            yield _event(part)

    def _sampling(self, sampling, stop_ids):
        found = {
            "max_new_tokens": sampling["max_tokens"],
            "temperature": sampling["temperature"],
            "top_p": sampling["top_p"],
            "top_k": sampling["top_k"] or -1,
            "min_p": sampling["min_p"],
            "repetition_penalty": sampling["repetition_penalty"],
            "presence_penalty": sampling["presence_penalty"],
            "frequency_penalty": sampling["frequency_penalty"],
            "logit_bias": sampling["logit_bias"] or None,
            "sampling_seed": sampling["seed"] if self._seeds else None,
        }
        # its own ends cannot be left out one by one: without them it goes on, until it is told that this is enough
        exact = self._own_ends <= set(stop_ids)
        return {**found, **({"stop_token_ids": stop_ids} if exact else {"ignore_eos": True})}

    async def _adapter(self, name, folder):
        """The name by which SGLang knows an adapter: one for each folder."""
        known = self._adapters.get((name, folder))
        if known is None:
            known = f"{name}-{len(self._adapters)}"
            loaded = await self._engine.async_load_lora_adapter(known, folder)
            if not loaded.success:
                raise ValueError(f"SGLang refuses the adapter {name!r}: {loaded.error_message}")
            self._adapters[name, folder] = known
        return known


def _defaults(adapters):
    """What tk asks for where the user's own arguments do not say otherwise."""
    words = ["--skip-tokenizer-init", "--incremental-streaming-output"]
    words += [
        "--enable-deterministic-inference"
    ]  # without it seeds mean nothing, and what is beside a request changes it
    if adapters:
        words += ["--enable-lora", "--lora-target-modules", "all", "--max-lora-rank", str(lora_rank(adapters.values()))]
    return words


def _event(part):
    """What is new of a request. Raises ValueError where SGLang refuses it."""
    about = part["meta_info"]
    reason = about["finish_reason"] or {}
    code = reason.get("status_code")
    if code is not None and code >= REFUSED:
        raise (ValueError if code < 500 else RuntimeError)(reason["message"])
    top = about.get("output_top_logprobs") or ()
    return {
        "ids": list(part["output_ids"]),
        "logps": [logp for logp, *_ in about.get("output_token_logprobs") or ()],
        "top": [[(token, logp) for logp, token, *_ in place or ()] for place in top],
        "finish": ENDS.get(reason.get("type"), "") if reason else "",
    }
