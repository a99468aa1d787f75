"""Where the HF-FM paper's code places its nodes, and the fading of their links.

40 users around 10 edge servers in a square of 5,000 m. The code is https://github.com/payamsiabd/M3T-FFM, of the paper
arXiv 2509.03695. To meet its published digits the draws are in its order: one generator places the nodes, a second of
the same seed draws the fading. That is why nothing here uses `fogtune.platform.rng`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CLUSTERS = 10
USERS = 4
"""Of each cluster."""

SEED = 49
"""Theirs."""

SIDE_M = 5000.0
_SERVERS_APART_M = 500.0
_CENTRE_RADIUS_M = 1000.0  # of a cluster's centre around its server
_CLUSTER_RADIUS_M = 500.0  # of users around their cluster's centre
_NOISE_W_PER_HZ = 10**-20.4  # -174 dBm/Hz


@dataclass(frozen=True)
class Links:
    """All radio links of the 10 clusters. Fading is z1^2 + z2^2 of two standard normal draws: its mean is 2."""

    servers_m: Floats
    """Positions of the edge servers, (10, 2)."""
    users_m: Floats
    """Positions of the users, (10, 4, 2)."""
    uplink_m: Floats
    """User to its edge server, (10, 4)."""
    uplink_fading: Floats
    """(10, 4)."""
    d2d_m: Floats
    """User to user of its cluster, (10, 4 senders, 4 receivers); nan from a user to itself."""
    d2d_fading: Floats
    """(10, 4 senders, 4 receivers), each direction drawn for itself; nan from a user to itself."""


def draw_links() -> Links:
    """Nodes and fading as the paper's code draws them; the same at every call."""
    servers_m, users_m = _place(np.random.default_rng(SEED))
    generator = np.random.default_rng(SEED)
    uplink_fading = _fading(generator, CLUSTERS * USERS).reshape(CLUSTERS, USERS)
    _fading(generator, CLUSTERS * math.comb(USERS, 2))  # drawn there too, a pair of users each, and never used
    d2d_fading = np.full((CLUSTERS, USERS, USERS), np.nan)
    sender, receiver = np.array(list(permutations(range(USERS), 2))).T  # by sender, then by receiver
    d2d_fading[:, sender, receiver] = _fading(generator, CLUSTERS * len(sender)).reshape(CLUSTERS, -1)
    d2d_m = np.linalg.norm(users_m[:, :, None] - users_m[:, None], axis=-1)
    d2d_m[:, range(USERS), range(USERS)] = np.nan
    uplink_m = np.linalg.norm(users_m - servers_m[:, None], axis=-1)
    return Links(servers_m, users_m, uplink_m, uplink_fading, d2d_m, d2d_fading)


def gain(distance_m: Floats, fading: Floats) -> Floats:
    """|h|^2: a path loss of 30 dB at 1 m and 30 dB a decade, times the fading; nan stays nan."""
    power: Floats = 10 ** ((-30 - 30 * np.log10(distance_m)) / 10) * fading
    return power


def rate_bits_per_s(
    distance_m: Floats, fading: Floats, *, power_w: float, bandwidth_hz: float, noise_hz: float
) -> Floats:
    """Shannon's rate, B log2(1 + P |h|^2 / N), elementwise.

    Args:
        distance_m: Lengths of links; nan stays nan.
        fading: Power of the fading, of the same shape.
        power_w: P, transmitted.
        bandwidth_hz: B, that carries the signal.
        noise_hz: Bandwidth whose thermal noise is N. In truth the same; the paper's code takes a thousandth of it.
    """
    snr = power_w * gain(distance_m, fading) / (_NOISE_W_PER_HZ * noise_hz)
    rate: Floats = bandwidth_hz * np.log2(1 + snr)
    return rate


def _fading(generator: np.random.Generator, count: int) -> Floats:
    # One call of (count, 2) gives the numbers of their `count` calls of (1, 2).
    draws = generator.standard_normal((count, 2))
    power: Floats = np.square(draws).sum(axis=1)
    return power


def _place(generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Positions in m: of the servers, (10, 2), and of the users, (10, 4, 2)."""
    servers: list[Floats] = []
    while len(servers) < CLUSTERS:
        server = generator.uniform(0, SIDE_M, size=2)
        if all(np.linalg.norm(server - other) >= _SERVERS_APART_M for other in servers):
            servers.append(server)
    users = []
    for server in servers:
        centre = _around(server, _CENTRE_RADIUS_M, generator)
        users.append([_around(centre, _CLUSTER_RADIUS_M, generator) for _ in range(USERS)])
    return np.array(servers), np.array(users)


def _around(centre: Floats, radius_m: float, generator: np.random.Generator) -> Floats:
    """A point of the disc, redrawn until it is inside the square, (2,)."""
    while True:
        radius = math.sqrt(generator.uniform()) * radius_m
        angle = 2 * math.pi * generator.uniform()
        point: Floats = centre + radius * np.array([math.cos(angle), math.sin(angle)])
        if np.all((point >= 0) & (point <= SIDE_M)):
            return point
