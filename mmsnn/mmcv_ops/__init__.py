"""A stand-in for mmcv's compiled module ``mmcv._ext``, for the ops that the libraries' models use.

mmcv installed the ordinary way comes without its compiled ops: ``import mmdet.models`` then fails, and so does every
model that calls one. Where they are absent, Python finds this stand-in under that name once mmsnn is imported, unless
the environment variable ``MMSNN_MMCV_STANDIN`` is 0 (`mmsnn.import_hook`). Its ops are made of torchvision's and
PyTorch's, on the CPU and on the GPU. Ops that no model of mmdet, mmseg and mmpretrain calls raise ``RuntimeError``.
Compiled ops that are present are left alone.

Each file holds the ops named in its ``__all__``, with the signatures of mmcv's C++ functions, which write their results
into tensors they are given. Half precision is computed in float32 and rounded once. Shapes: boxes ``[N, 4]`` as x1, y1,
x2, y2; rois ``[R, 5]`` as image index and box; feature maps ``[B, C, H, W]``.
"""

from .standin import active

__all__ = ['active']
