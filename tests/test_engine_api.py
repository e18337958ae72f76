"""`tk.engine`: prompts of every form, pieces, adapters' names and errors, from Python."""

from pathlib import Path

import pytest

import tk
from tk.errors import DataError, UsageError
from tk_conformance.tiny import tiny_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("m") / "llama", vocab=300))


def test_prompts_are_said_in_any_form(base: str) -> None:
    with tk.engine(model=base, template="chatml", sampling={"max_tokens": 6}) as engine:
        said = [
            "Hello",
            [{"role": "user", "content": "Hello"}],
            [tk.Message("user", "Hello")],
            tk.Sample((tk.Message("user", "Hello"),)),
        ]
        answers = engine.generate(said)
        assert len({own[0].ids for own in answers}) == 1
        assert len(answers[0][0].ids) == 6
        pieces = list(engine.stream("Hello"))
        assert "".join(piece.text for piece in pieces) == answers[0][0].text
        (tokens,) = engine.generate([[5, 6, 7]], n=2, temperature=1.0, seed=1, logprobs=True, max_tokens=3)
        assert [len(c.logps or ()) for c in tokens] == [3, 3]


def test_a_text_to_stop_at_is_one_whatever_is_in_it(base: str) -> None:
    sampling = {"max_tokens": 30, "temperature": 1.0, "seed": 3}
    with tk.engine(model=base, template="chatml", sampling=sampling) as engine:
        ((whole,),) = engine.generate(["Hello"])
        pairs = zip(whole.text, whole.text[1:], strict=False)
        here = next(i for i, (a, b) in enumerate(pairs) if a != b and (a + b).isalpha() and (a + b).isascii())
        one, other = whole.text[here : here + 2]
        ((same,),) = engine.generate(["Hello"], stop=f"{one},{other}, \n")
        assert same.text == whole.text
        ((cut,),) = engine.generate(["Hello"], stop=one + other)
        assert cut.text == whole.text[: whole.text.index(one + other)]
        assert cut.finish_reason == "stop"


def test_what_cannot_be_asked_is_told(base: str) -> None:
    with tk.engine(model=base, template="chatml") as engine:
        with pytest.raises(UsageError, match=r"sampling\.heat: there is no such option"):
            engine.generate(["Hello"], heat=2)
        with pytest.raises(UsageError, match=r"sampling\.temperature: Expected float >= 0"):
            engine.generate(["Hello"], temperature=-1)
        for one in ("Hello", [5, 6], [{"role": "user", "content": "Hello"}], tk.Sample((tk.Message("user", "?"),))):
            with pytest.raises(UsageError, match="prompts: this is one prompt"):
                engine.generate(one)
        with pytest.raises(UsageError, match="There is no adapter 'loud'"):
            engine.generate(["Hello"], adapter="loud")


def test_an_engine_without_vectors_is_refused_before_it_begins(base: str, tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n')
    engine = {"name": "vllm", "python": "/no/such/python"}
    with pytest.raises(UsageError, match="engine vllm: it generates only"):
        tk.embed(model=base, data=str(tmp_path / "texts.jsonl"), engine=engine)
    with pytest.raises(UsageError, match="engine vllm: it generates only"):
        tk.serve(model=base, engine=engine, server={"port": 0, "vectors": True})


def test_a_text_that_the_model_has_no_positions_for_is_told_with_its_row(tmp_path: Path) -> None:
    model = tiny_checkpoint(tmp_path / "gpt2", "gpt2", vocab=300)
    (tmp_path / "texts.jsonl").write_text('{"text": "a"}\n{"text": "' + "ab " * 2000 + '"}\n')
    with pytest.raises(DataError, match=r"texts\.jsonl:2: It has \d+ tokens, and the model 512 positions"):
        tk.embed(model=str(model), data=str(tmp_path / "texts.jsonl"))
