"""The reward accuracy for tk: symbolic check of mathematical answers."""
