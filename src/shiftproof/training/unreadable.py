"""Images that are not used: those that cannot be read, up to a limit, and hidden ones."""

from collections.abc import Iterable

import torch.distributed as dist

from shiftproof.data.folders import check_unreadable, default_max_unreadable
from shiftproof.training.distributed import in_group, warn


def warn_left_out(paths: Iterable[str]) -> None:
    """Say in one line which hidden files and folders do not count.

    Args:
        paths: Their paths; nothing is said if there are none.
    """
    names = list(paths)
    if names:
        more = f" and {len(names) - 3} more" * (len(names) > 3)
        warn(f"hidden files and folders are left out: {', '.join(names[:3])}{more}")


class Unreadable:
    """The broken files that a run has met.

    Args:
        num_images: Files in the data set; the limit is one in a hundred, rounded up.
    """

    def __init__(self, num_images: int) -> None:
        self.limit = default_max_unreadable(num_images)
        self.paths: dict[str, None] = {}

    def note(self, paths: Iterable[str]) -> None:
        """Warn of files that have not been met before.

        Args:
            paths: Files of a batch that could not be read.

        Raises:
            RuntimeError: If there are more than the limit by now.
        """
        for path in paths:
            if path not in self.paths:
                self.paths[path] = None
                warn(f"cannot read {path}; it is left out ({len(self.paths)} so far)")
        check_unreadable("train", list(self.paths), self.limit)

    def over_all_processes(self) -> tuple[str, ...]:
        """Collect the names that any process has met.

        Returns:
            The names, sorted; the same on every process.
        """
        if not in_group():
            return tuple(sorted(self.paths))
        everywhere: list[list[str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, list(self.paths))
        return tuple(sorted({path for paths in everywhere for path in paths or ()}))
