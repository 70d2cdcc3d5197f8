"""What task models see, and how often their neurons fire, drawn into matplotlib axes."""

import matplotlib.pyplot as plt
import numpy as np


def draw_boxes(axes, boxes, labels, scores=None, classes=None) -> None:
    """Draw boxes ``[N, 4]`` (x1, y1, x2, y2 in pixels) with class and score, a colour a class, on a drawn image."""
    # libraries sort by score: the best is drawn last, on top
    for k, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):
        colour = plt.cm.tab10(int(labels[k]) % 10)
        axes.add_patch(plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.8))
        text = classes[labels[k]] if classes else str(int(labels[k]))
        text += '' if scores is None else f' {scores[k]:.2f}'
        style = dict(facecolor=colour, edgecolor='none', pad=1.0)
        axes.text(x1, y1, text, color='white', fontsize=7, va='bottom', bbox=style, clip_on=True)


def draw_result(axes, image: np.ndarray, sample, classes=None, score_thr: float = 0.3) -> None:
    """Draw ``image`` (RGB, ``[H, W, 3]``) and the result of mmdet, mmseg or mmpretrain in ``sample`` on it."""
    axes.imshow(image)
    axes.axis('off')
    if 'pred_instances' in sample:
        found = sample.pred_instances.cpu().numpy()
        found = found[found.scores > score_thr]
        for mask, label in zip(found.get('masks', ()), found.labels):
            axes.imshow(np.where(mask[..., None], plt.cm.tab10(int(label) % 10), 0.0), alpha=0.5)
        draw_boxes(axes, found.bboxes, found.labels, found.scores, classes)
        axes.set_title(f'{len(found)} detections above {score_thr:g}')
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
    """Bars of the firing rates (spikes per neuron and time step), first layer on top."""
    names = list(rates)
    axes.barh(range(len(names)), rates.values(), color=plt.cm.viridis(np.linspace(0.15, 0.8, len(names))))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * max(rates.values()) or 1)
    axes.set_xlabel('spikes per neuron and time step')
    axes.set_title(f'Firing rates, T={T}')
    axes.spines[['top', 'right']].set_visible(False)
