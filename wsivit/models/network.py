"""Networks of all libraries as one: pictures in, logits out, or features; by torch or by ONNX Runtime."""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsivit.errors import UsageError
from wsivit.models.linear_head import LinearHead
from wsivit.models.model_input import blank_input
from wsivit.models.run_folder import Preprocessing


class Network(nn.Module):
    """A network that maps pictures, float (n, 3, s, s), to logits (n, classes).

    Parameters
    ----------
    model : nn.Module
        Takes pictures; gives logits, or something that has them as ``logits``.
    head : str or None
        Name of its last layer; "" where it has none and gives features; None where it is not known.
    """

    def __init__(self, model: nn.Module, head: str | None) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        output: Any = self.model(pictures)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.flatten(1)

    def without_head(self) -> Network:
        """Return the network without its last layer: it gives the input of that layer.

        Raises
        ------
        UsageError
            The last layer is not known.
        """
        if self.head is None:
            raise UsageError("features need the model's last layer, which is not known of a TorchScript program")
        if self.head:
            parent, _, name = self.head.rpartition(".")
            setattr(self.model.get_submodule(parent), name, nn.Identity())
        return Network(self.model, "")

    @property
    def convolves(self) -> bool:
        """Whether it is a CNN, which is faster with channels last; a ViT has one convolution, which cuts patches."""
        return sum(isinstance(module, nn.Conv2d) for module in self.modules()) > 3


def of_classifier(model: Any) -> Network:
    """Make a network of a transformers image classifier; a timm one is taken out of its wrapper."""
    if model.config.model_type == "timm_wrapper":
        return of_timm(model.timm_model)
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    return Network(model, heads[-1] if heads else None)


def of_timm(model: Any) -> Network:
    """Make a network of a timm one."""
    last = model.get_classifier()
    names = [name for name, module in model.named_modules() if module is last and isinstance(module, nn.Linear)]
    return Network(model, names[0] if names else "" if isinstance(last, nn.Identity) else None)


class _WithHead(Network):
    """An encoder and a linear head on its features, rounded to 16 bits as a store keeps them."""

    def __init__(self, encoder: Network, head: nn.Linear) -> None:
        super().__init__(encoder.without_head(), "")
        self.linear = head

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        features: Tensor = self.model(pictures)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.linear(features.half().float())
        return logits

    def without_head(self) -> Network:
        """Return the encoder."""
        return Network(self.model, "")


def with_head(encoder: Network, head: LinearHead) -> Network:
    """Put a linear head on an encoder."""
    classes, width = head.weight.shape
    linear = nn.Linear(width, classes)
    linear.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
    return _WithHead(encoder, linear)


def autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type to calculate in; None for float32."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def device_for(name: str) -> torch.device:
    """Resolve ``auto``: the first GPU there is, else the CPU.

    Raises
    ------
    UsageError
        If this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)  # a name alone says nothing of the machine
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here ({first}); auto takes the best there is") from error
    return device


class OnnxNetwork:
    """A network exported to ONNX, on the CPU. Called with pictures, float32 (n, c, s, s).

    Parameters
    ----------
    network : nn.Module
    preprocessing : Preprocessing
    streams : int
        Parallel calls: the threads are shared among them.
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
            path = Path(folder) / "model.onnx"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the exporter warns of its own code
                    torch.onnx.export(
                        network.eval(),
                        (blank_input(preprocessing).repeat(2, 1, 1, 1),),
                        path,
                        input_names=["pictures"],
                        dynamic_shapes=({0: torch.export.Dim("batch")},),
                        dynamo=True,
                        verbose=False,
                    )
            except (RuntimeError, ValueError, TypeError, torch.onnx.errors.OnnxExporterError) as error:
                first = str(error).splitlines()[0]
                raise UsageError(f"this model cannot be exported to ONNX ({first}); use torch") from error
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = max(1, torch.get_num_threads() // streams)
            settings.log_severity_level = 3
            path = _quantised(path) if int8 else path
            self._session: Any = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        (logits,) = self._session.run(None, {"pictures": pictures.contiguous().numpy()})
        return torch.from_numpy(logits)


def _quantised(path: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = path.with_name("int8.onnx")
    # The quantiser logs to the root logger, which gives that a handler: it is put back as it was.
    root, level = logging.getLogger(), logging.root.manager.disable
    handlers = list(root.handlers)
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(path, target, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
    finally:
        logging.disable(level)
        root.handlers[:] = handlers
    return target
