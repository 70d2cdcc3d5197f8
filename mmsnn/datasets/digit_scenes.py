"""DigitScenes, the data set of the demo: scanned handwritten digits on textured backgrounds, in COCO format."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

CLASSES = tuple('0123456789')
# pixel value of the background in the semantic maps; digits have the values 0 to 9
BACKGROUND = 10
STAMP = 'stamp.json'
# a part of the stamp that is raised with every change to the images
VERSION = 1
SPLITS = ('train', 'val')
# letters that do not look like a handwritten digit
LETTERS = 'AEFHKMNRTWXY'


def make_digit_scenes(
    root: str | Path, num_train: int = 1200, num_val: int = 240, size: int = 128, seed: int = 0
) -> Path:
    """Write the data set to ``root``, unless it is there already and complete; returns ``root``.

    Each image contains up to six of scikit-learn's scanned digits (8x8 pixels, enlarged to 17-40 % of the image),
    rotated, tinted and of varying contrast, among lines, discs and letters. A scanned digit occurs in one split only.
    Files: ``images/SPLIT/*.jpg``, ``annotations/SPLIT.json`` (COCO; boxes ``[x, y, w, h]`` in pixels, masks as
    uncompressed RLE, ``sample``: index of the scan), ``semantic/SPLIT/*.png`` (class index of each pixel, or
    `BACKGROUND`). The same arguments give the same bytes with the same version of OpenCV. The set is written to a
    temporary folder, which is then renamed, so an interrupted call leaves ``root`` unchanged.

    Args:
        root: folder of the data set.
        num_train, num_val: number of images in each split.
        size: side of the square images, in pixels.
        seed: seed of all random choices.

    Raises:
        ImportError: scikit-learn is missing; mmsnn's extra ``demo`` installs it.
        ValueError: a number of images is below 1, or ``size`` is below 64.
        FileExistsError: ``root`` contains files that this function did not write.
    """
    if min(num_train, num_val) < 1:
        raise ValueError(f'num_train and num_val must be at least 1, got {num_train} and {num_val}')
    if size < 64:
        raise ValueError(f'size must be at least 64 pixels, got {size}')
    root = Path(root)
    wanted = dict(version=VERSION, num_train=num_train, num_val=num_val, size=size, seed=seed)
    if root.exists() and any(root.iterdir()):
        if not (root / STAMP).is_file():
            raise FileExistsError(f'{root} is not a data set that mmsnn wrote: remove it, or choose another folder')
        if _read_stamp(root) == {**wanted, 'digest': _digest(root)}:
            return root
    scans, labels = _load_scans()
    # the order has its own generator, so the split does not depend on the number of images
    order = np.random.default_rng(seed).permutation(len(labels))
    pools = dict(zip(SPLITS, np.split(order, [int(0.8 * len(order))])))
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        for split, count in zip(SPLITS, (num_train, num_val)):
            _write_split(temporary, split, count, scans, labels, pools[split], size, seed)
        (temporary / STAMP).write_text(json.dumps({**wanted, 'digest': _digest(temporary)}))
        temporary.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        temporary.rename(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def _load_scans() -> tuple[np.ndarray, np.ndarray]:
    """Scans ``[1797, 8, 8]`` with ink from 0 to 1, and their digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "DigitScenes needs scikit-learn's scanned digits: pip install 'mmsnn[demo]' (or scikit-learn)"
        ) from error
    scans, labels = load_digits(return_X_y=True)
    return (scans.reshape(-1, 8, 8) / 16).astype(np.float32), labels


def _digest(root: Path) -> str:
    """Hash of the names and contents of all files below ``root`` except the stamp."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob('*')):
        if path.is_file() and path.name != STAMP:
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def _read_stamp(root: Path) -> dict | None:
    try:
        return json.loads((root / STAMP).read_text())
    except ValueError:
        return None


def _write_split(root, split, count, scans, labels, pool, size, seed) -> None:
    folders = dict(images=root / 'images' / split, semantic=root / 'semantic' / split)
    for folder in folders.values():
        folder.mkdir(parents=True)
    images, annotations = [], []
    for i in range(count):
        # each image has its own generator, so image i is the same in a small set and in a large one
        rng = np.random.default_rng([seed, SPLITS.index(split), i])
        picture, semantic, digits = draw_scene(rng, scans, labels, pool, size)
        name = f'{i:06d}'
        _write_image(folders['images'] / f'{name}.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        _write_image(folders['semantic'] / f'{name}.png', semantic)
        images.append(dict(id=i, file_name=f'{name}.jpg', height=size, width=size))
        for sample, mask in digits:
            annotations.append(_annotate(len(annotations) + 1, i, int(sample), int(labels[sample]), mask))
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=annotations, categories=categories)
    path = root / 'annotations' / f'{split}.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def _write_image(path: Path, picture: np.ndarray, options=()) -> None:
    ok, data = cv2.imencode(path.suffix, picture, options)
    if not ok:
        raise OSError(f'OpenCV could not encode {path}')
    path.write_bytes(data.tobytes())


def _annotate(index: int, image: int, sample: int, label: int, mask: np.ndarray) -> dict:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return dict(
        id=index,
        image_id=image,
        category_id=label + 1,
        bbox=[x, y, w, h],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=dict(size=list(mask.shape), counts=_run_lengths(mask)),
        sample=sample,
    )


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: the lengths of runs in column order, beginning with a run of zeros."""
    flat = np.concatenate([[0], mask.ravel(order='F').astype(np.int8), [1 - int(mask[-1, -1])]])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges])).tolist()


def draw_scene(rng: np.random.Generator, scans, labels, pool, size: int):
    """Draw one image.

    Args:
        rng: generator of all random choices.
        scans, labels: all scanned digits, ``[N, 8, 8]`` with ink from 0 to 1, and their labels ``[N]``.
        pool: indices of the scans that may be used.
        size: side in pixels.

    Returns:
        Image ``[size, size, 3]`` (BGR, uint8), semantic map ``[size, size]`` (uint8), and a list of
        ``(index of the scan, mask [size, size] of bool)``. Masks do not overlap.
    """
    canvas = _texture(rng, size)
    _clutter(rng, canvas)
    semantic = np.full((size, size), BACKGROUND, np.uint8)
    taken = np.zeros((size, size), bool)
    digits = []
    for _ in range(rng.integers(2, 7)):
        sample = rng.choice(pool)
        side = size * np.exp(rng.uniform(np.log(0.17), np.log(0.4)))
        ink = _enlarge(rng, scans[sample], side)
        spot = _free_spot(rng, ink, taken)
        if spot is None:
            continue
        alpha = np.zeros((size, size), np.float32)
        alpha[spot] = ink
        colour = _contrasting(rng, canvas[spot][ink > 0.5])
        # the ink is uneven, like that of a pen
        shade = _noise(rng, size, 6)[..., None] * 12
        canvas += alpha[..., None] * rng.uniform(0.75, 1.0) * (colour + shade - canvas)
        mask = alpha > 0.5
        taken |= cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        semantic[mask] = labels[sample]
        digits.append((sample, mask))
    canvas += rng.normal(0, rng.uniform(1, 6), canvas.shape)
    return canvas.clip(0, 255).astype(np.uint8), semantic, digits


def _noise(rng, size: int, cells: int) -> np.ndarray:
    """Smooth noise ``[size, size]`` of about unit variance with ``cells`` bumps along each side."""
    coarse = rng.standard_normal((cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _texture(rng, size: int) -> np.ndarray:
    """Background ``[size, size, 3]`` in float: two blended colours, grain, and sometimes parallel lines."""
    # the colours are muted, like paper, cloth or stone
    first = rng.uniform(40, 220) + rng.normal(0, 22, 3)
    second = first + rng.normal(0, 25, 3)
    flow = 1 / (1 + np.exp(-2 * _noise(rng, size, 3)))[..., None]
    canvas = first + (second - first) * flow
    for cells in (8, 24, size // 2):
        canvas = canvas + rng.uniform(2, 9) * _noise(rng, size, cells)[..., None]
    if rng.random() < 0.4:
        y, x = np.mgrid[:size, :size]
        angle, pitch = rng.uniform(0, np.pi), rng.uniform(5, 14)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / pitch)
        canvas = canvas + rng.uniform(4, 14) * (wave > 0.6)[..., None]
    return np.ascontiguousarray(canvas, dtype=np.float32)


def _clutter(rng, canvas: np.ndarray) -> None:
    """Draw two to seven faint distractors on ``canvas``: lines, discs and rings, boxes, letters."""
    size = len(canvas)
    for _ in range(rng.integers(2, 8)):
        layer = canvas.copy()
        colour = rng.uniform(0, 255, 3).tolist()
        a, b = ([int(v) for v in rng.integers(0, size, 2)] for _ in range(2))
        thickness = int(rng.integers(1, 4))
        kind = rng.integers(4)
        if kind == 0:
            cv2.line(layer, a, b, colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            filled = -1 if rng.random() < 0.5 else thickness
            axes = [int(v) for v in rng.integers(size // 24, size // 7, 2)]
            cv2.ellipse(layer, a, axes, rng.uniform(0, 180), 0, 360, colour, filled, cv2.LINE_AA)
        elif kind == 2:
            corner = [a[k] + int(rng.integers(size // 12, size // 3)) for k in range(2)]
            cv2.rectangle(layer, a, corner, colour, thickness, cv2.LINE_AA)
        else:
            letter, scale = LETTERS[rng.integers(len(LETTERS))], size / 128 * rng.uniform(0.5, 1.2)
            cv2.putText(layer, letter, a, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
        canvas += rng.uniform(0.2, 0.6) * (layer - canvas)


def _enlarge(rng, scan: np.ndarray, side: float) -> np.ndarray:
    """A scan ``[8, 8]`` rotated, stretched, enlarged to about ``side`` pixels and cropped; ink from 0 to 1."""
    angle, stretch = rng.normal(0, 8), np.exp(rng.normal(0, 0.1))
    big = int(np.ceil(1.5 * side))
    matrix = cv2.getRotationMatrix2D((3.5, 3.5), angle, side / 8)
    matrix[0] *= stretch
    matrix[:, 2] += big / 2 - matrix[:, :2] @ (3.5, 3.5) - matrix[:, 2]
    ink = cv2.warpAffine(scan, matrix, (big, big), flags=cv2.INTER_CUBIC)
    # eight enlarged pixels are blurred; a steep ramp makes strokes whose soft edge is about a pixel wide
    steepness = max(2.0, side / 8)
    ink = ((ink - 0.5) * steepness + 0.5).clip(0, 1)
    x, y, w, h = cv2.boundingRect((ink > 0).astype(np.uint8))
    return ink[y : y + h, x : x + w]


def _free_spot(rng, ink: np.ndarray, taken: np.ndarray):
    """Slices of a random position where ``ink`` does not overlap ``taken``; None after 20 failed tries."""
    h, w = ink.shape
    for _ in range(20):
        y, x = (int(rng.integers(2, len(taken) - n - 1)) for n in (h, w))
        spot = np.s_[y : y + h, x : x + w]
        if not (taken[spot] & (ink > 0)).any():
            return spot
    return None


def _contrasting(rng, behind: np.ndarray) -> np.ndarray:
    """A colour whose brightness differs from the mean of the pixels ``behind`` by 60 to 140 (of 255)."""
    ground = behind.mean()
    distance = rng.uniform(60, 140)
    darker = rng.random() < 0.5
    if ground - distance < 10:
        darker = False
    elif ground + distance > 245:
        darker = True
    tint = rng.normal(0, 25, 3)
    return ground + (-distance if darker else distance) + tint - tint.mean()
