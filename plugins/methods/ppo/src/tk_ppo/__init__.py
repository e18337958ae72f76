"""Proximal policy optimisation: a policy, and a critic that says what was to be expected."""
