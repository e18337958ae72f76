"""Programs that people use against such servers, as they are released: litellm, lm-evaluation-harness, schemathesis."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tk_conformance.tiny import tiny_checkpoint

KEY = "secret"
HERE = str(Path(__file__).parent)
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@dataclass(frozen=True)
class Running:
    """A server in a process of its own. model: the folder that it serves as `tiny`."""

    url: str
    model: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`tk serve`, of a random model with SmolLM2's own tokenizer."""
    model = tiny_checkpoint(tmp_path_factory.mktemp("m") / "tiny", "llama")
    command = [sys.executable, "-m", "tk", "serve", "--model", str(model), "--port", "0", "--api-key", KEY]
    limits = ["--server.max-output", "16", "--sampling.max-tokens", "16"]
    with subprocess.Popen(
        command + limits, stderr=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}
    ) as own:
        assert own.stderr
        url = re.search(r"at (http://\S+);", own.stderr.readline())
        assert url
        yield Running(url[1], model)
        own.terminate()
        assert own.wait(30) == 0


# --- litellm ---


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    return pytest.importorskip("litellm")


HELLO = [{"role": "user", "content": "Hello"}]


def asked(server: Running, **more: Any) -> dict[str, Any]:
    return {"api_base": f"{server.url}/v1", "api_key": KEY, "num_retries": 0, "max_tokens": 6, "temperature": 0, **more}


@pytest.mark.slow
def test_litellm_is_answered_whole_and_in_pieces(litellm: Any, server: Running) -> None:
    chat = asked(server, model="openai/tiny", messages=HELLO, logprobs=True, top_logprobs=2)
    made = litellm.completion(**chat)
    (choice,) = made.choices
    assert (made.usage.completion_tokens, choice.finish_reason) == (6, "length")
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 6
    pieces = list(litellm.completion(**chat, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == choice.message.content
    assert litellm.stream_chunk_builder(pieces).choices[0].message.content == choice.message.content
    text = litellm.text_completion(**asked(server, model="text-completion-openai/tiny", prompt="One two"))
    assert text.choices[0].text


@pytest.mark.slow
def test_litellm_tells_errors_apart(litellm: Any, server: Running) -> None:
    for error, more in (
        (litellm.AuthenticationError, {"api_key": "wrong"}),
        (litellm.NotFoundError, {"model": "openai/other"}),
        (litellm.BadRequestError, {"max_tokens": 17}),
        (litellm.BadRequestError, {"messages": [{"role": "robot", "content": "x"}]}),
    ):
        with pytest.raises(error):
            litellm.completion(**{**asked(server, model="openai/tiny", messages=HELLO), **more})


# --- lm-evaluation-harness ---

FACTS = (
    ("The capital of France is", (" Paris", " London", " a small river"), 0),
    ("Two and two make", (" four", " five hundred", " Zürich"), 0),
    ("Snow is", (" green as grass", " white"), 1),
)


def tasks(folder: Path) -> tuple[str, ...]:
    """Three tasks as a user writes them, over rows of a file."""
    rows = [{"question": q, "choices": list(c), "answer": a, "target": c[a]} for q, c, a in FACTS]
    (folder / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "facts.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    own: dict[str, dict[str, Any]] = {
        "facts_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": "acc"}],
        },
        "facts_likelihood": {
            "output_type": "loglikelihood",
            "doc_to_target": "{{target}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "facts_generate": {
            "output_type": "generate_until",
            "doc_to_target": "{{target}}",
            "generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 12, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }
    for name, task in own.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **shared, **task}))
    return tuple(own)


def evaluated(folder: Path, out: Path, names: Sequence[str], model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the harness's command says of each row of each task."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--tasks", ",".join(names)]
    given = ",".join(f"{name}={value}" for name, value in options.items())
    command += ["--model_args", given, "--include_path", str(folder), "--output_path", str(out), "--log_samples"]
    env = {**os.environ, **OFFLINE, "HF_HOME": str(folder / "cache"), "OPENAI_API_KEY": KEY}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in names:
        (path,) = out.glob(f"**/samples_{name}_*.jsonl")
        rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
        found[name] = [row["filtered_resps"] for row in rows]
    return found


@pytest.mark.slow
def test_the_harness_says_of_the_server_what_it_says_of_transformers(server: Running, tmp_path: Path) -> None:
    """One likelihood task, one of choices and one of generation: by `local-completions`, and by its own `hf`."""
    names = tasks(tmp_path)
    remote = {
        "model": "tiny",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": server.model,
        "num_concurrent": 4,
        "max_length": 512,
    }
    ours = evaluated(tmp_path, tmp_path / "server", names, "local-completions", remote)
    local = {"pretrained": server.model, "dtype": "float32"}
    theirs = evaluated(tmp_path, tmp_path / "hf", names, "hf", local)
    assert ours["facts_generate"] == theirs["facts_generate"]
    assert any(answer for (answer,) in ours["facts_generate"])
    for name in ("facts_choice", "facts_likelihood"):
        mine, other = ([pair for row in found[name] for pair in row] for found in (ours, theirs))
        assert len(mine) == (8 if name == "facts_choice" else 3)
        assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
        assert [float(logp) for logp, _ in mine] == pytest.approx([float(logp) for logp, _ in other], abs=1e-3)


# --- schemathesis ---


@pytest.mark.slow
def test_no_request_that_its_document_allows_breaks_the_server(server: Running, tmp_path: Path) -> None:
    """Nor one that it does not allow: examples, bounds of each field and what lies beyond them, and chance."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{server.url}/openapi.json", "--seed", "1"]
    command += ["--header", f"Authorization: Bearer {KEY}", "--checks", "not_a_server_error", "--max-examples", "25"]
    command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "60", "--no-color"]
    hooks = {**os.environ, "SCHEMATHESIS_HOOKS": "meant", "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=hooks, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Operations:       7 selected / 7 total" in done.stdout
    answered = {path: answers(server, path) for path in ("/v1/chat/completions", "/v1/completions", "/tokenize")}
    assert all(count > 10 for count in answered.values()), f"hardly anything was more than refused: {answered}"


def answers(server: Running, path: str) -> float:
    """How often a path was answered."""
    text = httpx.get(f"{server.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    found = re.search(rf'tk_requests_total{{path="{path}",status="200"}} (\S+)', text)
    return float(found[1]) if found else 0.0
