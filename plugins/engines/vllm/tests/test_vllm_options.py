"""What vLLM is asked to do, and what is said where it cannot."""

from pathlib import Path

import pytest

import tk
from tk.errors import TkError, UsageError
from tk_conformance.tiny import tiny_checkpoint
from tk_vllm.options import VllmOptions


def test_arguments_are_written_as_on_a_command_line() -> None:
    options = VllmOptions(
        args={
            "max_model_len": 2048,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "middleware": ["a", "b"],
            "x": {"y": 1},
        }
    )
    assert options.words() == [
        *("--max-model-len", "2048"),
        "--enforce-eager",
        "--no-enable-prefix-caching",
        *("--middleware", "a", "b"),
        *("--x", '{"y": 1}'),
    ]


def test_variables_without_a_worker_are_refused() -> None:
    with pytest.raises(ValueError, match="there is none without python"):
        VllmOptions(env={"A": "b"})


def test_where_it_is_not_installed_the_mend_is_named(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "m", "llama", vocab=300)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    with pytest.raises(TkError, match=r"engine 'vllm' (?s:.*)cannot be used(?s:.*)say where it is \(python\)"):
        list(tk.infer(model=str(folder), template="chatml", data=str(rows), engine="vllm"))
    with pytest.raises(UsageError, match=r"engine.python: '/no/python' is no program"):
        list(
            tk.infer(
                model=str(folder), template="chatml", data=str(rows), engine={"name": "vllm", "python": "/no/python"}
            )
        )
