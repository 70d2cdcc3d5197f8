"""A stand-in for mmcv's compiled module ``mmcv._ext``, for the ops that the libraries' models use.

The usual installation of mmcv has no compiled ops: ``import mmdet.models`` then fails, and so does every model that
calls one. If they are missing, importing mmsnn makes Python find this stand-in under that name, unless the environment
variable ``MMSNN_MMCV_STANDIN`` is 0 (`mmsnn.import_hook`). Its ops are made of torchvision's and PyTorch's, for CPU and
GPU. Ops that no model of mmdet, mmseg and mmpretrain calls raise ``RuntimeError``. A compiled ``mmcv._ext`` is never
replaced.

Each file holds the ops named in its ``__all__``. They have the signatures of mmcv's C++ functions, most of which write
their results into tensors that they are given. Half precision is computed in float32 and rounded once. Shapes: boxes
``[N, 4]`` as x1, y1, x2, y2; rois ``[R, 5]`` as image index and box; feature maps ``[B, C, H, W]``.
"""

from .standin import active

__all__ = ['active']
