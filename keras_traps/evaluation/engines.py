"""Where the tasks of an evaluation are done."""

import collections
from typing import Protocol

from keras_traps.evaluation.jobs import Job, Task
from keras_traps.evaluation.records import Record


class Engine(Protocol):
    """Does tasks, in whatever order and place.

    Args:
        job: What all tasks need.
    """

    @property
    def job(self) -> Job:
        """What all tasks need."""

    def submit(self, task: Task) -> int:
        """Takes a task.

        Args:
            task: What to do.

        Returns:
            The handle that `finished` will give back with its record.
        """

    def finished(self) -> tuple[int, Record]:
        """Waits until a task is done.

        Returns:
            Its handle and its record.
        """


class LocalEngine:
    """Does one task after the other, in this process.

    Args:
        job: What all tasks need.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._count = 0
        self._waiting: collections.deque[tuple[int, Task]] = collections.deque()

    def submit(self, task: Task) -> int:
        """Takes a task; it is done when `finished` gets to it."""
        self._count += 1
        self._waiting.append((self._count, task))
        return self._count

    def finished(self) -> tuple[int, Record]:
        """Does the task that was submitted first.

        Returns:
            Its handle and its record.

        Raises:
            IndexError: If there is none.
        """
        handle, task = self._waiting.popleft()
        return handle, self.job.run(task)
