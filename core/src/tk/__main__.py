"""`python -m tk`: the same as the `tk` command."""

from tk.cli import main

main()
