"""Families that take pictures against transformers' released processors and models: tiny checkpoints, and the checks.

What a family's tests bring: a config of small sizes, an image processor, a tokenizer, and the class of the processor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText
from transformers.processing_utils import ProcessorMixin

from tk.contracts import (
    Encoding,
    Engine,
    Example,
    Layout,
    Limit,
    LoadedModel,
    ModelFamily,
    Pass,
    Request,
    Role,
    Sampling,
    Stat,
    Template,
)
from tk.engines import generate
from tk.errors import RequestError
from tk.sample import Message, Part, Sample
from tk.testing.need import need
from tk_auto.quiet import quiet
from tk_conformance.parity import LAYOUTS
from tk_tensor.branches import collate_trees
from tk_tensor.collate import Tensors, collate_tokens
from tk_tensor.preferences import encoded_pairs, tree_of
from tk_tensor.scored import build_scored
from tk_tensor.tokens import Tokens

SIZES = ((60, 90), (200, 100), (33, 33), (40, 300))
"""Width and height of the pictures of `write_pictures`."""


def write_vision_checkpoint(folder: Path, config: Any, tokenizer: Any, files: Mapping[str, Any], seed: int = 0) -> Path:
    """A random model with its tokenizer and the JSON files of its processor. Weights and biases are large enough to matter."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> list[str]:
    """Files of noise."""
    noise, files = np.random.default_rng(0), []
    for number, (width, height) in enumerate(sizes):
        files.append(str(folder / f"{number}.png"))
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(files[-1])
    return files


def released_processor(cls: type[ProcessorMixin], folder: Path, tokenizer: Any, **settings: Any) -> Any:
    """The family's processor as transformers releases it, for pictures only: without torchvision there is no video
    processor, which its constructor would ask for."""
    check = ProcessorMixin.check_argument_for_proper_class
    ProcessorMixin.check_argument_for_proper_class = lambda *arguments: None  # type: ignore[method-assign]
    try:
        images = AutoImageProcessor.from_pretrained(folder, backend="pil")
        videos = {"video_processor": None} if "video_processor" in cls.get_attributes() else {}
        return cls(images, tokenizer, chat_template=tokenizer.chat_template, **videos, **settings)
    finally:
        ProcessorMixin.check_argument_for_proper_class = check  # type: ignore[method-assign]


def conversations(files: Sequence[str]) -> list[Sample]:
    """One picture, three in two turns between words, none, and one that is very long."""

    def image(number: int) -> Part:
        return Part("image", source=files[number])

    def rows() -> list[tuple[Message, ...]]:
        return [
            (asked(image(0), "What is it?"), Message("assistant", "A cat.")),
            (
                asked("hello"),
                Message("assistant", "Hi there"),
                asked("a", image(1), "b", image(2)),
                Message("assistant", "two"),
                asked(image(0), "And this?"),
                Message("assistant", "The first one again"),
            ),
            (asked("no picture"), Message("assistant", "Right")),
            (asked(image(3), "Long?"), Message("assistant", "Yes.")),
        ]

    return [Sample(messages, origin=f"rows.jsonl:{line}") for line, messages in enumerate(rows(), 1)]


def asked(*parts: Part | str) -> Message:
    """A user's message."""
    return Message("user", tuple(Part("text", part) if isinstance(part, str) else part for part in parts))


def rendered(processor: Any, samples: Sequence[Sample], **how: Any) -> Any:
    """What the released processor makes of conversations, as it is documented: tensors, ready for the model."""
    chats = [[_message(message) for message in sample.messages] for sample in samples]
    given = chats[0] if len(chats) == 1 else chats
    return processor.apply_chat_template(given, tokenize=True, return_dict=True, return_tensors="pt", **how)


def _message(message: Message) -> dict[str, Any]:
    parts = (Part("text", message.content),) if isinstance(message.content, str) else message.content
    content = [
        {"type": p.type, "text": p.text} if p.type == "text" else {"type": p.type, "url": p.source} for p in parts
    ]
    return {"role": message.role, "content": content}


def check_inputs(model: LoadedModel, template: Template, processor: Any, samples: Sequence[Sample]) -> None:
    """Ids and tensors of pictures are the released processor's: each sample's, and those of all in one batch."""
    assert model.media is not None
    encodings = template.encode(samples)
    for sample, encoding in zip(samples, encodings, strict=True):
        out = rendered(processor, [sample])
        need(out["input_ids"][0].tolist() == list(encoding.ids), f"{sample.origin}: other ids than the processor's")
        need(any(encoding.weights), f"{sample.origin}: nothing is trained")
        _need_equal(model.media.tensors(encoding.media), out, sample.origin)
    for side in ("right", "left"):
        out = rendered(processor, samples, processor_kwargs={"padding": True, "padding_side": side})
        layout = Layout(model.tokenizer.pad_token_id, side, media=model.media)  # type: ignore[arg-type]
        inputs, _, _, _ = collate_tokens([[_example(e)] for e in encodings], layout)
        need(torch.equal(inputs["attention_mask"], out["attention_mask"]), f"padded on the {side}, another mask")
        need(torch.equal(inputs["input_ids"], out["input_ids"]), f"padded on the {side}, other ids")
        _need_equal({name: inputs[name] for name in out if "image" in name or "pixel" in name}, out, "the batch")


