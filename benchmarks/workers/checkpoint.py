"""Prints the folder of a checkpoint; with a folder and a number, writes the same cut to that many layers there."""

from __future__ import annotations

import sys

from tk import plugins
from tk.families import family_of


def main(name: str, folder: str = "", layers: str = "") -> None:
    path = family_of(plugins.load(), name).build().resolve(name)
    if folder:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()  # that the other layers are left out is meant
        logging.disable_progress_bar()
        config = AutoConfig.from_pretrained(path)
        config.num_hidden_layers = int(layers)
        AutoModelForCausalLM.from_pretrained(path, config=config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(path).save_pretrained(folder)
        path = folder
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
