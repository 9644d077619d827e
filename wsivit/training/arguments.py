"""Our options in the words of ``transformers.TrainingArguments``."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_available_reporting_integrations

from wsivit.errors import UsageError
from wsivit.models import device_for
from wsivit.training.options import TrainOptions
from wsivit.training.shared_memory import fitting_workers


def _require_reporting(name: str) -> None:
    known = get_available_reporting_integrations()
    if name not in ("none", "all", *known):
        raise UsageError(
            f"--report-to {name}: is not installed, or unknown to transformers; here there are: "
            f"{', '.join(known) or 'none'} (pip install tensorboard)"
        )


def make_arguments(folder: Path, options: TrainOptions, n: int, side: int) -> TrainingArguments:
    """Make the Trainer's arguments of resolved options.

    Parameters
    ----------
    folder : Path
        For the checkpoints.
    options : TrainOptions
    n : int
        How many training pictures there are.
    side : int
        Of the pictures, in pixels.
    """
    assert options.lr is not None
    _require_reporting(options.report_to)
    device = device_for(options.device)
    workers = options.workers
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(8, cores - 1)
    evaluated = 2 * options.batch_size
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun sets it
    workers = fitting_workers(workers, evaluated * 3 * side * side, processes)
    steps = -(-n // (options.batch_size * int(os.environ.get("WORLD_SIZE", "1"))))  # torchrun sets it
    return TrainingArguments(
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
        save_total_limit=None,  # the newest and the best one are kept, once the newest is whole
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
        logging_nan_inf_filter=False,  # it waits for the GPU at every step, and hides what should be seen
        remove_unused_columns=False,
        label_names=["labels"],
        report_to=options.report_to,
        disable_tqdm=True,
    )
