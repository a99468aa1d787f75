"""What a federation's numbers on the pages of the machines come to."""

from __future__ import annotations

from fogtune.actors.watching import Numbers, Sample, numbers_of


def sample(name: str, value: float, process: str = "one", run: str = "mine", **labels: str) -> Sample:
    return name, {"run": run, "WorkerId": process, **labels}, value


def test_numbers_are_those_of_the_run_and_the_time_left_follows_from_them() -> None:
    found = numbers_of(
        "mine",
        [
            sample("start_time_seconds", 100.0),
            sample("round", 3.0),
            sample("round", 9.0, run="other"),
            sample("rounds", 10.0),
            sample("participants", 4.0),
            sample("round_duration_seconds", 1.5),
            sample("round_seconds_total", 4.0),
            sample("updates_lost_total", 2.0),
            sample("link_bytes_total", 7.0, link="uplink"),
            sample("link_bytes_total", 8.0, link="downlink"),
            sample("task_loss", 0.25, task="topic"),
            sample("task_metric", 0.5, task="topic", metric="accuracy"),
        ],
    )
    assert found == Numbers(
        round=3,
        rounds=10,
        participants=4,
        round_s=1.5,
        wall_s=4.0,
        updates_lost=2,
        bytes={"uplink": 7, "downlink": 8},
        loss={"topic": 0.25},
        tasks={"topic": {"accuracy": 0.5}},
    )
    assert found.left_s == (10 - 3) * 1.5


def test_of_a_coordinator_that_was_started_again_the_last_process_counts() -> None:
    dead = [sample("start_time_seconds", 100.0, "dead"), sample("round", 5.0, "dead")]
    alive = [sample("start_time_seconds", 200.0, "alive"), sample("round", 4.0, "alive")]
    assert numbers_of("mine", dead + alive).round == numbers_of("mine", alive + dead).round == 4


def test_before_the_first_round_there_is_nothing() -> None:
    assert numbers_of("mine", [sample("round", 9.0, run="other")]) == Numbers()
    assert Numbers().left_s is None