def _need_equal(tensors: Mapping[str, Any], out: Any, where: str) -> None:
    for name, value in tensors.items():
        need(torch.equal(torch.as_tensor(value), torch.as_tensor(out[name])), f"{where}: {name} differs")


def check_log_probs(
    model: LoadedModel, template: Template, processor: Any, samples: Sequence[Sample], tolerance: float = 1e-5
) -> None:
    """Log-probs of trained tokens are those of the released model on the released inputs, one sample at a time, in every
    layout; relative to the largest sum."""
    assert model.media is not None
    with quiet():
        reference = AutoModelForImageTextToText.from_pretrained(model.path).eval()

    def released(chosen: Sequence[Sample]) -> Tensor:
        encoded = zip(chosen, template.encode(chosen), strict=True)
        return torch.stack([_reference(reference, rendered(processor, [sample]), e) for sample, e in encoded])

    encodings, expected = template.encode(samples), released(samples)
    other = Message("assistant", "No!")
    pairs = [replace(s, shared=len(s.messages) - 1, rejected=(other,)) for s in samples]
    answers = [_last_only(samples), _last_only([replace(s, messages=(*s.messages[:-1], other)) for s in samples])]
    wanted = torch.stack([released(each) for each in answers], 1).flatten()
    check_sums(model, encodings, expected, tolerance)
    scored = build_scored({"policy": model}, (Role("policy"),))
    for name, layout in LAYOUTS.items():
        if layout.shared_prefix:
            found = _sums(scored, *_shared(pairs, template, _layout(layout, model)))
            _need_close(found, wanted, name, tolerance)


def check_sums(model: LoadedModel, encodings: Sequence[Encoding], expected: Tensor, tolerance: float = 1e-5) -> None:
    """The weighted sums of log-probs of encodings are the expected ones, [R], in every layout without shared prompts."""
    scored = build_scored({"policy": model}, (Role("policy"),))
    for name, layout in LAYOUTS.items():
        if not layout.shared_prefix:
            _need_close(_sums(scored, *_laid(encodings, _layout(layout, model))), expected, name, tolerance)


def _need_close(found: Tensor, right: Tensor, name: str, tolerance: float) -> None:
    worst = float((found - right).abs().max() / right.abs().max())
    need(worst <= tolerance, f"laid out {name}, log-probs differ by {worst:.1e}: {found.tolist()}, {right.tolist()}")


def _last_only(samples: Sequence[Sample]) -> list[Sample]:
    """With the last message trained alone, as in pairs."""
    return [replace(s, messages=(*(replace(m, loss=0.0) for m in s.messages[:-1]), s.messages[-1])) for s in samples]


def _layout(layout: Layout, model: LoadedModel) -> Layout:
    return replace(layout, pad_id=model.tokenizer.pad_token_id, media=model.media)


def _laid(encodings: Sequence[Encoding], layout: Layout) -> tuple[Tensors, Tensors, int]:
    examples = [_example(encoding) for encoding in encodings]
    inputs, fields, rows, _ = collate_tokens([examples] if layout.packing else [[e] for e in examples], layout)
    return inputs, fields, rows


def _shared(pairs: Sequence[Sample], template: Template, layout: Layout) -> tuple[Tensors, Tensors, int]:
    found = [pair for pair in encoded_pairs(pairs, template, Limit()) if pair is not None]
    trees = [tree_of(pair.example({}, "pair")) for pair in found]
    inputs, fields, rows, _ = collate_trees([trees] if layout.packing else [[t] for t in trees], layout)
    return inputs, fields, rows


def _example(encoding: Encoding) -> Example:
    return Tokens.of(encoding).example({}, "a row")


@torch.no_grad()
def _sums(scored: Any, inputs: Tensors, fields: Tensors, rows: int) -> Tensor:
    """[R] weighted sums of log-probs."""
    logps = scored(inputs, fields, [Pass((Stat("logps"),), grad=False)])["policy"]["logps"].double()
    return logps.new_zeros(rows).index_add(0, fields["rows"], logps * fields["token_weights"])


@torch.no_grad()
def _reference(reference: Any, out: Any, encoding: Encoding) -> Tensor:
    logps = reference(**out).logits.double().log_softmax(-1)[0, :-1]
    chosen = logps.gather(1, out["input_ids"][0, 1:, None])[:, 0]
    return (chosen * torch.tensor(list(encoding.weights))[1:]).sum()


