"""Assignment: heavy cohorts first, to whom has least to do; never to another machine."""

from __future__ import annotations

from fogtune.actors.assignment import Assignment

HOME = {"w-0": "a/0", "w-1": "a/1", "r-0": "b/0", "r-1": "b/0"}
GROUP = {device: device[0] for device in HOME}


def test_what_is_too_much_for_a_host_goes_to_another() -> None:
    assignment = Assignment(HOME, GROUP, pinned=False)
    assert assignment.assign([["r-0"], ["r-1"]], {"a/0": None, "a/1": None, "b/0": None}) == {"b/0": [0], "a/0": [1]}


def test_cohorts_stay_on_their_machine_however_much_that_is() -> None:
    assignment = Assignment(HOME, GROUP, pinned=False)
    machines = {"a/0": "a", "a/1": "a", "b/0": "b"}
    found = assignment.assign([["w-0"], ["r-0"], ["w-1"], ["r-1"]], machines)
    assert found == {"a/0": [0], "a/1": [2], "b/0": [1, 3]}
