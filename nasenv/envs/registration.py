"""The environments that `gymnasium.make` knows are registered once Gymnasium is imported, which takes 0.2 s."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SPACES = {
    "ChainCNN": "nasenv.spaces.chain_cnn.ChainCNN",
    "NASBench201": "nasenv.spaces.nas_bench_201.NASBench201",
    "NASBenchMacro": "nasenv.spaces.nas_bench_macro.NASBenchMacro",
}


def register_environments() -> None:
    """Have ``gymnasium.make`` know nasenv's environments, whichever of the two packages is imported first."""
    if "gymnasium" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _WhenImported())


def _register() -> None:
    import gymnasium

    for name, space in _SPACES.items():
        gymnasium.register(
            f"nasenv/{name}-v0",
            entry_point="nasenv.envs.env:make_env",
            vector_entry_point="nasenv.envs.vector_env:make_vec_env",
            kwargs={"space": space},
        )


class _WhenImported:
    """Finds Gymnasium as the others do, and has the environments registered when it has been imported."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders do of Gymnasium, None of all else."""
        if name != "gymnasium":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
