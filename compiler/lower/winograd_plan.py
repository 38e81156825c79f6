"""Whether Winograd's method pays for a convolution, and with which blocks: a model of its cost."""

from __future__ import annotations

from ..target import Target
from ..tensor.simplify import bounds, ceildiv, product
from .sliding import Sliding
from .winograd import Plan


def plan_winograd(s: Sliding, target: Target) -> Plan | None:
    return None
