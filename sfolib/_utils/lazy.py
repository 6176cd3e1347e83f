"""Public names of a package that are imported at their first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(
    package: str, names: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of `package`.

    A name whose module needs a package that is not installed raises `ImportError` with the remedy.
    names: public names by the module, relative to `package`, that defines them. modules: submodules, by name.
    """
    homes = {name: home for home, of_home in names.items() for name in of_home}
    known = sorted({*homes, *modules})

    def get(name: str) -> Any:
        if name not in known:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            if name in homes:
                return getattr(import_module(f"{package}.{homes[name]}"), name)
            return import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if str(error.name).startswith("sfolib"):
                raise
            how = "pip install 'sfolib[notebooks]'"
            raise ImportError(f"{package}.{name} needs {error.name}, which is not installed: {how}") from error

    return get, lambda: known, known
