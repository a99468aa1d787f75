"""Assignment: which host trains which of a round's cohorts. Has no influence on results, only on speed.

A cohort stays on the machine of its devices, where nodes are placed on machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_SLACK = 1.05
"""How much later than it could be a round may end, so that cohorts stay where their prefixes are."""


class Assignment:
    """Heaviest first onto the least loaded, by the seconds that devices of a group took when they trained last."""

    def __init__(self, home: Mapping[str, str], group: Mapping[str, str], pinned: bool) -> None:
        """Nothing is measured yet: all devices are alike.

        Args:
            home: device -> the host that it is on where that does no harm.
            group: device -> its group.
            pinned: whether a cohort stays at the home of its first device whatever it costs.
        """
        self._home = home
        self._group = group
        self._pinned = pinned
        self._seconds: dict[str, float] = {}

    def measured(self, spent: Sequence[Mapping[str, tuple[float, int]]]) -> None:
        """Take note of what hosts say: group -> (seconds, devices)."""
        for group in {group for told in spent for group in told}:
            parts = [told[group] for told in spent if group in told]
            self._seconds[group] = sum(seconds for seconds, _ in parts) / sum(devices for _, devices in parts)

    def assign(self, cohorts: Sequence[Sequence[str]], machines: Mapping[str, str | None]) -> dict[str, list[int]]:
        """Host -> numbers of its cohorts, ascending; without hosts that have none.

        Args:
            cohorts: the devices of each, all of one machine.
            machines: host -> its machine, of all hosts.
        """
        hosts: dict[str | None, list[str]] = {}
        numbers: dict[str | None, list[int]] = {}
        for host, machine in machines.items():
            hosts.setdefault(machine, []).append(host)
        for number, cohort in enumerate(cohorts):
            numbers.setdefault(machines[self._home[cohort[0]]], []).append(number)
        found: dict[str, list[int]] = {}
        for machine, some in numbers.items():
            dealt = self._assign([cohorts[number] for number in some], hosts[machine])
            found |= {host: [some[i] for i in mine] for host, mine in dealt.items()}
        return found

    def _assign(self, cohorts: Sequence[Sequence[str]], hosts: Sequence[str]) -> dict[str, list[int]]:
        """The same, of one machine."""
        costs = [sum(self._seconds.get(self._group[device], 1.0) for device in cohort) for cohort in cohorts]
        fair = sum(costs) / len(hosts)
        load = dict.fromkeys(hosts, 0.0)
        found: dict[str, list[int]] = {}
        for number in sorted(range(len(cohorts)), key=lambda number: -costs[number]):
            lightest = min(hosts, key=lambda host: load[host])
            chosen = self._home[cohorts[number][0]]
            if not self._pinned:
                ((chosen, _),) = Counter(self._home[device] for device in cohorts[number]).most_common(1)
                if load[chosen] + costs[number] > _SLACK * max(load[lightest] + costs[number], fair):
                    chosen = lightest
            load[chosen] += costs[number]
            found.setdefault(chosen, []).append(number)
        return {host: sorted(numbers) for host, numbers in found.items()}
