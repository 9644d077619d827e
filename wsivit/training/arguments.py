"""Our options as ``transformers.TrainingArguments``, and how many processes may read tiles."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from wsivit.errors import UsageError
from wsivit.models import device_for
from wsivit.training.options import TrainOptions

_log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
AHEAD = 2
"""Batches that each worker has ready (the loader's own default)."""
_IN_USE = 3
"""Batches that the training holds: the one it learns from, the next one, one that is being pinned."""
_SHARE = 0.9
"""Of the shared memory that is free; the rest is for others."""


def check_machine(options: TrainOptions) -> torch.device:
    """Return the device to train on, before anything long begins.

    Raises
    ------
    UsageError
        If this machine has no such device, or the tracker is not installed.
    """
    device = device_for(options.device)
    if device.index:  # the Trainer takes the first GPU that it sees, whatever it is given
        raise UsageError(
            f"device {options.device}: training takes the first GPU: set CUDA_VISIBLE_DEVICES={device.index} to train "
            "on this one"
        )
    known = get_available_reporting_integrations()
    if options.report_to not in ("none", "all", *known):
        raise UsageError(
            f"--report-to {options.report_to}: not installed, or unknown to transformers; available here: "
            f"{', '.join(known) or 'none'} (pip install tensorboard)"
        )
    return device


def make_arguments(folder: Path, options: TrainOptions, n: int, side: int) -> TrainingArguments:
    """Make the Trainer's arguments.

    Parameters
    ----------
    folder : Path
        For the checkpoints.
    options : TrainOptions
        With nothing left open (`TrainOptions.resolved`).
    n : int
        Number of training pictures.
    side : int
        Of the pictures, in pixels.
    """
    assert options.lr is not None
    device = device_for(options.device)
    evaluated = 2 * options.batch_size
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    workers = fitting_workers(options.worker_count, evaluated * 3 * side * side, processes)
    steps = -(-n // (options.batch_size * int(os.environ.get("WORLD_SIZE", "1"))))  # torchrun sets it
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=evaluated,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=options.epochs * -(-steps // options.accumulate) // 10,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=None,  # `CheckpointMarker` removes old ones, and only once the newest is complete
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        bf16=device.type == "cuda" and torch.cuda.is_bf16_supported(),
        torch_compile=options.compile,
        use_cpu=device.type == "cpu",
        seed=options.seed,
        data_seed=options.seed,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        logging_nan_inf_filter=False,  # it waits for the GPU at every step, and hides what `Health` reports
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=options.report_to,
        disable_tqdm=True,
    )
    # The Trainer would split each batch over all GPUs, by threads of this process; torchrun gives each its own process.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def free_shared_memory() -> int | None:
    """Free shared memory in bytes; None where there is no such file system, as on macOS."""
    try:
        stat = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return stat.f_bavail * stat.f_frsize


def fitting_workers(workers: int, batch_bytes: int, processes: int = 1) -> int:
    """Return with how many workers the batches fit into shared memory, and warn where that is fewer.

    Workers hand over batches in ``/dev/shm``, of which a container has 64 MB. A batch that does not fit is lost
    without an error, and the training would wait for it for ever.

    Parameters
    ----------
    workers : int
        Wanted, by each training process.
    batch_bytes : int
        Of the largest batch.
    processes : int
        Training processes on this machine, which share the memory.

    Returns
    -------
    int
        `workers`; fewer; or 0, threads of this process, where that is faster than the few that fit.
    """
    free = free_shared_memory()
    if free is None or not workers:
        return workers
    batches = int(_SHARE * free / processes) // batch_bytes
    if batches >= AHEAD * workers + _IN_USE:
        return workers
    fitting = max(0, (batches - _IN_USE) // AHEAD)
    chosen = fitting if 2 * fitting >= workers else 0
    _log.warning(
        "%s has %.0f MB free, and %d workers need %.0f MB for their batches: tiles are read by %s; for more, %s",
        SHARED_MEMORY,
        free / 1e6,
        workers,
        processes * (AHEAD * workers + _IN_USE) * batch_bytes / 1e6,
        f"{chosen} workers" if chosen else "threads of this process",
        "give it more (docker run --shm-size=2g) or take a smaller --batch-size",
    )
    return chosen
