"""What is generated in docs is what the code says now, and what has run where is told of every engine, strategy and launcher."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["reference/hooks.md", "reference/config.md", "serving.md", "scaling.md"])
def test_what_is_generated_is_fresh(generator, page):
    path = DOCS / page
    assert path.read_text(encoding="utf-8") == generator.pages()[path], f"{path} is stale: run `make docs`"


@pytest.mark.parametrize(
    ("kind", "page"), [("engines", "serving.md"), ("strategies", "scaling.md"), ("launchers", "scaling.md")]
)
def test_every_component_is_in_the_table_of_its_kind_and_among_what_has_run(generator, kind, page):
    text = (DOCS / page).read_text(encoding="utf-8")
    registry = generator.own_registry()
    (table,) = (found[0] for found in generator.TABLE.finditer(text) if found["kind"] == kind)
    (told,) = re.findall(r"^#+ What has run where\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    for name in registry.names(kind):
        assert f"\n| `{name}` |" in table
        assert re.search(rf"^\| `{name}`[ ,]", told, re.MULTILINE), f"{page}: what has run of {name}, and where?"


def test_a_table_says_where_a_component_runs_and_what_it_can(generator):
    lines = generator.table(generator.own_registry(), "engines").splitlines()
    head, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|--")
    ]
    places = {row[0]: row[head.index("where it runs")] for row in rows}
    assert places["`transformers`"] == "in the process"
    assert places["`vllm`"] == "in the process, or elsewhere (by `--engine.python`)"
    assert places["`openai`"] == "elsewhere (by `--engine.url`)"
    assert [row[0] for row in rows if row[head.index("`shared-module`")]] == ["`transformers`"]


def test_a_page_keeps_what_stands_beside_its_tables(generator):
    page = "Before.\n<!-- begin launchers -->\nold\n<!-- end launchers -->\nAfter.\n"
    filled = generator.filled(page, generator.own_registry())
    assert filled.startswith("Before.\n<!-- begin launchers -->\n| launcher |")
    assert filled.endswith("|\n<!-- end launchers -->\nAfter.\n")
    assert "old" not in filled
