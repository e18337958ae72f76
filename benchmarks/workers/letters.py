"""The reward that every program of the GRPO benchmark gives."""


def share(text: str) -> float:
    """How many of the characters are an e."""
    return text.count("e") / max(len(text), 1)
