"""The table and the picture of the digits demo."""

import json
from pathlib import Path
from statistics import mean, stdev

import matplotlib
import matplotlib.pyplot as plt
import mmcv
import numpy as np
import torch
from image_demo import load_batch, load_model
from matplotlib import patheffects
from torchvision.ops import box_iou, nms

# this backend needs no display
matplotlib.use('Agg')

TITLES = dict(ann='ANN teacher', snn='SNN, undistilled', sakd='SNN, distilled (SAKD)')
COLUMNS = ('model', 'mAP', 'mAP50', 'T', 'firing rate', 'energy / image', 'of it backbone', 'images / s')
# detections with lower scores are not drawn
SCORE = 0.3
RIGHT, WRONG, MISSED = '#1a9850', '#d73027', '#ffffff'


def _spread(values: list[float], digits: int) -> str:
    """The mean, with the standard deviation if there is more than one value."""
    spread = f' ± {stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{mean(values):.{digits}f}{spread}'


def table_rows(results: list[dict]) -> list[list[str]]:
    """Cells of the table: a row for each kind of model, with the columns `COLUMNS`; numbers are means over the seeds.

    Args:
        results: the content of each model's ``benchmark.json``, with its ``kind``.
    """
    rows = []
    for kind, title in TITLES.items():
        group = [r for r in results if r['kind'] == kind]
        energy = [r['energy'] for r in group]
        backbone = [sum(v['energy_uj'] for v in e['layers'] if v['name'].startswith('backbone.')) for e in energy]
        rates = [mean(r['firing_rates'].values()) for r in group if r['firing_rates']]
        rows.append(
            [
                title,
                _spread([r['metrics']['coco/bbox_mAP'] for r in group], 3),
                _spread([r['metrics']['coco/bbox_mAP_50'] for r in group], 3),
                str(energy[0]['T']) if rates else '–',
                _spread(rates, 3) if rates else '–',
                _spread([e['energy_uj'] for e in energy], 0) + ' µJ',
                _spread(backbone, 0) + ' µJ',
                f'{mean(r["images_per_second"] for r in group):.0f}',
            ]
        )
    return rows


def write_report(results: list[dict], num_train: int, path: Path) -> None:
    """Write the table and an explanation of it as Markdown."""
    lines = ['| ' + ' | '.join(row) + ' |' for row in [COLUMNS, ['---'] * len(COLUMNS), *table_rows(results)]]
    epochs = {r['kind']: r['epochs'] for r in results}
    seeds = len([r for r in results if r['kind'] == 'snn'])
    averaged = f'means and standard deviations over {seeds} seeds, one teacher' if seeds > 1 else 'one seed'
    path.write_text(
        f"""# DigitScenes: a spiking detector taught by an ANN

RetinaNet with a ResNet-18 of a quarter of the usual width. {num_train} training and 240 validation images are made from
different scans. The teacher trains for {epochs['ann']} epochs, each student for {epochs['snn']}; {averaged}.

{chr(10).join(lines)}

- mAP: COCO's mAP, over IoU 0.50 to 0.95; mAP50: at IoU 0.50.
- Firing rate: spikes per neuron and time step, averaged over the neuron layers.
- Energy: synaptic operations at 4.6 pJ per multiply-accumulate and 0.9 pJ per accumulate (45 nm), an estimate for
  neuromorphic hardware. Only the backbone spikes; neck and head work on firing rates and cost the same in all three.
- Images per second: on this machine ({results[0]['device']}, batches of {results[0]['batch_size']}), which computes
  every time step and does not benefit from silent neurons.

![Detections](detections.png)
""",
        encoding='utf-8',
    )


def judge(boxes, labels, truth, true_labels) -> tuple[np.ndarray, np.ndarray]:
    """Match detections to digits of the same class at an IoU of at least 0.5, each digit at most once.

    Args:
        boxes, truth: ``[N, 4]`` and ``[M, 4]``, x1, y1, x2, y2 in pixels; detections in the order of their scores.
        labels, true_labels: class indices, ``[N]`` and ``[M]``.

    Returns:
        Two masks: which detections are right ``[N]``, and which digits were detected ``[M]``.
    """
    right, detected = np.zeros(len(boxes), bool), np.zeros(len(truth), bool)
    if len(boxes) and len(truth):
        overlap = box_iou(torch.as_tensor(boxes), torch.as_tensor(truth)).numpy()
        for k in range(len(boxes)):
            match = np.where((true_labels == labels[k]) & ~detected, overlap[k], 0.0)
            if match.max() >= 0.5:
                right[k] = detected[match.argmax()] = True
    return right, detected


