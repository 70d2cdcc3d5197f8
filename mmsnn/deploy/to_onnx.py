"""Export to ONNX with all time steps in standard operators, and quantisation of such a file to int8."""

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmsnn.ops.neuron import NeuronSettings, decode

from .extras import need
from .graph import LIF, Graph

# the first opset whose Split takes the number of outputs
OPSET = 18


def save_onnx(graph: Graph, path: Path) -> None:
    """Write ``graph`` as ONNX, with its names of inputs and outputs and with neurons unrolled over time.

    Raises:
        ImportError: onnx or onnxscript is missing; the message names the extra.
    """
    need('onnx', 'onnx', 'onnxscript')
    # the exporter prints its progress and warns of future changes
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _quiet('torch.onnx', 'onnxscript'):
        warnings.simplefilter('ignore')
        program = torch.onnx.export(
            graph.program,
            input_names=graph.input_names,
            output_names=graph.output_names,
            opset_version=OPSET,
            custom_translation_table={LIF: lif_in_onnx},
            dynamo=True,
            verbose=False,
        )
        program.save(str(path), external_data=False)


@contextlib.contextmanager
def _quiet(*names: str):
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def lif_in_onnx(x, T: int, kind, values, tau=None, v_init=None, return_v: bool = False):
    """`mmsnn.ops.reference.lif` in ONNX operators and the same order; ``x`` is ``[T*B, ...]`` in float32."""
    from onnxscript import opset18 as op

    settings, _ = decode(kind, values)
    v_threshold, v_rest = settings.v_threshold, settings.v_rest
    # values[0] is 1/tau, by which the kernels multiply, too
    rate = None if settings.tau is None else values[0] if tau is None else op.Reciprocal(tau)
    steps = [x] if T == 1 else op.Split(x, axis=0, num_outputs=T)
    # an initial potential may be flat
    v, spikes = None if v_init is None else op.Reshape(v_init, op.Shape(steps[0])), []
    for step in steps:
        h = _charge(op, v, step, rate, settings)
        if settings.rounds:
            s = op.Round(op.Clip(op.Div(h, v_threshold), 0.0, float(settings.levels)))
        else:
            s = op.Cast(op.GreaterOrEqual(h, v_threshold), to=1)
        spikes.append(s)
        if settings.v_reset is None:
            v = op.Sub(h, op.Mul(s, v_threshold))
        else:
            v = op.Mul(op.Sub(1.0, s), h)
            v = op.Add(v, op.Mul(s, v_rest)) if v_rest else v
    out = spikes[0] if T == 1 else op.Concat(*spikes, axis=0)
    # where time is a dimension of its own, a membrane has none
    return out, op.Squeeze(v, axes=[0]) if x.shape[0] == T else v


def _charge(op, v, x, rate, settings: NeuronSettings):
    """The membrane potential before firing; ``v=None`` is a membrane at rest."""
    v_rest = settings.v_rest
    if v is None:
        h = x if rate is None or not settings.decay_input else op.Mul(x, rate)
        return op.Add(h, v_rest) if v_rest else h
    if rate is None:
        return op.Add(v, x)
    above = op.Sub(v, v_rest) if v_rest else v
    if settings.decay_input:
        return op.Add(v, op.Mul(op.Sub(x, above), rate))
    return op.Add(op.Sub(v, op.Mul(above, rate)), x)


class OnnxFile:
    """An ONNX file in ONNX Runtime on the CPU, which is called with tensors and returns tensors as the network does.

    Args:
        path: the file.

    Raises:
        ImportError: onnxruntime is missing; the message names the extra.
    """

    def __init__(self, path: Path):
        (runtime,) = need('onnx', 'onnxruntime')
        options = runtime.SessionOptions()
        # as many threads as PyTorch uses
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        self.inputs = [each.name for each in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: x.detach().cpu().numpy() for name, x in zip(self.inputs, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(out)) for out in self.session.run(None, given))


def custom_operators(path: Path) -> list[str]:
    """Names of the operators in a file that are not standard operators of ONNX."""
    (onnx,) = need('onnx', 'onnx')
    model = onnx.load(str(path))
    return sorted({f'{n.domain}.{n.op_type}' for n in model.graph.node if n.domain not in ('', 'ai.onnx')})


def quantise(path: Path, out: Path, batches: Iterable[Tensor]) -> None:
    """Write the int8 form of the file ``path`` to ``out``, by ONNX Runtime's static quantiser.

    Convolutions and linear layers have signed 8-bit weights with a scale per channel, and unsigned 8-bit activations
    whose ranges are calibrated on ``batches``. Membranes stay in float32, so neurons fire by the same rule.

    Args:
        path: an ONNX file with one input.
        out: the file to write.
        batches: inputs of the network, at least one batch; a hundred training images are enough.

    Raises:
        ImportError: onnx or onnxruntime is missing.
        ValueError: there is no batch.
    """
    need('onnx', 'onnx', 'onnxruntime')
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    (name,) = OnnxFile(path).inputs
    stream = ({name: batch.cpu().numpy()} for batch in batches)
    first = next(stream, None)
    if first is None:
        raise ValueError('int8: calibration needs at least one batch of images')
    stream = itertools.chain([first], stream)

    class Reader(CalibrationDataReader):
        def get_next(self):
            return next(stream, None)

    prepared = out.with_suffix('.prepared.onnx')
    try:
        with _quiet('root', ''):
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(out),
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        prepared.unlink(missing_ok=True)
