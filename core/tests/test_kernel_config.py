"""Config: YAML, environment and flags are one path; what is wrong names its path, its place and the mend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tk import launching
from tk.compose import compose
from tk.config.files import listed, schema, to_yaml
from tk.config.resolve import changed, chosen_kinds, resolve, sections_of
from tk.config.secret import published_command, without_credentials
from tk.config.sections import FIXED
from tk.config.tree import from_environment, from_flags, from_mapping, from_yaml
from tk.errors import ConfigError, UsageError
from tk.files import cache_root
from tk.inference import made_with
from tk.plugins import Selection, load
from tk.registry import Registry
from tk.specs import KERNEL_SECTIONS

SOURCE = """
    from dataclasses import dataclass, field
    from typing import Annotated, Literal
    from tk import *
    from tk import doc, hookimpl
    from tk.specs import KINDS

    @dataclass(frozen=True)
    class Lora:
        rank: Annotated[int, doc("Rank.", gt=0)] = 8
        alpha: Annotated[float, doc("Alpha.")] = 16.0
        targets: Annotated[list[str] | str, doc("Targets.")] = "all-linear"
        init: Annotated[bool | Literal["pissa"], doc("Init.")] = True

    @dataclass(frozen=True)
    class Adam:
        lr: Annotated[float, doc("Rate.", gt=0)] = 1e-4
        betas: Annotated[tuple[float, float], doc("Betas.")] = (0.9, 0.999)

    @dataclass(frozen=True)
    class Smoothing:
        smoothing: Annotated[float, doc("Smoothing.")] = 0.0

    @hookimpl
    def tk_tuners():
        yield TunerSpec(name="lora", target="x:y", config=Lora, defaults={"optim.lr": 2e-4})
        yield TunerSpec(name="full", target="x:y")

    @hookimpl
    def tk_optimizers():
        yield OptimizerSpec(name="adamw", target="x:y", config=Adam)

    @hookimpl
    def tk_methods():
        yield MethodSpec(name="sft", target="x:y", defaults={"losses": {"causal-lm": 1.0}})

    @hookimpl
    def tk_losses():
        yield LossSpec(name="causal-lm", target="x:y", config=Smoothing)
        yield LossSpec(name="dft", target="x:y")

    @dataclass(frozen=True)
    class Far:
        url: Annotated[str, doc("Address.")] = ""
        env: Annotated[dict[str, str], doc("Variables.", secret=True)] = field(default_factory=dict)
        api_keys: Annotated[list[str], doc("Keys.", secret=True)] = field(default_factory=list)

    @hookimpl
    def tk_engines():
        yield EngineSpec(name="transformers", target="x:y")
        yield EngineSpec(name="far", target="x:y", config=Far)

    @hookimpl
    def tk_models():
        yield ModelSpec(name="auto", target="x:y", fallback=True)
        yield ModelSpec(name="smollm", target="x:y", matches=Matches(ids=("*smollm*",)), template="jinja")

    @hookimpl
    def tk_templates():
        yield TemplateSpec(name="jinja", target="x:y")

    for _kind, _spec in (("trainers", TrainerSpec), ("strategies", StrategySpec), ("schedulers", SchedulerSpec)):
        def _make(kind, spec):
            default = next(k.default for k in KINDS if k.name == kind)
            def hook():
                return [spec(name=default, target="x:y")]
            hook.__name__ = "tk_" + kind
            return hookimpl(hook)
        globals()["tk_" + _kind] = _make(_kind, _spec)
