"""The pytest plugin (`-p tk.testing.plugin`): tests of every component that a package declares.

The package is the one whose pyproject.toml lies in pytest's root folder, or those named by `--tk-package`
(ini: tk_package): installed distributions or folders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tk.registry import Component, Registry
from tk.testing.package import Package, check_component, check_listing_is_light, check_loads, check_options


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tk", "tk plugin packages")
    text = "A package to check: an installed distribution or a folder with a pyproject.toml; several by repeating it."
    group.addoption("--tk-package", action="append", default=None, metavar="NAME", help=text)
    parser.addini("tk_package", text, type="args", default=[])


def packages(config: pytest.Config) -> list[Package]:
    """The packages under test. Raises pytest.UsageError where a named one does not exist."""
    names = config.getoption("--tk-package") or config.getini("tk_package")
    if not names:
        found = Package.at(config.rootpath)
        return [found] if found else []
    return [_named(name, config.rootpath) for name in names]


def _named(name: str, root: Path) -> Package:
    folder = root / name
    try:
        found = Package.at(folder) if (folder / "pyproject.toml").is_file() else Package.installed(name)
    except PackageNotFoundError:
        found = None
    if found is None:
        raise pytest.UsageError(f"--tk-package {name}: neither an installed plugin nor a folder of one")
    return found


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the package's tests, unless single tests or files were asked for."""
    if any("::" in argument or argument.endswith(".py") for argument in config.args):
        return
    for package in packages(config):
        collector: Any = PackageTests.from_parent(session, name=package.name, nodeid=package.name)
        collector.package = package
        items.extend(collector.collect())


class PackageTests(pytest.Collector):
    """All tests of one package."""

    package: Package

    def collect(self) -> Iterator[pytest.Item]:
        package = self.package
        sys.path[:0] = [path for path in package.paths if path not in sys.path]
        registry = package.registry()
        for plugin in registry.plugins:
            yield self.test(f"{plugin.name} loads", partial(check_loads, plugin))
        yield self.test("listing is light", partial(check_listing_is_light, package))
        for component in package.components():
            label = f"{component.kind.singular} {component.name}"
            yield self.test(f"{label} fits its contract", partial(check_component, component))
            yield self.test(f"{label} documents its options", partial(check_options, component))

    def test(self, name: str, check: Callable[[], None]) -> pytest.Item:
        item: Any = PackageTest.from_parent(self, name=name)
        item.check = check
        return item  # type: ignore[no-any-return]


class PackageTest(pytest.Item):
    """One check."""

    check: Callable[[], None]

    def runtest(self) -> None:
        self.check()

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.config.rootpath / "pyproject.toml", None, self.name


@pytest.fixture(scope="session")
def tk_registry(request: pytest.FixtureRequest) -> Registry:
    """The registry of the one package under test."""
    found = packages(request.config)
    if len(found) != 1:
        raise pytest.UsageError(f"the fixture tk_registry needs one package under test; there are {len(found)}")
    return found[0].registry()


@pytest.fixture(scope="session")
def tk_component(tk_registry: Registry) -> Callable[[str, str], Component]:
    """Look a component of the package up by kind and name: tk_component("rewards", "length")."""
    return tk_registry.get
