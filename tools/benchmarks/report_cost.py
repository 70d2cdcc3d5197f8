"""Time what a report's figures by class and pictures cost after a validation of detections, which are drawn by chance.

Each image has 7 true boxes, as COCO's have on average. Printed are the time of the processor for the figures, and the
bytes of the detections, which are kept until the end of the pass, and by how much the process grew for the figures.
"""

import argparse
import pickle
import time

import numpy as np
import torch

from mmsnn.analysis.benchmark import peak_memory
from mmsnn.refusals import run_main
from mmsnn.report.evaluation import summarise

BOXES, CPU = 7, torch.device('cpu')


class Truth:
    """The true boxes of some images, as a dataset tells them."""

    def __init__(self, images: int, classes: int, rng: np.random.Generator):
        self.instances = [
            [dict(bbox=box.tolist(), bbox_label=int(rng.integers(classes))) for box in boxes(BOXES, rng)]
            for _ in range(images)
        ]

    def get_data_info(self, index: int) -> dict:
        """The true boxes of one image."""
        return dict(instances=self.instances[index])


def boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes ``[N, 4]`` of an image of 640x640."""
    corners, sides = rng.uniform(0, 500, (count, 2)), rng.uniform(10, 140, (count, 2))
    return np.hstack([corners, corners + sides]).astype(np.float32)


def measure(images: int, detections: int, classes: int) -> tuple[float, int, float]:
    """Seconds of the processor, bytes kept, and MiB by which the largest size of the process grew."""
    rng = np.random.default_rng(0)
    truth, items = Truth(images, classes, rng), []
    for _ in range(images):
        found = dict(boxes=boxes(detections, rng), labels=rng.integers(0, classes, detections))
        # few are sure
        scores = (rng.random(detections) ** 3).astype(np.float32)
        items.append(dict(found, scores=scores, kind='detection', path='image.jpg'))
    start, before = time.process_time(), peak_memory(CPU)
    summarise(items, truth, [str(name) for name in range(classes)])
    return time.process_time() - start, len(pickle.dumps(items)), peak_memory(CPU) - before


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, nargs='+', default=[500, 1000, 5000])
    parser.add_argument('--detections', type=int, default=100, help='of each image')
    parser.add_argument('--classes', type=int, default=80)
    args = parser.parse_args(argv)
    # imports mmdet and pycocotools
    measure(2, args.detections, args.classes)
    for images in args.images:
        seconds, kept, grown = measure(images, args.detections, args.classes)
        print(f'{images:>6} images  {seconds:6.1f} s  {kept / 2**20:6.1f} MiB kept  {grown:6.0f} MiB more at most')


if __name__ == '__main__':
    run_main(main)
