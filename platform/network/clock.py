"""The virtual clock: when the activities of a round begin and end, if each starts as soon as it can.

An activity waits for others and then takes its time: a fixed one (a computation), or as long as its bits need on a
medium that it shares with whatever else is on it just then. Between two events nothing changes, so the clock jumps from
event to event, and what overlaps in truth overlaps here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .band import Floats, Split


class Medium(Protocol):
    """What carries bits for several activities at once; equal ones are the same."""

    def rates(self, quality_hz: Floats, bits: Floats) -> Floats:
        """bit/s of each activity, above zero, given the links' qualities and the bits that they still have to send."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Band:
    """A radio band that its senders split."""

    name: str
    hz: float
    split: Split
    efficiency: Callable[[Floats], Floats]
    """bit/s/Hz at a signal-to-noise ratio (linear)."""

    def rates(self, quality_hz: Floats, bits: Floats) -> Floats:
        hz = self.split(quality_hz, bits, self.hz)
        rate: Floats = hz * self.efficiency(quality_hz / hz)
        return rate


@dataclass(frozen=True)
class Wire:
    """A rate that all who are on it share evenly."""

    name: str
    bits_per_s: float

    def rates(self, quality_hz: Floats, bits: Floats) -> Floats:
        return np.full(len(bits), self.bits_per_s / len(bits))


@dataclass(frozen=True)
class Load:
    """What an activity asks of a medium."""

    medium: Medium
    bits: float
    quality_hz: float = 0.0
    """Received power over noise density; of radio links."""


@dataclass(frozen=True)
class Activity:
    """One thing that takes time."""

    seconds: float = 0.0
    """Fixed time, before any bits."""
    load: Load | None = None
    after: tuple[int, ...] = ()
    """Activities, by index, that must have ended."""
    not_before_s: float = 0.0


@dataclass(frozen=True)
class Span:
    """When an activity went on."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


@dataclass
class _Traffic:
    """What is on a medium."""

    since_s: float = 0.0
    """When `bits` was true."""
    bits: dict[int, float] = field(default_factory=dict)
    """Activity -> bits left."""
    rates: dict[int, float] = field(default_factory=dict)
    change: int = 0
    """Counts changes, so that an end that was foreseen before the last one is known to be stale."""


class _Clock:
    def __init__(self, activities: Sequence[Activity]) -> None:
        self._activities = activities
        self._traffic = {activity.load.medium: _Traffic() for activity in activities if activity.load}
        self._events: list[tuple[float, int, str, int]] = []
        """(when, activity, what, change of the medium)."""
        self._waits = [len(set(activity.after)) for activity in activities]
        self._earliest = [activity.not_before_s for activity in activities]
        self._followers: list[list[int]] = [[] for _ in activities]
        self._starts = [0.0] * len(activities)
        self.spans: dict[int, Span] = {}
        for i, activity in enumerate(activities):
            for before in set(activity.after):
                self._followers[before].append(i)

    def run(self) -> None:
        for i, waits in enumerate(self._waits):
            if not waits:
                self._begin(i)
        while self._events:
            now_s, i, what, change = heapq.heappop(self._events)
            load = self._activities[i].load
            if load is None:
                self._end(i, now_s)
            elif what == "enter":
                self._enter(i, load, now_s)
            elif change == self._traffic[load.medium].change:
                self._leave(i, load.medium, now_s)

    def _begin(self, i: int) -> None:
        self._starts[i] = self._earliest[i]
        heapq.heappush(self._events, (self._earliest[i] + self._activities[i].seconds, i, "enter", 0))

    def _end(self, i: int, now_s: float) -> None:
        self.spans[i] = Span(self._starts[i], now_s)
        for follower in self._followers[i]:
            self._waits[follower] -= 1
            self._earliest[follower] = max(self._earliest[follower], now_s)
            if not self._waits[follower]:
                self._begin(follower)

    def _enter(self, i: int, load: Load, now_s: float) -> None:
        if load.bits <= 0:
            return self._end(i, now_s)
        self._send_until(load.medium, now_s)
        self._traffic[load.medium].bits[i] = load.bits
        return self._share(load.medium)

    def _leave(self, i: int, medium: Medium, now_s: float) -> None:
        self._send_until(medium, now_s)
        del self._traffic[medium].bits[i]
        self._share(medium)
        self._end(i, now_s)

    def _send_until(self, medium: Medium, now_s: float) -> None:
        traffic = self._traffic[medium]
        for i, rate in traffic.rates.items():
            # What rounding leaves of a finished activity must not delay it: its rate has to stay above zero.
            traffic.bits[i] = max(traffic.bits[i] - rate * (now_s - traffic.since_s), 1e-6)
        traffic.since_s = now_s

    def _share(self, medium: Medium) -> None:
        """Split the medium anew, and foresee who ends first."""
        traffic = self._traffic[medium]
        traffic.change += 1
        traffic.rates = {}
        if not traffic.bits:
            return
        loads = [self._activities[i].load for i in traffic.bits]
        quality = np.array([load.quality_hz if load else 0.0 for load in loads])
        rates = medium.rates(quality, np.array(list(traffic.bits.values())))
        traffic.rates = dict(zip(traffic.bits, rates.tolist(), strict=True))
        end_s, first = min((traffic.since_s + bits / traffic.rates[i], i) for i, bits in traffic.bits.items())
        heapq.heappush(self._events, (end_s, first, "leave", traffic.change))


def simulate(activities: Sequence[Activity]) -> list[Span]:
    """When each activity goes on, in their order.

    Raises:
        ValueError: activities wait for each other in a circle.
    """
    clock = _Clock(activities)
    clock.run()
    if len(clock.spans) < len(activities):
        raise ValueError("activities wait for each other in a circle")
    return [clock.spans[i] for i in range(len(activities))]
