"""`tk plugins new`: writes an installable package with a small working component of a kind, and its tests."""

from tk.scaffold.write import write

__all__ = ["write"]
