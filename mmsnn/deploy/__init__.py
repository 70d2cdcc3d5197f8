"""Export of trained networks: ``torch.export``, ONNX, NIR, and a form that runs one time step per call."""

from importlib import import_module

# each name is imported on first access, because importing torch.export takes seconds
NAMES = dict(
    Network='network',
    NirExport='to_nir',
    OnnxFile='to_onnx',
    Streaming='streaming',
    export='graph',
    plain_neurons='graph',
    quantise='to_onnx',
    read_back='nir_readers',
    save_onnx='to_onnx',
)

__all__ = list(NAMES)


def __getattr__(name: str):
    if name not in NAMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{NAMES[name]}', __name__), name)
