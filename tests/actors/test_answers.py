"""What Ray raises becomes one line that says who died, and FogTune's own errors come through as themselves."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import ray

from fogtune.actors.answers import ActorDied, get
from fogtune.platform.errors import InputError, RunFailed

pytestmark = pytest.mark.usefixtures("shared_ray")


class Plain:
    """Answers, fails or dies, as it is asked."""

    @ray.method
    def answer(self, given: Any) -> Any:
        return given

    @ray.method
    def fail(self, error: Exception) -> None:
        raise error

    @ray.method
    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


Actor = ray.remote(Plain)


def start(name: str) -> Any:
    return Actor.options(name=name, namespace="answers", num_cpus=0).remote()


def test_answers_and_errors() -> None:
    actor, victim = start("fog/1"), start("devices/0/0")
    assert get(actor.answer.remote(7), 1) == 7
    assert get([actor.answer.remote(i) for i in (1, 2)], 1) == [1, 2]
    with pytest.raises(InputError) as refused:
        get(actor.fail.remote(InputError("local.epochs", "0 given")), 1)
    assert type(refused.value) is InputError
    assert str(refused.value) == "local.epochs: 0 given"
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        get(actor.fail.remote(ZeroDivisionError()), 1)

    last_words = victim.die.remote()
    with pytest.raises(ActorDied) as died:
        get(last_words, 3)
    assert str(died.value).startswith("round 3: devices/0/0 died: its worker process has died")
    assert "\n" not in str(died.value)
    assert len(str(died.value)) < 350

    # Who is given what a dead actor should have made is not dead itself.
    with pytest.raises(RunFailed) as failed:
        get(actor.answer.remote(victim.answer.remote(1)), 4)
    assert not isinstance(failed.value, ActorDied)
    assert str(failed.value).startswith("round 4: devices/0/0 died: ")
    assert get(actor.answer.remote("still here"), 4) == "still here"
