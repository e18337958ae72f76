"""Registers classification and regression."""

from collections.abc import Iterable

from tk import MethodSpec, hookimpl

SUPPORTS = ("packing", "embedding-noise", "padding-left")


@hookimpl
def tk_methods() -> Iterable[MethodSpec]:
    yield MethodSpec(
        name="classification",
        target="tk_classification.method:Classification",
        config="tk_classification.options:ClassOptions",
        summary="One class a row, out of several.",
        supports=SUPPORTS,
        defaults={"losses": {"cross-entropy": 1.0}},
    )
    yield MethodSpec(
        name="multi-label",
        target="tk_classification.method:MultiLabel",
        config="tk_classification.options:ClassOptions",
        summary="Any number of classes a row.",
        supports=SUPPORTS,
        defaults={"losses": {"binary-cross-entropy": 1.0}},
    )
    yield MethodSpec(
        name="regression",
        target="tk_classification.method:Regression",
        config="tk_classification.options:RegressionOptions",
        summary="A number a row, or several.",
        supports=SUPPORTS,
        defaults={"losses": {"mean-squared": 1.0}},
    )
