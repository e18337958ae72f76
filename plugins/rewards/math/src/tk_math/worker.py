"""The worker process of the reward `accuracy` (`python -m tk_math.worker`): reads questions, writes verdicts.

The first line holds the settings; each further one {"gold": …} or {"gold": …, "answer": …}. A reply has "gold"
(whether the gold answer parses) and "score" (1.0 or 0.0). In a process of its own the main thread is ours, so
math-verify's limits by SIGALRM work.
"""

from __future__ import annotations

import json
import re
import sys
from functools import lru_cache
from typing import IO, Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

_LETTER = re.compile(r"\(?([A-Z])\)?")
_NAMED_LETTER = re.compile(r"(?i:\b(?:answer|option|choice)\b)(?:\s+is)?\s*:?\s*\**\(?([A-Z])\b")
_TEXT = re.compile(r"\\(?:boxed|text\w*|mathrm|mathbf)\s*\{([^{}]*)\}")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '-][^\W\d_]+)*")


def serve(questions: IO[str], replies: IO[str]) -> None:
    """Answer until the other side hangs up."""
    settings = json.loads(questions.readline())
    limit_memory(settings["memory"])
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in questions:
        question = json.loads(line)
        print(json.dumps(judge(question["gold"], question.get("answer"), settings)), file=replies, flush=True)


def judge(gold: str, answer: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Whether the gold answer parses, and whether the other equals it."""
    seconds = max(1, round(settings["timeout"]))
    wanted = parse_gold(gold, seconds)
    if answer is None or not wanted:
        return {"gold": bool(wanted), "score": 0.0}
    letter = _LETTER.fullmatch(gold.strip())
    if letter and settings["extract"] == "any" and "\\boxed" not in answer:
        return {"gold": True, "score": float(chosen_letter(answer) == letter[1])}
    given = parse_answer(answer, settings["extract"], seconds)
    if _WORDS.fullmatch(plain_words(gold)):  # else read as a product of one-letter symbols, equal to its anagrams
        same = any(isinstance(g, str) and plain_words(g) == plain_words(gold) for g in given)
    else:
        decimals = settings["decimals"]
        same = bool(given) and verify(list(wanted), given, float_rounding=decimals, timeout_seconds=seconds)
    return {"gold": True, "score": float(same)}


def plain_words(text: str) -> str:
    """Text without LaTeX's boxes and text commands, in lower case, with single spaces: what two words are compared by."""
    return " ".join(_TEXT.sub(r" \1 ", _TEXT.sub(r" \1 ", text)).casefold().split())


def parse_answer(answer: str, extract: str, seconds: int) -> list[Any]:
    """What a completion answers: in a box before anything else, then as `extract` allows; empty where nothing parses."""
    if extract == "boxed" and "\\boxed" not in answer:
        return []
    latex = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=extract == "any",
    )
    places = [latex, ExprExtractionConfig()] if extract == "any" else [latex]
    mode = "any_match" if extract == "any" else "first_match"
    parsed: list[Any] = parse(answer, extraction_config=places, extraction_mode=mode, parsing_timeout=seconds)
    return parsed


def chosen_letter(answer: str) -> str:
    """The option that an answer to a multiple-choice question settles on, or ""."""
    whole = _LETTER.fullmatch(answer.strip().strip("*. "))
    named = _NAMED_LETTER.findall(answer)
    return whole[1] if whole else named[-1] if named else ""


@lru_cache(maxsize=4096)
def parse_gold(gold: str, seconds: int) -> tuple[Any, ...]:
    """A gold answer, in whatever way data sets write it: bare, in dollars, boxed, or after GSM8K's ####."""
    text = gold.strip()
    if "####" in text:
        text = text.rpartition("####")[2].strip()
    if "\\boxed" in text or "$" in text or "\n" in text:
        return tuple(parse(text, parsing_timeout=seconds))
    return tuple(parse(f"\\boxed{{{text}}}", parsing_timeout=seconds))


def limit_memory(megabytes: int) -> None:
    """Hold this process to so much address space, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    limit = megabytes << 20
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
