"""Settings of a service: what a serve configuration may say under `args`, and their defaults."""

from __future__ import annotations

from pydantic import Field

from fogtune.platform.config.base import Section


class Settings(Section):
    """One run's heads, served."""

    run: str = Field(min_length=1)
    """Path of the run's directory; every machine that serves must see it."""
    keys: str | None = None
    """File of API keys, as `fogtune key` writes it; null admits this machine's own processes alone, without a key."""

    gateways: int = Field(default=1, ge=1)
    """Replicas of the gateway, which share a key's rate; model servers are scaled by their queue."""
    max_in_flight: int = Field(default=256, ge=1)
    """Requests inside a gateway at once; one more is answered 503."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Time for the model to answer a request; after it, 504."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Of a request."""
    max_inputs: int = Field(default=64, ge=1)
    """Samples a request."""
    max_pixels: int = Field(default=16_000_000, ge=1)
    """Of a request's images together, told by their headers before anything is decoded."""
    max_series_values: int = Field(default=1_000_000, ge=1)
    """Numbers of a request's series together, steps times channels."""
    max_text_chars: int = Field(default=20_000, ge=1)
    """Of a text; the backbone reads its first tokens."""

    max_batch_rows: int = Field(default=32, ge=1)
    """Samples a forward pass, of whatever tasks, versions and variants."""
    batch_wait_s: float = Field(default=0.0, ge=0)
    """How long a pass waits for more samples; while one pass runs the next one fills up anyway."""
    module_memory_bytes: int = Field(default=2**30, ge=1)
    """Memory of a model server for modules; those used longest ago make room."""
    prefix_memory_bytes: int = Field(default=2**28, ge=0)
    """Memory of a model server for what the frozen parts made of recent inputs."""
    poll_s: float = Field(default=1.0, gt=0, le=5)
    """How often the run's directory is looked at for new versions and promotions."""