def check_idle(model: LoadedModel, template: Template, samples: Sequence[Sample]) -> None:
    """A batch without pictures gives the parameters that pictures have a gradient of 0 to the same as one with them."""
    layout = replace(_layout(LAYOUTS["right"], model), touch=frozenset({"image"}))
    with_gradient: list[dict[str, Tensor]] = []
    for chosen in ([s for s in samples if _pictures(s)], [s for s in samples if not _pictures(s)]):
        model.module.zero_grad(set_to_none=True)
        scored = build_scored({"policy": model}, (Role("policy"),))
        inputs, fields, _ = _laid(template.encode(chosen), layout)
        scored(inputs, fields, [Pass((Stat("logps"),))])["policy"]["logps"].sum().backward()
        with_gradient.append({n: p.grad for n, p in model.module.named_parameters() if p.grad is not None})
    real, idle = with_gradient
    need(real.keys() == idle.keys(), f"other parameters have a gradient: {sorted(real.keys() ^ idle.keys())[:3]}")
    everything = {n for n, _ in model.module.named_parameters()} - model.unread
    need(real.keys() == everything, f"without a gradient, or unread with one: {sorted(real.keys() ^ everything)[:3]}")
    parts = [part for name in ("vision_tower", "aligner") for part in model.groups[name]]
    vision = [n for n in idle if any(n == part or n.startswith(f"{part}.") for part in parts)]
    need(bool(vision), "no parameter belongs to the vision tower or the aligner")
    need(all(not idle[name].any() for name in vision), "an idle picture changes the weights")
    need(all(real[name].any() for name in vision), "a picture does not reach all of the vision tower and the aligner")
    model.module.zero_grad(set_to_none=True)


def _pictures(sample: Sample) -> bool:
    return any(
        not isinstance(message.content, str) and any(p.type != "text" for p in message.content)
        for message in sample.messages
    )


def check_generation(
    engine: Engine, model: LoadedModel, template: Template, processor: Any, samples: Sequence[Sample], tokens: int = 8
) -> None:
    """Greedy answers, made in one batch, are those of the released model's `generate`."""
    prompts = [replace(sample, messages=sample.messages[:-1]) for sample in samples]
    encodings = template.encode(prompts, generation=True)
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    found = generate(engine, [Request(e.ids, sampling, template.stop_ids(), e.media) for e in encodings])
    with quiet():
        reference = AutoModelForImageTextToText.from_pretrained(model.path).eval()
    suppressed = {"bad_words_ids": [[mark] for mark in model.media.marks.values()]} if model.media else {}
    for sample, (completion,) in zip(prompts, found, strict=True):
        out = rendered(processor, [sample], add_generation_prompt=True)
        ends = {"eos_token_id": list(template.stop_ids()), "pad_token_id": model.tokenizer.pad_token_id}
        made = reference.generate(**out, do_sample=False, max_new_tokens=tokens, **ends, **suppressed)
        answer = made[0, out["input_ids"].shape[1] :].tolist()
        need(answer == list(completion.ids), f"{sample.origin}: {list(completion.ids)}, and transformers says {answer}")


def check_broken_picture(engine: Engine, template: Template, folder: Path) -> None:
    """A picture that cannot be read when its turn comes fails its own request, however many answers it was to have."""
    fine_one, broken = write_pictures(folder, SIZES[:2])
    samples = [
        Sample((asked(Part("image", source=each), "What is it?"),), origin="asked") for each in (broken, fine_one)
    ]
    failing, fine = template.encode(samples, generation=True)
    Path(broken).write_bytes(Path(broken).read_bytes()[:200])
    greedy = Request(fine.ids, Sampling(max_tokens=12, temperature=0.0), (), fine.media)
    expected = generate(engine, [greedy])[0][0].ids
    key, found = engine.add(greedy), dict[int, list[int]]()
    for delta in engine.step():
        found.setdefault(delta.key, []).extend(delta.ids)
    failed = engine.add(Request(failing.ids, Sampling(max_tokens=4, n=2), (), failing.media))
    errors, ended = [], False
    while not ended:
        for delta in engine.step():
            found.setdefault(delta.key, []).extend(delta.ids)
            ended = ended or (delta.key == key and bool(delta.finish_reason))
            errors += [(delta.key, delta.number, str(delta.error))] if isinstance(delta.error, RequestError) else []
    need(tuple(found[key]) == tuple(expected), f"beside a broken picture: {found[key]}, and alone {list(expected)}")
    need(sorted(e[:2] for e in errors) == [(failed, 0), (failed, 1)], f"what failed: {errors}")
    need(all(broken in error for *_, error in errors), f"which picture it was: {errors}")


def check_saved(family: ModelFamily, model: LoadedModel, processor: Any, sample: Sample, folder: Path) -> None:
    """What is saved opens in plain transformers, with the same inputs from its image processor and the same logits."""
    family.save(model, folder)
    with quiet():
        plain = AutoModelForImageTextToText.from_pretrained(folder).eval()
        images = AutoImageProcessor.from_pretrained(folder, backend="pil")
    need(images.to_dict() == processor.image_processor.to_dict(), "the saved image processor has other settings")
    out = rendered(processor, [sample])
    with torch.no_grad():
        logits = [module(**out).logits for module in (plain, model.module.eval())]
    need(torch.equal(*logits), "the saved model gives other logits")
    again = family.load(str(folder))
    need(again.tokenizer.chat_template == model.tokenizer.chat_template, "the saved chat template is another")
    need(again.groups == model.groups, "the saved model has other groups")
