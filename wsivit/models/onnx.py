"""Networks run by ONNX Runtime, which is faster on most CPUs."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsivit.errors import UsageError
from wsivit.models.model_input import blank_input
from wsivit.models.run_folder import Preprocessing


class OnnxNetwork:
    """A network exported to ONNX, on the CPU. Called with pictures, float32 (n, c, s, s).

    Parameters
    ----------
    network : nn.Module
    preprocessing : Preprocessing
    streams : int
        How many calls there are at a time: the threads are shared among them.
    int8 : bool
        Weights of matrix products in 8 bits, their inputs quantised as they come.

    Raises
    ------
    UsageError
        ONNX Runtime is not installed, or the network cannot be exported.
    """

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, streams: int = 1, *, int8: bool = False
    ) -> None:
        try:
            import onnxruntime
            import onnxscript  # noqa: F401 - the export needs it
        except ImportError:
            raise UsageError('engine onnx is not installed: pip install "wsivit[onnx]"') from None
        with tempfile.TemporaryDirectory() as folder:
            path = _export(network, preprocessing, Path(folder))
            if int8:
                path = _quantised(path)
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = max(1, torch.get_num_threads() // streams)
            settings.log_severity_level = 3
            self._session: Any = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        (made,) = self._session.run(None, {"pictures": pictures.contiguous().numpy()})
        return torch.from_numpy(made)


def _export(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> Path:
    path = folder / "model.onnx"
    example = blank_input(preprocessing).repeat(2, 1, 1, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter speaks of its own inside
            torch.onnx.export(
                network.eval(),
                (example,),
                path,
                input_names=["pictures"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
        raise UsageError(f"this model cannot be exported to ONNX ({str(error).splitlines()[0]}); use torch") from error
    return path


def _quantised(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    with _quiet():
        quantize_dynamic(path, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    return target


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the root logger as it is: the quantiser speaks to it, and so gives it a handler."""
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
        root.handlers[:] = handlers
