# TSSD (Zuo et al., 2024), a reconstruction, on segmentors: ours, the paper classifies only. As tssd.py, pixel by pixel
distill = dict(
    short_T=4,
    task_weight=2.0,
    losses=dict(
        loss_self=dict(
            type='TemporalSpatialSelf',
            response=dict(type='PixelKL', tau=2.0),
            student=['decode_head.conv_seg', 'backbone.layer2'],
            connector=[None, dict(type='WeakHead', pool=False)],
        ),
    ),
)
