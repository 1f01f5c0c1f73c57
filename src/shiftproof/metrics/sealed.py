"""What all torchmetrics twins share: they answer with frozen results.

Importing this module imports torchmetrics.
"""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shiftproof.extras import require

if TYPE_CHECKING:
    from torchmetrics import Metric
else:
    Metric = require("torchmetrics", extra="train").Metric


class _Sealed:
    """A result that torchmetrics passes on as it is."""

    def __init__(self, result: Any) -> None:
        self.result = result


class ResultMetric(Metric):
    """A metric whose value is a frozen dataclass, which torchmetrics itself would refuse."""

    full_state_update = False
    is_differentiable = False

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        sealed = super()._wrap_compute(lambda: _Sealed(compute()))

        @functools.wraps(compute)
        def opened() -> Any:
            value = sealed()
            assert isinstance(value, _Sealed)
            return value.result

        return opened