def detect(model, image: Path):
    """Boxes ``[N, 4]``, labels and scores to draw for one image: scores are above `SCORE`, boxes hardly overlap."""
    with torch.no_grad():
        instances = model.test_step(load_batch(model.cfg, image))[0].pred_instances
    instances = instances[instances.scores > SCORE]
    # the detector suppresses overlapping boxes within a class only, but digits do not overlap at all
    instances = instances[nms(instances.bboxes, instances.scores, 0.5)].numpy()
    return instances.bboxes, instances.labels, instances.scores


def choose_images(data: Path, count: int) -> list[tuple[Path, np.ndarray, np.ndarray]]:
    """The first ``count`` validation images with four digits or more: path, boxes ``[N, 4]`` and labels ``[N]``."""
    content = json.loads((data / 'annotations/val.json').read_text())
    chosen = []
    for image in content['images']:
        annotations = [a for a in content['annotations'] if a['image_id'] == image['id']]
        if len(annotations) >= 4 and len(chosen) < count:
            boxes = np.array([a['bbox'] for a in annotations], np.float32)
            boxes[:, 2:] += boxes[:, :2]
            labels = np.array([a['category_id'] - 1 for a in annotations])
            chosen.append((data / 'images/val' / image['file_name'], boxes, labels))
    return chosen


def draw_panel(axes, image: Path, truth, true_labels, detections) -> None:
    """Draw one image with right detections, wrong detections, and digits that were missed."""
    axes.imshow(mmcv.imread(image, channel_order='rgb'), interpolation='bicubic')
    axes.axis('off')
    boxes, labels, scores = detections
    right, detected = judge(boxes, labels, truth, true_labels)

    def frame(box, **style):
        x1, y1, x2, y2 = box
        axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))

    for box in truth[~detected]:
        # white with a dark rim is visible on every background
        rim = [patheffects.withStroke(linewidth=2.4, foreground='black'), patheffects.Normal()]
        frame(box, edgecolor=MISSED, linewidth=1.2, linestyle=(0, (3, 2)), path_effects=rim)
    for box, label, score, ok in zip(boxes, labels, scores, right):
        colour = RIGHT if ok else WRONG
        frame(box, edgecolor=colour, linewidth=1.8)
        style = dict(facecolor=colour, edgecolor='none', pad=0.8)
        text = f'{label} {score:.2f}'.replace('0.', '.')
        axes.text(box[0], box[1], text, color='white', fontsize=7, va='bottom', bbox=style, clip_on=True)


def draw_picture(models: dict[str, tuple[str, str]], results: list[dict], data: Path, path: Path) -> None:
    """Draw the detections of the three models side by side on three validation images, above the table.

    Args:
        models: config and checkpoint of each kind.
        results: as in `table_rows`.
        data: folder of DigitScenes.
        path: file of the picture.
    """
    rows = choose_images(data, 3)
    figure = plt.figure(figsize=(9.2, 11), layout='constrained')
    upper, lower = figure.subfigures(2, 1, height_ratios=(9.4, 1.6))
    panels = upper.subplots(len(rows), len(models), squeeze=False)
    for column, (kind, (config, checkpoint)) in enumerate(models.items()):
        model = load_model(config, checkpoint)
        for row, (image, truth, labels) in enumerate(rows):
            draw_panel(panels[row, column], image, truth, labels, detect(model, image))
        panels[0, column].set_title(TITLES[kind], fontsize=12, fontweight='bold')
    keys = [('right', RIGHT, '-'), ('wrong digit or position', WRONG, '-'), ('missed', 'grey', '--')]
    handles = [plt.Line2D([], [], color=colour, linestyle=style, label=name) for name, colour, style in keys]
    upper.legend(handles=handles, loc='outside lower center', ncols=3, frameon=False, fontsize=9)
    axes = lower.subplots()
    axes.axis('off')
    table = axes.table(table_rows(results), colLabels=COLUMNS, cellLoc='center', bbox=(0, 0, 1, 1))
    table.auto_set_font_size(False)
    table.auto_set_column_width(range(len(COLUMNS)))
    for (row, column), cell in table.get_celld().items():
        cell.set(edgecolor='#cccccc', linewidth=0.6)
        cell.get_text().set(fontsize=9, fontweight='bold' if row == 0 or column == 0 else 'normal')
        cell.visible_edges = 'B'
    figure.savefig(path, dpi=120)
    plt.close(figure)
