"""Aggregation: exact sums that travel up the tree, robust statistics, server rules, and the tier that applies them."""

from .compression import Compressed, compress, decompress, message_size
from .contributions import Contributions
from .robust import Contribution, HeldUpdates, coordinate_median, trimmed_mean
from .rules import RuleState, apply_rule, average_rule, control_name, initial_state, is_control
from .sums import ModuleSum, SumOverflow, Tensors, UpdateRejected
from .update import Update, fixed, unfixed

__all__ = [
    "Compressed", "Contribution", "Contributions", "HeldUpdates", "ModuleSum", "RuleState", "SumOverflow", "Tensors",
    "Update", "UpdateRejected", "apply_rule", "average_rule", "compress", "control_name", "coordinate_median",
    "decompress", "fixed", "initial_state", "is_control", "message_size", "trimmed_mean", "unfixed",
]  # fmt: skip
