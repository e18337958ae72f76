"""Tokens equal transformers' own; requests do not depend on what runs beside them; stops, seeds and modes are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from tk.contracts import Engine, Layout, LoadedModel, Medium, Pass, Request, Role, Sampling, Stat
from tk.engines import generate, stream
from tk.errors import TkError, UsageError
from tk_auto.family import AutoFamily
from tk_conformance.tiny import tiny_checkpoint
from tk_tensor.collate import collate_tokens
from tk_tensor.scored import build_scored
from tk_tensor.tokens import Tokens
from tk_transformers.engine import TransformersEngine
from tk_transformers.options import TransformersOptions

GREEDY = Sampling(max_tokens=12, temperature=0)
PROMPTS = ([5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 40, 41], [100], [17, 250, 3, 33, 33])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return AutoFamily().load(str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300)))


def engine_of(model: LoadedModel, **options: Any) -> TransformersEngine:
    return TransformersEngine(TransformersOptions(**options), model=model)


def reference(model: LoadedModel, ids: list[int], **settings: Any) -> list[int]:
    inputs = torch.tensor([ids])
    mask = torch.ones_like(inputs)
    made = model.module.generate(inputs, attention_mask=mask, max_new_tokens=12, do_sample=False, **settings)
    return list(made[0, len(ids) :].tolist())


def _reads(model: LoadedModel, counts: list[int]) -> Any:
    """Counts the tokens of each forward."""
    return model.module.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(kwargs["input_ids"].numel()), with_kwargs=True
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "qwen3", "mistral", "mamba"])
def test_greedy_batches_give_the_tokens_of_generate(architecture: str, tmp_path: Path) -> None:
    config = {"sliding_window": 4} if architecture in ("gemma3_text", "mistral") else {}
    folder = tiny_checkpoint(tmp_path / "m", architecture, vocab=300)
    model = AutoFamily().load(str(folder))
    for name, value in config.items():
        setattr(model.module.config, name, value)
    found = generate(engine_of(model), [Request(ids, GREEDY) for ids in PROMPTS])
    assert [list(c[0].ids) for c in found] == [reference(model, ids) for ids in PROMPTS]


def test_it_is_an_engine(model: LoadedModel) -> None:
    assert isinstance(engine_of(model), Engine)


def test_repetition_penalty_is_that_of_transformers(model: LoadedModel) -> None:
    sampling = Sampling(max_tokens=12, temperature=0, repetition_penalty=1.7)
    found = generate(engine_of(model), [Request(ids, sampling) for ids in PROMPTS])
    assert [list(c[0].ids) for c in found] == [reference(model, ids, repetition_penalty=1.7) for ids in PROMPTS]


def test_a_seeded_request_gives_the_same_whatever_runs_beside_it(model: LoadedModel) -> None:
    requests = [
        Request(
            PROMPTS[i % 4],
            Sampling(max_tokens=3 + i, temperature=1.0, seed=i, top_p=(1.0, 0.8)[i % 2], n=1 + i % 3, logprobs=True),
        )
        for i in range(7)
    ]
    together = generate(engine_of(model, max_batch=16), requests)
    alone = [generate(engine_of(model, max_batch=1), [request])[0] for request in requests]
    shuffled = generate(engine_of(model, max_batch=3), requests[::-1])[::-1]
    for other in (alone, shuffled):
        assert [[c.ids for c in cs] for cs in other] == [[c.ids for c in cs] for cs in together]
    for mine, theirs in zip(together, alone, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert a.logps == pytest.approx(b.logps, abs=1e-4)
    assert len({c.ids for c in together[5]}) == 3, "completions of one request differ"


def test_the_prompt_of_several_completions_is_read_once(model: LoadedModel) -> None:
    read: list[int] = []
    hook = _reads(model, read)
    prompt, engine = list(PROMPTS[0]) * 4, engine_of(model)
    generate(engine, [Request(PROMPTS[1], GREEDY)])  # finds out how the model takes masks
    read.clear()
    try:
        generate(engine, [Request(prompt, Sampling(max_tokens=3, temperature=1.0, seed=1, n=6))])
    finally:
        hook.remove()
    assert read[0] == len(prompt)
    assert all(count <= 6 for count in read[1:])


def test_unseeded_requests_differ_and_leave_torchs_random_numbers_alone(model: LoadedModel) -> None:
    before = torch.get_rng_state()
    engine = engine_of(model)
    request = Request(PROMPTS[0], Sampling(max_tokens=12, temperature=1.0))
    assert generate(engine, [request])[0][0].ids != generate(engine, [request])[0][0].ids
    assert torch.equal(torch.get_rng_state(), before)
    again = [generate(engine_of(model, seed=1), [request, request]) for _ in range(2)]
    assert again[0] == again[1]
    assert again[0][0] != again[0][1]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7, "top_k": 5}, {"temperature": 1.4, "top_p": 0.8, "top_k": 40}]
)
def test_log_probs_are_those_that_training_computes(model: LoadedModel, settings: dict[str, Any]) -> None:
    sampling = Sampling(**{"temperature": 1.0, "max_tokens": 12, "n": 4, "seed": 0, "logprobs": True, **settings})
    made = generate(engine_of(model), [Request(ids, sampling) for ids in PROMPTS])
    scored = build_scored({"policy": model}, (Role("policy"),))
    asked = Pass((Stat("logps", sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k),), grad=False)
    for prompt, completions in zip(PROMPTS, made, strict=True):
        for completion in completions:
            answer = Tokens(np.array(completion.ids), np.ones(len(completion.ids), np.float32))
            example = (Tokens.untrained(prompt) + answer).example({}, "a row")
            inputs, fields, _, _ = collate_tokens([[example]], Layout(0))
            with torch.no_grad():
                found = scored(inputs, fields, [asked])["policy"]["logps"]
            assert completion.logps == pytest.approx(found.tolist(), abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.5, "top_k": 40}])
def test_samples_follow_the_distribution_of_transformers_warpers(model: LoadedModel, settings: dict[str, Any]) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    with torch.no_grad():
        scores = model.module(input_ids=torch.tensor([PROMPTS[1]])).logits[:, -1].float()
    count = 2000
    sampling = Sampling(**{"temperature": 1.0, "max_tokens": 1, "n": count, "seed": 0, "logprobs": True, **settings})
    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    scores = TopKLogitsWarper(sampling.top_k)(None, scores) if sampling.top_k else scores
    scores = TopPLogitsWarper(sampling.top_p)(None, scores) if sampling.top_p < 1 else scores
    expected = scores.log_softmax(-1)[0]

    made = generate(engine_of(model, max_batch=count), [Request(PROMPTS[1], sampling)])[0]
    tokens = torch.tensor([c.ids[0] for c in made])
    logps = torch.tensor([c.logps[0] for c in made if c.logps])
    torch.testing.assert_close(logps, expected[tokens], atol=1e-5, rtol=0)
    frequencies = torch.bincount(tokens, minlength=len(expected)) / count
    assert (frequencies - expected.exp()).abs().max() < 4 * 0.5 / count**0.5
    assert (expected[tokens] > -torch.inf).all()


def test_stop_ids_end_a_completion_and_stay_out_of_its_text(model: LoadedModel) -> None:
    free = generate(engine_of(model), [Request(PROMPTS[0], GREEDY)])[0][0]
    stop = free.ids[4]
    first = free.ids.index(stop)
    cut = generate(engine_of(model), [Request(PROMPTS[0], GREEDY, stop_ids=(stop,))])[0][0]
    assert (cut.ids, cut.finish_reason) == (free.ids[: first + 1], "stop")
    assert cut.text == model.tokenizer.decode(free.ids[:first], skip_special_tokens=True)
    assert (free.finish_reason, len(free.ids), free.logps) == ("length", 12, None)


def test_the_checkpoints_own_end_token_ends_requests_that_name_none(model: LoadedModel) -> None:
    free = generate(engine_of(model), [Request(PROMPTS[0], GREEDY)])[0][0]
    config = model.module.generation_config
    end, config.eos_token_id = config.eos_token_id, [free.ids[3]]
    try:
        made = generate(engine_of(model), [Request(PROMPTS[0], GREEDY)])[0][0]
        other = generate(engine_of(model), [Request(PROMPTS[0], GREEDY, stop_ids=(free.ids[5],))])[0][0]
    finally:
        config.eos_token_id = end
    assert made.finish_reason == "stop"
    assert made.ids == free.ids[: free.ids.index(free.ids[3]) + 1]
    assert other.ids == free.ids[: free.ids.index(free.ids[5]) + 1]


class Spelled:
    """A tokenizer that makes a model say what the test wants: the greedy ids, spelled as the given pieces."""

    pad_token_id, eos_token_id, all_special_tokens = 2, 2, ("<|im_end|>",)

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self.pieces = pieces

    def decode(self, ids: list[int], **_: Any) -> str:
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", "replace")

    def convert_tokens_to_ids(self, token: str) -> int:
        return 2


def spelled(model: LoadedModel, pieces: list[bytes]) -> tuple[LoadedModel, Request]:
    """A model whose greedy answer to the request is spelled by the pieces (each id has one spelling)."""
    for start in range(3, 299):
        ids = reference(model, [start, 7])
        if len(set(ids[: len(pieces)])) == len(pieces):
            table = dict.fromkeys(range(300), b"?") | dict(zip(ids, pieces, strict=False))
            loaded = LoadedModel(model.module, Spelled(table), model.path)
            return loaded, Request([start, 7], Sampling(max_tokens=len(pieces), temperature=0))
    raise AssertionError("no prompt with enough different tokens")


@pytest.mark.parametrize(
    ("stop", "text", "tokens"),
    [
        ((), "one STOP two", 4),
        (("STOP",), "one ", 3),
        (("OP t", "zzz"), "one ST", 4),
        (("e S", "one"), "", 1),
        (("two!",), "one STOP two", 4),
        (("o",), "", 1),
    ],
)
def test_stop_strings_are_found_across_tokens_and_cut_away(
    model: LoadedModel, stop: tuple[str, ...], text: str, tokens: int
) -> None:
    loaded, request = spelled(model, [b"one", b" ST", b"OP", b" two"])
    request = replace(request, sampling=replace(request.sampling, stop=stop))
    made = generate(engine_of(loaded), [request])[0][0]
    assert (made.text, len(made.ids)) == (text, tokens)
    assert made.finish_reason == ("length" if text == "one STOP two" else "stop")
    deltas = list(stream(engine_of(loaded), request))
    assert "".join(delta.text for delta in deltas) == text
    assert tuple(i for delta in deltas for i in delta.ids) == made.ids
    assert [delta.finish_reason for delta in deltas] == [""] * (tokens - 1) + [made.finish_reason]


def test_streams_hold_back_halves_of_characters_and_of_stop_strings(model: LoadedModel) -> None:
    loaded, request = spelled(model, [b"a\xf0\x9f", b"\x98\x80", b"EN", b"Dx", b"\xc3"])
    pieces = [delta.text for delta in stream(engine_of(loaded), request)]
    assert pieces == ["", "a😀", "EN", "Dx", "\ufffd"]
    request = replace(request, sampling=replace(request.sampling, stop=("ENDE",)))
    pieces = [delta.text for delta in stream(engine_of(loaded), request)]
    assert pieces == ["", "a😀", "", "ENDx", "\ufffd"]
    assert generate(engine_of(loaded), [request])[0][0].text == "a😀ENDx\ufffd"


def test_streamed_text_is_that_of_generate_with_a_real_tokenizer(tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m")))
    for seed in range(3):
        request = Request([5, 6, 7], Sampling(max_tokens=40, temperature=1.0, seed=seed))
        made = generate(engine_of(model), [request])[0][0]
        assert "".join(delta.text for delta in stream(engine_of(model), request)) == made.text
        body = made.ids[:-1] if made.ids[-1] == model.tokenizer.eos_token_id else made.ids
        assert made.text == model.tokenizer.decode(body, skip_special_tokens=True)


def test_a_special_tokens_spelling_stops_by_its_id(model: LoadedModel) -> None:
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=0, n=64)
    free = generate(engine_of(model), [Request([5, 9], sampling, stop_ids=(299,))])[0]
    named = replace(sampling, stop=("<|im_end|>",))
    made = generate(engine_of(model), [Request([5, 9], named, stop_ids=(299,))])[0]
    ended = [(a, b) for a, b in zip(free, made, strict=True) if 2 in a.ids]
    assert ended, "no completion has the token"
    for a, b in ended:
        assert (b.ids, b.finish_reason) == (a.ids[: a.ids.index(2) + 1], "stop")


def test_mode_gradients_and_checkpointing_are_as_before(tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", vocab=300, attention_dropout=0.5)))
    module = model.module
    expected = generate(engine_of(model), [Request(PROMPTS[1], GREEDY)])
    module.train()
    module.model.layers[0].eval()
    module.gradient_checkpointing_enable()
    modes = [part.training for part in module.modules()]
    assert generate(engine_of(model), [Request(PROMPTS[1], GREEDY)]) == expected
    pieces = stream(engine_of(model), Request(PROMPTS[1], GREEDY))
    next(pieces)
    assert torch.is_grad_enabled()
    assert [part.training for part in module.modules()] == modes
    assert module.is_gradient_checkpointing
    module(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()


def test_new_weights_are_used_from_the_next_request_on_and_name_their_version(tmp_path: Path) -> None:
    model, other = (
        AutoFamily().load(str(tiny_checkpoint(tmp_path / str(seed), vocab=300, seed=seed))) for seed in (0, 1)
    )
    expected = generate(engine_of(other), [Request(PROMPTS[1], GREEDY)])[0][0].ids
    engine = engine_of(model)
    assert generate(engine, [Request(PROMPTS[1], GREEDY)])[0][0].policy_version == 0
    engine.update(other.module.state_dict().items(), 7)
    made = generate(engine, [Request(PROMPTS[1], GREEDY)])[0][0]
    assert (made.ids, made.policy_version) == (expected, 7)
    with pytest.raises(TkError, match="no weight named 'nonsense'"):
        engine.update([("nonsense", torch.zeros(1))], 8)
    with pytest.raises(TkError, match=r"shape is \(32,\), not \(1,\)"):
        engine.update([("model.norm.weight", torch.zeros(1))], 8)
    engine.close()


def test_an_adapted_module_generates_with_its_adapter(tmp_path: Path) -> None:
    model = AutoFamily().load(str(tiny_checkpoint(tmp_path / "m", vocab=300)))
    base = generate(engine_of(model), [Request(ids, GREEDY) for ids in PROMPTS])
    model.module = get_peft_model(model.module, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    model.module.eval()
    made = generate(engine_of(model), [Request(ids, GREEDY) for ids in PROMPTS])
    expected = [
        model.module.generate(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=12, do_sample=False
        )[0, len(ids) :].tolist()
        for ids in PROMPTS
    ]
    assert [list(c[0].ids) for c in made] == expected
    assert made != base


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request([]), "empty"),
        (Request([5] * 512), "fills the model's 512 positions"),
        (Request([5], Sampling(n=0)), r"sampling\.n: 0"),
        (Request([5], Sampling(temperature=-1)), r"sampling\.temperature"),
        (Request([5], Sampling(top_p=0)), r"sampling\.top_p"),
        (Request([5], media=(Medium("image", "a.png"),)), "text only.*image"),
    ],
)
def test_requests_that_cannot_be_served_say_why(model: LoadedModel, request_: Request, message: str) -> None:
    with pytest.raises(TkError, match=message):
        generate(engine_of(model), [request_])
    with pytest.raises(UsageError, match="n = 2"):
        stream(engine_of(model), Request([5], Sampling(n=2)))


def test_a_completion_ends_where_the_models_positions_end(model: LoadedModel) -> None:
    made = generate(engine_of(model), [Request([5] * 508, Sampling(temperature=0), stop_ids=(299,))])[0][0]
    assert (len(made.ids), made.finish_reason) == (4, "length")


def test_no_requests_no_completions(model: LoadedModel) -> None:
    assert generate(engine_of(model), []) == []