"""


@pytest.fixture
def registry(install, found) -> Registry:
    install("tk-plugin-parts", SOURCE)
    made = load(Selection(), found=found())
    assert made.plugins[0].reason == ""
    return made


@pytest.fixture
def read(registry, tmp_path: Path):
    """Resolve YAML texts (later over earlier), flags and environment."""

    def run(*texts: str, flags=(), environ=None):
        chosen = chosen_kinds(registry)
        trees = []
        for number, text in enumerate(texts):
            path = tmp_path / f"c{number}.yaml"
            path.write_text(text, encoding="utf-8")
            trees.append(from_yaml(path).expanded(chosen))
        layers = [from_environment(sections_of(registry), environ or {}), *trees, from_flags(flags, chosen)]
        return resolve(registry, layers)

    return run


def test_yaml_and_flags_are_one_path(read):
    yaml = read("tuner: {name: lora, rank: 4, targets: [q, v]}\ntrain: {batch_size: 8}\nlosses: {dft: 0.5}\n")
    flags = read(
        flags=[
            ("tuner", "lora"),
            ("tuner.rank", "4"),
            ("tuner.targets", "q,v"),
            ("train.batch-size", "8"),
            ("losses.dft", "0.5"),
        ]
    )
    assert yaml.tree == flags.tree
    assert yaml.chosen["tuner"].options.targets == ["q", "v"]
    assert yaml.groups["losses"]["dft"].weight == 0.5


def test_a_further_component_is_named_by_a_flag_beside_those_of_its_options(read):
    flags = [("engines.judge", "far"), ("engines.judge.url", "x"), ("engines.other", "transformers")]
    found = read(flags=flags).groups["engines"]
    assert (found["judge"].name, found["judge"].options.url, found["other"].name) == ("far", "x", "transformers")
    assert not read("engines: {judge: far}", flags=[("engines.judge", "null")]).groups["engines"]


def test_later_layers_win_and_defaults_come_last(read):
    environ = {"TK_TRAIN__SEED": "1", "TK_TRAIN__EPOCHS": "9"}
    config = read("train: {seed: 2, steps: 5}\n", "train: {seed: 3}\n", environ=environ)
    assert (config.train.seed, config.train.epochs, config.train.steps) == (3, 9.0, 5)
    assert read("train: {seed: 2}", flags=[("train.seed", "7")]).train.seed == 7


def test_components_suggest_what_nobody_said(read):
    assert read().chosen["optim"].options.lr == 2e-4
    assert read("optim: {lr: 3e-5}").chosen["optim"].options.lr == 3e-5
    assert read("tuner: full").chosen["optim"].options.lr == 1e-4
    assert list(read().groups["losses"]) == ["causal-lm"]
    assert list(read("losses: {dft: 1}").groups["losses"]) == ["dft"]


def test_choosing_another_component_drops_the_former_ones_options(read):
    assert read("tuner: {name: lora, rank: 4}", flags=[("tuner", "full")]).chosen["tuner"].name == "full"


def test_another_checkpoint_keeps_what_is_not_about_the_former_one(read):
    text = "model: {name: my/smollm, dtype: bf16, attention: eager, revision: main}"
    model = read(text, flags=[("model", "smollm")]).model
    assert (model.dtype, model.attention, model.revision) == ("bf16", "eager", None)


def test_naming_a_component_again_keeps_its_options(read):
    assert read("losses: {dft: 0.5}", flags=[("losses", "dft")]).groups["losses"]["dft"].weight == 0.5
    assert read("losses: {dft: {weight: 0.5}}", flags=[("losses", "dft")]).groups["losses"]["dft"].weight == 0.5
    assert list(read("losses: {dft: false, causal-lm: 1}", flags=[("losses", "dft")]).groups["losses"]) == [
        "causal-lm",
        "dft",
    ]


def test_nothing_in_the_place_of_a_mapping_empties_it(read):
    text = "losses: {dft: 1}\ndata: {sources: {a: {path: x, columns: {b: c}}}}"
    assert read(text, "data: {sources: {a: {columns: {}}}}").data.sources["a"].columns == {}
    assert not read(text, "losses: {}").groups["losses"]


@pytest.mark.parametrize("off", ["false", "null"])
def test_a_flag_takes_a_component_out(off, read):
    losses = read("losses: {dft: 0.5, causal-lm: 1}", flags=[("losses.dft", off)]).groups["losses"]
    assert list(losses) == ["causal-lm"]


def test_yaml_keeps_what_was_written(read):
    config = read("optim: {lr: 1e-5}\noutput: {dir: off}\ntuner: {targets: 'yes'}\n")
    assert config.chosen["optim"].options.lr == 1e-5
    assert config.output.dir == "off"
    assert config.chosen["tuner"].options.targets == "yes"


def test_short_forms(read):
    config = read(
        "model: my/smollm\ndata: rows.jsonl\noutput: out\nlosses: [dft]\nengine: transformers\nengines: {judge: transformers}\n"
    )
    assert config.model.name == "my/smollm"
    assert config.family.name == "smollm"
    assert config.data.sources["data"].path == "rows.jsonl"
    assert list(config.groups["losses"]) == ["dft"]
    assert config.chosen["engine"].name == "transformers"
    assert [(name, one.name) for name, one in config.groups["engines"].items()] == [("judge", "transformers")]
    assert read("data: {sources: {a: x.csv}}").data.sources["a"].path == "x.csv"


def test_the_saved_config_resolves_to_itself(read):
    config = read("model: smollm\ntuner: {rank: 3, targets: [q]}\noutput: {dir: 'on'}\noptim: {lr: 1e-7}\n")
    again = read(to_yaml(config.tree))
    assert again.tree == config.tree


MISTAKES = {
    "tuner: {rnak: 4}": r"c0.yaml:1.*|tuner.rnak: .*Did you mean 'rank'",
    "tunre: lora": "Did you mean 'tuner'",
    "tuner: lorra": "No tuner is named 'lorra'. Did you mean 'lora'",
    "losses: {dtf: 1}": "Did you mean 'dft'",
    "losses: {causal-lm: {smothing: 1}}": "losses.causal-lm.smothing: .*Did you mean 'smoothing'",
    "data: {sources: {a: {pth: x}}}": "data.sources.a.pth: .*Did you mean 'path'",
    "train:\n  seed: 1\n  seed: 2\n": "c0.yaml:3: .*twice",
    "tuner: {rank: 0}": "tuner.rank: .*set by .*c0.yaml:1",
    "tuner: {rank: four}": "tuner.rank: .*'four' is not int",
    "tuner:\n  init: maybe\n": r"tuner.init: .*c0.yaml:2",
    "train: {batch_size: 1.5}": "train.batch_size",
    "- a\n- b\n": "a config is a mapping",
    "a: [1\nb: 2": "c0.yaml:2: not valid YAML",
    "train: 5": "train: expected a mapping",
    "tuner: {name: full, rank: 3}": "tuner.rank: there is no such option",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_names_its_path_and_place_and_the_mend(text, read):
    with pytest.raises(ConfigError, match=MISTAKES[text]):
        read(text)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (("tuner.rnak", "4"), "Did you mean 'rank'"),
        (("tuner.rank", "x"), "tuner.rank: .*'x' is not int"),
        (("tuner.targets", "[q_proj"), r"tuner.targets: '\[q_proj' is not valid YAML"),
        (("trian.seed", "1"), "Did you mean 'train'"),
    ],
)
def test_flags_are_checked_the_same(flag, message, read):
    with pytest.raises(ConfigError, match=message):
        read(flags=[flag])


def test_environment_of_an_unknown_section_is_an_error(read):
    with pytest.raises(ConfigError, match="TK_TRIAN__SEED"):
        read(environ={"TK_TRIAN__SEED": "1"})


def test_missing_and_binary_files_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such config file"):
        from_yaml(tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="b.yaml"):
        from_yaml(tmp_path / "b.yaml")


def test_every_value_tells_where_it_comes_from(read):
    config = read("train:\n  seed: 4\n", flags=[("tuner.rank", "3")], environ={"TK_TRAIN__EPOCHS": "2"})
    origins = {row["path"]: row["origin"] for row in listed(config)}
    assert origins["train.seed"].endswith("c0.yaml:2")
    assert origins["tuner.rank"] == "--tuner.rank"
    assert origins["train.epochs"] == "TK_TRAIN__EPOCHS"
    assert origins["train.batch_size"] == "default"
    assert origins["optim.lr"].startswith("default of tuner 'lora'")


def test_schema_accepts_what_resolves_and_refuses_what_does_not(registry):
    jsonschema = pytest.importorskip("jsonschema")
    made = schema(registry)
    jsonschema.Draft202012Validator.check_schema(made)
    check = jsonschema.Draft202012Validator(made)
    good = {"model": "x", "tuner": {"name": "lora", "rank": 4}, "losses": {"dft": 0.5, "causal-lm": {"smoothing": 0.1}}}
    assert check.is_valid(good)
    for bad in ({"tuner": {"name": "lora", "rnak": 4}}, {"tunre": 1}, {"losses": {"dtf": 1}}, {"train": {"seed": "x"}}):
        assert not check.is_valid(bad), bad


def test_values_from_python_are_the_same_path(registry):
    chosen = chosen_kinds(registry)
    tree = from_mapping({"tuner": {"name": "lora", "rank": 4}, "output": Path("x")}, "the call").expanded(chosen)
    config = resolve(registry, [tree])
    assert config.chosen["tuner"].options.rank == 4
    assert config.output.dir == "x"


OWN_WORD = """
    from tk import *
    from tk import hookimpl

    WORD = ("acme-tk:stages",)

    @hookimpl
    def tk_trainers():
        yield TrainerSpec(name="staged", target="x:y", requires=WORD, supports=WORD)

    @hookimpl
    def tk_strategies():
        yield StrategySpec(name="stages", target="x:y", requires=WORD, supports=WORD)
