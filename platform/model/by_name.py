"""Parts of a model by the names that users give to modalities and tasks."""

from __future__ import annotations

from torch import nn


class ByName(nn.ModuleDict):
    """torch's dictionary of modules, which also takes the names that it keeps for itself: `values`, `type`, `a.b`."""

    def __getitem__(self, key: str) -> nn.Module:
        return super().__getitem__(_free(key))

    def __setitem__(self, key: str, module: nn.Module) -> None:
        super().__setitem__(_free(key), module)

    def __contains__(self, key: str) -> bool:
        return super().__contains__(_free(key))


def _free(name: str) -> str:
    """`name`, or, where torch has a use of its own for it, another that no user can give."""
    return f":{name.replace('.', ':')}" if "." in name or name in _TAKEN else name


_TAKEN = frozenset(dir(nn.ModuleDict()))
