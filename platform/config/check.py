"""Refusal of configurations whose parts cannot work together, as far as that is seen without loading any data.

Each check is a function of its own that raises InputError for the first thing that it finds; they run in this order,
so a later one may rely on what an earlier one has made sure of.
"""

from __future__ import annotations

from ..errors import InputError
from ..topology_build import build_tree
from .check_federation import (
    adaptive_tier_sends,
    cadence_tiers_exist,
    cadences_are_multiples,
    compressed_meet_every_round,
    compressions_are_chains,
    policies_match,
    robust_rule_fits,
    sampling_has_what_it_needs,
    scaffold_meets_every_round,
    scaffold_uses_sgd,
    scopes_exist,
    traces_can_be_read,
    warmup_ends,
    what_goes_down_is_quantised,
)
from .check_machines import labels_have_machines, machines_are_of_nodes
from .check_model import (
    encoders_have_owners,
    experts_suffice,
    inputs_have_encoders,
    kernels_are_odd,
    nothing_rides_on_no_backbone,
    text_has_no_encoder,
    width_is_of_one_thing,
)
from .check_network import gossip_has_modules, network_can_be_built, sharing_has_ways
from .check_population import (
    device_classes_exist,
    group_names_are_unique,
    inputs_are_collected,
    nodes_have_children,
    nothing_is_named_twice,
    somebody_begins,
    sources_are_used,
    sources_exist,
    tasks_are_executed,
    tasks_exist,
    tasks_suit_groups,
)
from .check_sources import (
    held_out_groups_exist,
    natural_groups_exist,
    own_folders_are_whole,
    partition_labels_exist,
    task_inputs_exist,
    task_labels_exist,
)
from .check_synchrony import (
    nodes_under_way_meet_every_round,
    stragglers_are_on_their_own,
    synchrony_has_a_clock,
    synchrony_tiers_exist,
)
from .root import Config


def kept_checkpoints_are_written(config: Config) -> None:
    """Every so many rounds a checkpoint is kept for good, and there is one."""
    every, kept = config.output.checkpoint_every, config.output.keep_every
    if kept is not None and kept % every:
        raise InputError("output.keep_every", f"{kept} given; allowed: multiples of output.checkpoint_every, {every}")


_OF_CONFIG = (
    group_names_are_unique,
    nothing_is_named_twice,
    device_classes_exist,
    tasks_exist,
    sources_exist,
    tasks_are_executed,
    sources_are_used,
    somebody_begins,
    task_inputs_exist,
    task_labels_exist,
    partition_labels_exist,
    own_folders_are_whole,
    natural_groups_exist,
    held_out_groups_exist,
    tasks_suit_groups,
    inputs_are_collected,
    width_is_of_one_thing,
    text_has_no_encoder,
    nothing_rides_on_no_backbone,
    inputs_have_encoders,
    encoders_have_owners,
    kernels_are_odd,
    experts_suffice,
    warmup_ends,
    policies_match,
    scopes_exist,
    cadence_tiers_exist,
    cadences_are_multiples,
    scaffold_uses_sgd,
    scaffold_meets_every_round,
    adaptive_tier_sends,
    compressions_are_chains,
    what_goes_down_is_quantised,
    compressed_meet_every_round,
    sampling_has_what_it_needs,
    synchrony_tiers_exist,
    synchrony_has_a_clock,
    stragglers_are_on_their_own,
    nodes_under_way_meet_every_round,
    gossip_has_modules,
    sharing_has_ways,
    labels_have_machines,
    kept_checkpoints_are_written,
)
_OF_TREE = (nodes_have_children, robust_rule_fits, network_can_be_built, traces_can_be_read, machines_are_of_nodes)


def check(config: Config) -> None:
    """Raise InputError, one line, on the first impossible combination; its tree is built for that too."""
    for check_config in _OF_CONFIG:
        check_config(config)
    tree = build_tree(config)
    for check_tree in _OF_TREE:
        check_tree(config, tree)
