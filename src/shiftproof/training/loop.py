"""The training loop: one network, one process or many, resumable after any step."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shiftproof.data.examples import Examples, ImageDataset
from shiftproof.data.folders import check_unreadable
from shiftproof.data.loading import make_loader
from shiftproof.data.plan import Batch, TrainPlan
from shiftproof.files import remove_partial
from shiftproof.metrics import topk_correct
from shiftproof.results import EpochResult
from shiftproof.training.checkpoint import (
    check_model,
    copy_checkpoint,
    load_checkpoint,
    restore_rng_state,
    rng_state,
    save_checkpoint,
)
from shiftproof.training.config import RunFiles, TrainConfig, describe
from shiftproof.training.distributed import (
    Process,
    any_true,
    barrier,
    broadcast_buffers,
    in_group,
)
from shiftproof.training.evaluation import Evaluation, evaluate, to_device
from shiftproof.training.interrupt import GracefulStop
from shiftproof.training.journal import Journal
from shiftproof.training.modes import frozen_modules, train_except
from shiftproof.training.precision import autocast
from shiftproof.training.progress import Progress
from shiftproof.training.unreadable import Unreadable


@contextlib.contextmanager
def _explained(batch: Batch, examples: Examples) -> Iterator[None]:
    """Say what batch norm lacks where a map of one pixel of a single image is left of a batch."""
    try:
        yield
    except ValueError as error:
        if len(examples) > 1 or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "train: batch norm must have more than one value per channel, got 1 image in a batch "
            f"of {len(batch.indices)} and a map of one pixel; use larger batches or images"
        ) from error


class Trainer:
    """Trains a network and keeps its checkpoints.

    Args:
        config: How to train.
        model: The network, on any device.  Modules in evaluation mode inside a network in training
            mode, frozen batch norm for instance, stay so.
        train_data: Images to train on.
        val_data: Images to validate on after each epoch.
        process: This process among those that train together.
        files: Where checkpoints go; the folder must exist.
        journal: Where progress is told.
        workers: Processes that load images, per training process.
        pin_memory: Whether batches for a GPU go through page-locked memory.
        processes_per_node: Processes that share ``config.batch_size``.
        on_epoch: Called on the main process with all results so far, after each epoch and when
            resuming.

    Attributes:
        progress: How far the run has come.
        unreadable: Broken files met so far.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        train_data: ImageDataset,
        val_data: ImageDataset,
        *,
        process: Process,
        files: RunFiles,
        journal: Journal,
        workers: int = 0,
        pin_memory: bool = True,
        processes_per_node: int = 1,
        on_epoch: Callable[[list[EpochResult]], None] = lambda history: None,
    ) -> None:
        self.config = config
        self.process = process
        self.files = files
        self.journal = journal
        self.workers = workers
        self.pin_memory = pin_memory
        self.on_epoch = on_epoch
        self.train_data = train_data
        self.val_data = val_data
        self.batch_size = config.per_process(processes_per_node)
        self.plan = TrainPlan(
            len(train_data),
            self.batch_size,
            seed=config.seed,
            rank=process.rank,
            world_size=process.world_size,
            accumulate=config.accumulate,
        )
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model = model.to(process.device).to(memory_format=memory_format)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )
        if config.compile:
            self.model.compile()
        self.wrapped: nn.Module = self.model
        self.frozen = frozen_modules(self.model)
        self.progress = Progress.start()
        self.unreadable = Unreadable(len(train_data) + len(val_data))

    def fit(self, resume: Path | None = None, start_epoch: int = 0) -> bool:
        """Train until the last epoch, or until SIGTERM or Ctrl-C asks to stop.

        Args:
            resume: Checkpoint to go on from; its weights, momentum and progress are taken over.
            start_epoch: First epoch, where nothing is resumed.

        Returns:
            True if the last epoch was reached, False if the run was stopped and saved.

        Raises:
            RuntimeError: If the loss is not finite, the checkpoint cannot be read, or too many
                images are broken.
            ValueError: If the checkpoint is of another run.
        """
        self.progress = Progress.start(start_epoch)
        if self.process.is_main:
            for name in {self.files.last, self.files.best}:
                remove_partial(self.files.path(name).parent)
        if resume is not None:
            self._load(resume)
        loader = make_loader(
            self.train_data,
            self.plan,
            workers=self.workers,
            device=self.process.device,
            pin_memory=self.pin_memory,
        )
        with GracefulStop() as stop, self._in_parallel():
            while self.progress.epoch < self.config.epochs:
                if not self._train_epoch(loader, stop):
                    return self._stopped(stop)
                measured = self._validate(stop)
                if measured is None:
                    return self._stopped(stop)
                self._finish_epoch(measured)
        barrier()  # whoever reads a checkpoint next finds what the main process was still writing
        return True

    @contextlib.contextmanager
    def _in_parallel(self) -> Iterator[None]:
        """Average gradients over the processes; nothing of the group outlives the training."""
        if in_group():
            self.wrapped = DistributedDataParallel(self.model)
        try:
            yield
        finally:
            self.wrapped = self.model

    def _train_epoch(self, loader: Any, stop: GracefulStop) -> bool:
        """Train to the end of the epoch; False if a signal asked to stop before."""
        config, progress = self.config, self.progress
        lr = config.schedule.lr(config.lr, progress.epoch)
        for group in self.optimizer.param_groups:
            group.update(lr=lr, momentum=config.momentum, weight_decay=config.weight_decay)
        train_except(self.model, self.frozen)
        steps = self.plan.steps_per_epoch
        if progress.step == steps:
            return True
        self.plan.set_epoch(progress.epoch, progress.step)
        batches = zip(self.plan, loader, strict=True)
        title = f"epoch {progress.epoch + 1}/{config.epochs}"
        with self.journal.progress(steps, title, done=progress.step) as advance:
            while progress.step < steps:
                start = time.perf_counter()
                micro = [next(batches) for _ in range(config.accumulate)]
                loss = self._step(micro, lr)
                progress.step += 1
                progress.seconds += time.perf_counter() - start
                advance(f"loss {loss:.4f}  lr {lr:g}")
                self.journal.scalars(
                    "step",
                    progress.epoch,
                    progress.epoch * steps + progress.step,
                    {"loss": loss, "lr": lr},
                )
                if any_true(stop.requested):
                    return False
        # Ends the workers' epoch: the loader would otherwise keep its last batch waiting.
        next(batches, None)
        return True

    def _step(self, micro: list[tuple[Batch, Any]], lr: float) -> float:
        """One optimiser step over the micro-batches of this process; returns their mean loss."""
        device = self.process.device
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(3, dtype=torch.float64, device=device)
        for number, (batch, examples) in enumerate(micro):
            self.unreadable.note(examples.unreadable)
            if not len(examples):
                raise RuntimeError(
                    "train: each batch must hold a readable image, got none in "
                    f"{', '.join(examples.unreadable[:3])}; replace or delete these files"
                )
            # Whatever a network draws, it draws the same when the run is resumed.
            torch.manual_seed(batch.seed)
            images = to_device(examples.images, device, self.config.channels_last)
            labels = examples.labels.to(device, non_blocking=True)
            with contextlib.ExitStack() as stack:
                if isinstance(self.wrapped, DistributedDataParallel) and number + 1 < len(micro):
                    stack.enter_context(self.wrapped.no_sync())
                with autocast(device, self.config.amp), _explained(batch, examples):
                    logits = self.wrapped(images)
                loss = F.cross_entropy(logits.float(), labels, reduction="sum")
                # Processes average their gradients; the step is the mean over all its images.
                torch.autograd.backward(loss * (self.process.world_size / batch.step_size))
            correct = topk_correct(logits.detach(), labels, 1).sum()
            count = torch.tensor(len(labels), device=device)
            total += torch.stack([loss.detach().double(), correct.double(), count.double()])
        sums = total.cpu()
        mean = float(sums[0] / sums[2])
        if any_true(not bool(sums[0].isfinite())):
            raise self._not_finite(f"the loss is {mean}", lr)
        self.optimizer.step()
        self.progress.sums += sums
        return mean

    def _not_finite(self, what: str, lr: float) -> RuntimeError:
        step = self.progress.epoch * self.plan.steps_per_epoch + self.progress.step
        last = self.files.path(self.files.last)
        return RuntimeError(
            f"train: loss and weights must stay finite, got step {step + 1} (epoch "
            f"{self.progress.epoch + 1}) at learning rate {lr:g}, where {what}; lower the learning "
            f"rate{f' and resume from {last}' if last.is_file() else ''}"
        )

    def _validate(self, stop: GracefulStop) -> Evaluation | None:
        broadcast_buffers(self.model)
        return evaluate(
            self.model,
            self.val_data,
            process=self.process,
            batch_size=self.config.eval_batch_size,
            seed=self.config.seed,
            consistency=self.config.consistency,
            workers=self.workers,
            pin_memory=self.pin_memory,
            channels_last=self.config.channels_last,
            journal=self.journal,
            unreadable=self.unreadable,
            should_stop=lambda: stop.requested,
        )

    def _summed(self) -> Tensor:
        """The sums of this epoch over all processes."""
        sums = self.progress.sums.to(self.process.device)
        if in_group():
            dist.all_reduce(sums)
        return sums.cpu()

    def _finish_epoch(self, measured: Evaluation) -> None:
        progress = self.progress
        loss, correct, count = self._summed().tolist()
        lr = self.config.schedule.lr(self.config.lr, progress.epoch)
        best_before = progress.best
        result = EpochResult(
            epoch=progress.epoch,
            lr=lr,
            seconds=progress.seconds,
            images_per_second=count / max(progress.seconds, 1e-9),
            train_loss=loss / max(count, 1),
            train_top1=correct / max(count, 1),
            val_loss=measured.loss,
            val_rates=measured.rates,
        )
        finished = progress.epoch
        step = (finished + 1) * self.plan.steps_per_epoch
        values = {"train loss": result.train_loss, "val loss": result.val_loss}
        values |= {f"val {name}": rate.value for name, rate in result.val_rates.items()}
        self.journal.scalars("epoch", finished, step, values)
        self.progress = Progress.start(finished + 1)
        self.progress.history = [*progress.history, result]
        # The last one is written last: a run that is killed in between repeats the epoch and writes
        # the others again.
        names = [self.files.best] if result.val_rates["top-1"].value > best_before else []
        if self.files.numbered and finished % self.files.numbered_every == 0:
            names.append(self.files.numbered.format(epoch=finished))
        self._save(*names, self.files.last)
        if self.process.is_main:
            shown = [f"train loss {result.train_loss:.4f} top-1 {100 * result.train_top1:.2f} %"]
            shown += [f"val loss {result.val_loss:.4f}"]
            shown += [f"val {name} {rate.percent:.2f} %" for name, rate in result.val_rates.items()]
            shown += [f"{result.seconds:.1f} s", f"{result.images_per_second:.0f} images/s"]
            self.journal.line(f"epoch {finished + 1}/{self.config.epochs}: {', '.join(shown)}")
            self.on_epoch(self.progress.history)

    def _stopped(self, stop: GracefulStop) -> bool:
        self._save(self.files.last)
        self.journal.line(
            f"stopped by {stop.signal_name or 'a signal to another process'} in epoch "
            f"{self.progress.epoch + 1} after step {self.progress.step} of "
            f"{self.plan.steps_per_epoch}; resume from {self.files.path(self.files.last)}"
        )
        return False

    def _save(self, first: str, *copies: str) -> None:
        """Write a checkpoint, and copies of it, on the main process; the others wait."""
        broadcast_buffers(self.model)
        sums, unreadable = self._summed(), self.unreadable.over_all_processes()
        check_unreadable("train", unreadable, self.unreadable.limit)
        finite = all(bool(value.isfinite().all()) for value in self.model.state_dict().values())
        if not finite:
            lr = self.optimizer.param_groups[0]["lr"]
            raise self._not_finite("a weight is not finite", lr)
        if self.process.is_main:
            state = {
                "config": describe(self.config),
                "model": dict(self.model.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                **self.progress.to_state(sums),
                "plan": self._plan_key(),
                "unreadable": list(unreadable),
                "journal": self.journal.position(),
                "rng": rng_state(),
            }
            save_checkpoint(self.files.path(first), state)
            for name in copies:
                copy_checkpoint(self.files.path(first), self.files.path(name))
        barrier()

    def _plan_key(self) -> dict[str, int]:
        """What must be the same for a resumed run to see the same batches."""
        plan = self.plan
        return {
            "training images": plan.num_samples,
            "images per batch": plan.batch_size,
            "batches per step": plan.batches_per_step,
            "seed": plan.seed,
        }

    def _load(self, path: Path) -> None:
        data = load_checkpoint(path)
        for key in ("model", "optimizer", "epoch", "step", "plan"):
            if key not in data:
                raise ValueError(
                    f"train: a run must resume from its own checkpoint, got {path} without {key}; "
                    "load weights alone as weights"
                )
        ours, theirs = self._plan_key(), data["plan"]
        check_model(data, describe(self.config.model), path)
        changed = [
            f"{key} {theirs[key]}, now {ours[key]}" for key in ours if ours[key] != theirs[key]
        ]
        if changed:
            raise ValueError(
                f"train: a run must be resumed as it was started, got {'; '.join(changed)} in "
                f"{path}; use the same model, seed, batch size and number of processes"
            )
        self.unreadable.paths = dict.fromkeys(data.get("unreadable", ()))
        self.model.load_state_dict(data["model"])
        self.optimizer.load_state_dict(data["optimizer"])
        self.progress = Progress.from_state(data, takes_sums=self.process.is_main)
        restore_rng_state(data["rng"])
        if self.process.is_main:
            self.on_epoch(self.progress.history)