"""


def test_a_word_of_a_packages_own_is_asked_of_the_kinds_that_have_it(install, found):
    install("tk-plugin-parts", SOURCE)
    install("acme-tk", OWN_WORD)
    registry = load(Selection(), found=found())

    def composed(**sections):
        tree = from_mapping({"model": "smollm", **sections}, "the call").expanded(chosen_kinds(registry))
        return compose(resolve(registry, [tree]), registry)

    assert composed(trainer="staged", strategy="stages").one("strategy").name == "stages"
    assert composed().one("strategy").name == "ddp"
    with pytest.raises(
        UsageError, match="trainer needs 'acme-tk:stages', which strategy .ddp of tk-plugin-parts. does not"
    ):
        composed(trainer="staged")
    with pytest.raises(
        UsageError, match="strategy needs 'acme-tk:stages', which trainer .torch of tk-plugin-parts. does"
    ):
        composed(strategy="stages")


def test_the_kernels_own_sections_are_those_that_kinds_may_not_take():
    assert set(KERNEL_SECTIONS) == set(FIXED)


def test_the_cache_is_where_the_environment_says() -> None:
    assert cache_root({"TK_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_root({"XDG_CACHE_HOME": "/b"}) == Path("/b/tk")
    assert cache_root({}) == Path("~/.cache/tk").expanduser()


def test_what_is_secret_is_not_published_and_nothing_else_is_hidden(read):
    text = "engine: {name: far, url: 'https://host:1/v1', env: {HF_TOKEN: hf_1}}\n"
    text += "engines: {judge: {name: far, api_keys: [one, two], url: 'https://me:pass@host/v1?a=b&api_key=k1'}}\n"
    config = read(text)
    assert config.chosen["engine"].options.env == {"HF_TOKEN": "hf_1"}
    assert config.published["engine"]["env"] == {"HF_TOKEN": "***"}
    assert config.published["engines"]["judge"]["api_keys"] == ["***", "***"]
    assert config.published["engines"]["judge"]["url"] == "https://***@host/v1?a=b&api_key=***"
    assert {row["path"] for row in listed(config) if _at(config.published, row["path"]) != row["value"]} == {
        "engine.env.HF_TOKEN",
        "engines.judge.api_keys",
        "engines.judge.url",
    }
    assert read("train: {seed: 1}").published == read("train: {seed: 1}").tree


def test_fields_that_are_changed_from_python_are_read_as_a_config_is(read):
    sampling = read("sampling: {stop: [END], temperature: 0.5, seed: 3}").sampling
    assert changed("sampling", sampling, {}) == sampling
    new = changed("sampling", sampling, {"stop": "a, b\n", "seed": None, "top_k": "5", "logit_bias": {7: 1}})
    assert (new.stop, new.seed, new.top_k, new.logit_bias) == (("a, b\n",), None, 5, {"7": 1.0})
    assert new.temperature == 0.5
    with pytest.raises(ConfigError, match=r"sampling\.stp: there is no such option. Did you mean 'stop'"):
        changed("sampling", sampling, {"stp": "END"})
    with pytest.raises(ConfigError, match=r"sampling: top_logprobs: they come with"):
        changed("sampling", sampling, {"top_logprobs": 2})


def test_a_line_break_is_a_word_of_a_list(read):
    assert read(r'sampling: {stop: "\n"}').sampling.stop == ("\n",)
    assert read(flags=[("sampling.stop", "END, \n ,x")]).sampling.stop == ("END", "x")


@pytest.mark.parametrize(("env", "mode"), [("{HF_TOKEN: hf_1}", 0o600), ("{}", 0o644)])
def test_a_config_with_secrets_is_handed_over_to_its_owner_alone(env, mode, read, registry, tmp_path):
    mask = os.umask(0o022)
    try:
        plan = compose(read(f"model: smollm\nengine: {{name: far, env: {env}}}"), registry)
        launching.command(plan, tmp_path / "config.yaml")
    finally:
        os.umask(mask)
    assert (tmp_path / "config.yaml").stat().st_mode & 0o777 == mode
    assert "hf_1" not in json.dumps(made_with(plan, None, []))


def _at(tree, path):
    for name in path.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:p%40ss@db/x", "postgresql://***@db/x"),
        ("http://host:8000/?write_token=abc&project=birds", "http://host:8000/?write_token=***&project=birds"),
        ("https://s3/x.jsonl?X-Amz-Signature=abc", "https://s3/x.jsonl?X-Amz-Signature=***"),
        ("https://host/users/@me?page=2", "https://host/users/@me?page=2"),
        ("write to me@example.org", "write to me@example.org"),
    ],
)
def test_addresses_are_shown_without_credentials(text, shown):
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--engine", "far", "--engine.env", "{A: b}"], ["--engine", "far", "--engine.env", "***"]),
        (["--engine.env.HF_TOKEN=hf_1", "--json"], ["--engine.env.HF_TOKEN=***", "--json"]),
        (["--engines.judge.api-keys", "k", "rest"], ["--engines.judge.api-keys", "***", "rest"]),
        (["--engine", "{name: far, env: {A: b}}"], ["--engine", "***"]),
        (["--data", "https://me:pass@host/x"], ["--data", "https://***@host/x"]),
    ],
)
def test_a_command_is_shown_without_secrets(words, shown):
    assert published_command(words, {("engine", "env"), ("engines", "judge", "api_keys")}) == shown


def test_a_variable_that_is_empty_is_told(read):
    """What it was to hold, a key of a server among others, did not arrive."""
    with pytest.raises(ConfigError, match="TK_TRAIN__EPOCHS is empty"):
        read("", environ={"TK_TRAIN__EPOCHS": " "})
