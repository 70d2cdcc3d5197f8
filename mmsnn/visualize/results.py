"""Drawing the predictions of task models and the firing rates of their neurons into matplotlib axes."""

import matplotlib.pyplot as plt
import numpy as np


def draw_boxes(axes, boxes, labels, scores=None, classes=None) -> None:
    """Draw boxes ``[N, 4]`` (x1, y1, x2, y2 in pixels) with class and score onto an image, one colour per class."""
    # The libraries sort boxes by score; the best box is drawn last, on top of the others.
    for k, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):
        colour = plt.cm.tab10(int(labels[k]) % 10)
        axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.8))
        text = classes[labels[k]] if classes else str(int(labels[k]))
        text += '' if scores is None else f' {scores[k]:.2f}'
        style = dict(facecolor=colour, edgecolor='none', pad=1.0)
        axes.text(x1, y1, text, color='white', fontsize=7, va='bottom', bbox=style, clip_on=True)


def draw_result(axes, image: np.ndarray, sample, classes=None, score_thr: float = 0.3) -> None:
    """Draw ``image`` (RGB, ``[H, W, 3]``) with the prediction in ``sample``, of mmdet, mmseg or mmpretrain."""
    axes.imshow(image)
    axes.axis('off')
    if 'pred_instances' in sample:
        shown = sample.pred_instances.cpu().numpy()
        shown = shown[shown.scores > score_thr]
        for mask, label in zip(shown.get('masks', ()), shown.labels):
            axes.imshow(np.where(mask[..., None], plt.cm.tab10(int(label) % 10), 0.0), alpha=0.5)
        draw_boxes(axes, shown.bboxes, shown.labels, shown.scores, classes)
        axes.set_title(f'{len(shown)} detections above {score_thr:g}')
    elif 'pred_sem_seg' in sample:
        semantic = sample.pred_sem_seg.data[0].cpu().numpy()
        axes.imshow(semantic, alpha=0.5, cmap='tab20', vmin=0, vmax=19, interpolation='nearest')
        shown = np.unique(semantic)
        names = [classes[k] if classes else str(k) for k in shown]
        handles = [plt.Rectangle((0, 0), 1, 1, color=plt.cm.tab20(int(k) % 20)) for k in shown]
        axes.legend(handles, names, fontsize=7, loc='upper left', bbox_to_anchor=(0, 0), ncols=4, frameon=False)
    else:
        score = sample.pred_score.cpu()
        best = int(score.argmax())
        axes.set_title(f'{classes[best] if classes else best}: {score[best]:.2f}')


def draw_rates(axes, rates: dict[str, float], T: int) -> None:
    """Draw the firing rates (spikes per neuron and time step) as bars, with the first layer on top."""
    names = list(rates)
    axes.barh(range(len(names)), rates.values(), color=plt.cm.viridis(np.linspace(0.15, 0.8, len(names))))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max(rates.values()) or 1)
    axes.set_xlabel('spikes per neuron and time step')
    axes.set_title(f'Firing rates, T={T}')
    axes.spines[['top', 'right']].set_visible(False)
