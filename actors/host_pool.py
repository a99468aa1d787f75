"""The device hosts, as the coordinator has them: actors that keep nothing, so what one was asked can be asked again.

A host that dies is started again and asked once more, as often as `execution.host_retries` says, at least once where
the run cannot do without the answer; it computes the same bits. After that its call fails, and it comes back with
`revive`. One whose machine is gone, too, is left to Ray, which starts it when a machine with that label joins: until it
has loaded, what it is asked fails at once, and nobody waits for it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray

from fogtune.platform.config import Config
from fogtune.platform.errors import InputError
from fogtune.platform.federation.messages import Setup
from fogtune.platform.topology import CLOUD, Tree

from .answers import ActorDied, TimedOut, get
from .hosts import Host
from .machines import get_from, gpus, on, processors
from .packing import Packed, pack


@dataclass
class Call:
    """Something that a host was asked."""

    host: str
    method: str
    arguments: tuple[Any, ...]
    returns: int
    refs: list[Any]
    """To what it returns; it is done when the first is there. None if the host is away."""
    life: int
    """How often the host had died when it was asked."""
    asked_s: float = 0.0
    """When it was asked, by a clock of its own."""
    attempts: int = 1
    overdue: bool = False
    """Whether its host was ended because it took too long."""


class HostPool:
    """Starts the hosts, asks them, and starts them again."""

    def __init__(self, config: Config, namespace: str, tree: Tree) -> None:
        """Start the actors; `load` waits for them.

        Args:
            config: the run's configuration.
            namespace: Ray's, in which actors have their names.
            tree: of the configuration.
        """
        self._config = config
        self._namespace = namespace
        there, gpu_share = processors(), config.execution.gpus_per_actor
        fitting = {m: int(count / gpu_share + 1e-9) for m, count in gpus().items()} if gpu_share else there
        packed = [*_with_devices(config, tree, fitting), *_evaluators(config, tree, fitting)]
        self._devices = {host.name: host.devices for host in packed}
        self.machine = {host.name: host.machine for host in packed}
        """Host -> the machine that it runs on; None: wherever there is room."""
        self.home = {device: host.name for host in packed for device in host.devices}
        """Device -> its host."""
        alone = {host.name: host.devices for host in packed if not host.devices}
        self.evaluating = alone or self._devices
        """Hosts that see the held-out data -> the devices that they are the home of."""
        hosts = Counter(self.machine.values())
        if gpu_share:
            _require(hosts, fitting, gpu_share)
        share = {m: min(1.0, int(1e4 * there.get(m, 0) / hosts[m]) / 1e4) for m in hosts}  # Ray's are ten-thousandths
        free = float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if free < sum(share[m] * hosts[m] for m in hosts):
            share = dict.fromkeys(hosts, 0.0)  # others run here too: to claim what they have is to wait for their end
        self._actors = {name: self._start(name, share[machine]) for name, machine in self.machine.items()}
        self._lives = dict.fromkeys(self._actors, 0)
        self._dead: set[str] = set()
        self._loading: dict[str, Any] = {}
        """Hosts that were started again -> reference to the end of loading."""
        self._labels: Mapping[str, tuple[str, ...]] = {}
        self._initial: Any = None
        """Version 0, or a reference to it."""

    def load(self) -> Setup:
        """Wait until all have loaded model and data, first those that see all labels. Raises InputError, RunFailed."""
        self._load(self.evaluating)
        setup: Setup = get(self._actors[next(iter(self.evaluating))].setup.remote(), 0)
        self._labels = setup.labels
        self._load(self._actors.keys() - self.evaluating.keys(), self._labels)
        return setup

    def share(self, initial: Any) -> None:
        """Have all hosts read version 0 where it lies, by reference; those that are started again as well."""
        self._initial = initial
        get_from(self.machine, [actor.share.remote(initial) for actor in self._actors.values()], 0)

    def _load(self, names: Collection[str], *labels: Mapping[str, tuple[str, ...]]) -> None:
        loading = [self._actors[name].load.remote(*labels) for name in names]
        get_from({name: self.machine[name] for name in names}, loading, 0)

    def ask(self, host: str, method: str, *arguments: Any, returns: int = 1) -> Call:
        """Ask a host something, without waiting."""
        call = Call(host, method, arguments, returns, [], 0)
        self._send(call)
        return call

    def answers(
        self, calls: Iterable[Call], round_number: int, retries: int | None = None
    ) -> Iterator[tuple[Call, Any]]:
        """Each call and its first result, as they come; an ActorDied in its place if the host has died too often.

        Args:
            calls: what was asked.
            round_number: the round.
            retries: how often a host that has died is asked again, if its machine is up; as configured by default.

        Raises:
            FogTuneError: the one that a host raised.
            RunFailed: what a host was to be given never came.
        """
        retries = self._config.execution.host_retries if retries is None else retries
        waiting = {}
        for call in calls:
            if call.refs:
                waiting[call.refs[0]] = call
            else:
                yield call, ActorDied(round_number, f"{call.host} waits for machine {self.machine[call.host]}")
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=1, timeout=self._patience_s(waiting.values()))
            if not ready:
                self._end_overdue(waiting.values())
                continue
            call = waiting.pop(ready[0])
            try:
                answer = get(ready[0], round_number, call.host)
            except ActorDied as died:
                error = died if not call.overdue else self._timed_out(call, round_number)
                if self._lives[call.host] == call.life:  # else it is up again
                    self._dead.add(call.host)
                if call.attempts > retries:
                    yield call, error
                    continue
                self.revive(round_number)
                call.attempts, call.overdue = call.attempts + 1, False
                self._send(call)
                if call.refs:
                    waiting[call.refs[0]] = call
                else:
                    yield call, error
                continue
            yield call, answer

    def all_answers(self, calls: Iterable[Call], round_number: int) -> list[tuple[Call, Any]]:
        """The same, where no answer may be missing. Raises ActorDied as well."""
        found = []
        retries = max(1, self._config.execution.host_retries)
        for call, answer in self.answers(calls, round_number, retries):
            if isinstance(answer, ActorDied):
                raise answer
            found.append((call, answer))
        return found

    def revive(self, round_number: int) -> None:
        """Start dead hosts again, and wait until those have loaded whose machines are up."""
        awaited, self._dead = self._dead, set()
        for name in sorted(awaited):
            self._start_again(name)
        tries: Counter[str] = Counter()
        while self._loading:
            up = processors()  # asked again each second, as a host may have died before Ray knows of its machine
            awaited = {name for name in awaited if name in self._loading and self.machine[name] in up}
            many, timeout_s = (1, 1.0) if awaited else (len(self._loading), 0.0)
            ready, _ = ray.wait(list(self._loading.values()), num_returns=many, timeout=timeout_s)
            for name in [name for name, ref in self._loading.items() if ref in ready]:
                try:
                    get(self._loading.pop(name), round_number, name)
                except ActorDied:
                    tries[name] += 1
                    if self.machine[name] is not None:  # which may be gone
                        self._dead.add(name)
                    elif tries[name] > self._config.execution.host_retries:
                        raise
                    else:
                        self._start_again(name)
            if not awaited:
                return

    def _start_again(self, name: str) -> None:
        """Put a new host in the place of a dead one, and have it load."""
        ray.kill(self._actors[name])  # it may only have been out of reach
        with suppress(ValueError):  # until Ray has forgotten the name
            while ray.get_actor(name, self._namespace):
                time.sleep(0.05)
        # Without a claim: its share of processors may have gone with its machine, and it would wait for ever.
        self._actors[name] = self._start(name, 0)
        self._lives[name] += 1
        self._loading[name] = self._actors[name].load.remote(self._labels, self._initial)

    def _patience_s(self, calls: Iterable[Call]) -> float | None:
        """Until the first of some calls is overdue; null for ever."""
        timeout_s = self._config.execution.host_timeout_s
        asked_s = [call.asked_s for call in calls if not call.overdue]
        if timeout_s is None or not asked_s:
            return None
        return max(0.0, min(asked_s) + timeout_s - time.monotonic())

    def _end_overdue(self, calls: Iterable[Call]) -> None:
        """End the hosts of calls that take too long: they are then dead like others."""
        timeout_s = self._config.execution.host_timeout_s or 0.0
        for call in calls:
            if time.monotonic() - call.asked_s >= timeout_s and not call.overdue:
                call.overdue = True
                ray.kill(self._actors[call.host])

    def _timed_out(self, call: Call, round_number: int) -> TimedOut:
        timeout_s = self._config.execution.host_timeout_s
        why = f"{call.host} died: no answer within execution.host_timeout_s, {timeout_s:g} s"
        return TimedOut(round_number, why)

    def _start(self, name: str, num_cpus: float) -> Any:
        machine, devices = self.machine[name], len(self._devices[name])
        options = Host.options(
            name=name,
            namespace=self._namespace,
            num_cpus=num_cpus,
            num_gpus=self._config.execution.gpus_per_actor,
            **on(machine),
        )
        return options.remote(name, self._config, devices, self._namespace, machine)

    def _send(self, call: Call) -> None:
        if call.host in self._loading:
            call.refs = []
            return
        method = getattr(self._actors[call.host], call.method).options(num_returns=call.returns)
        refs = method.remote(*call.arguments)
        call.refs = [refs] if call.returns == 1 else refs
        call.life, call.asked_s = self._lives[call.host], time.monotonic()


def _with_devices(config: Config, tree: Tree, there: Mapping[str | None, int]) -> Iterator[Packed]:
    """The hosts of all devices."""
    per_actor = config.execution.devices_per_actor
    for machine, devices in Counter(tree[device].machine for device in tree.devices).items():
        hosts = max(1, there.get(machine, 1)) if per_actor == "auto" else -(-devices // per_actor)
        yield from pack(tree, hosts, machine)


def _evaluators(config: Config, tree: Tree, there: Mapping[str | None, int]) -> Iterator[Packed]:
    """Hosts without devices, where only the cloud's machine need have the held-out data."""
    machine = tree[CLOUD].machine
    if machine is not None:
        auto = config.execution.devices_per_actor == "auto"
        for k in range(max(1, there.get(machine, 1)) if auto else 1):
            yield Packed(f"evaluator/{k}", (), machine)


def _require(hosts: Mapping[str | None, int], fitting: Mapping[str | None, int], gpu_share: float) -> None:
    """InputError if a machine's GPUs, None for the cluster's, have no room for its hosts: Ray would wait for more."""
    for machine, count in hosts.items():
        room = fitting.get(machine, 0)
        if count > room:
            where = "of the cluster" if machine is None else f"of machine {machine}"
            problem = f"{gpu_share:g} given, but the GPUs {where} have room for {room} of {count} host processes"
            allowed = "a smaller share, more execution.devices_per_actor, or 0 to do without"
            raise InputError("execution.gpus_per_actor", f"{problem}; allowed: {allowed}")


def devices_of(homes: Mapping[str, str], devices: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Host -> those of some devices that it is the home of."""
    found: dict[str, list[str]] = {}
    for device in devices:
        found.setdefault(homes[device], []).append(device)
    return {host: tuple(some) for host, some in found.items()}
