"""Ray starts while libraries are loaded: the one mostly waits for its processes, the other computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module

from fogtune.platform.collecting import uncollected
from fogtune.platform.config import Config


@contextmanager
def ray_beside_libraries(config: Config, on_stage: Callable[[str], None]) -> Iterator[None]:
    """A block in which `fine_tune` is loaded, and Ray runs, if the run is to start one; that one ends with the block.

    Raises:
        InputError: Ray cannot start here.
    """
    if config.execution.runner == "local" or config.execution.address is not None:
        _load("fogtune.pipelines.fine_tune")
        yield
        return

    import ray

    from fogtune.actors.joining import join

    ours = not ray.is_initialized()
    try:
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(_load, "fogtune.pipelines.fine_tune", "fogtune.actors.ray_runner")
            if ours:
                join(None, config.name, on_stage)  # in the main thread, for Ray sets handlers of signals
            loading.result()
        yield
    finally:
        if ours:
            ray.shutdown()


def _load(*modules: str) -> None:
    with uncollected():
        for module in modules:
            import_module(module)
