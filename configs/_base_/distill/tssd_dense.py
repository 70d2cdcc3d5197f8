# TSSD (Zuo et al., 2024), a reconstruction, on dense detectors: ours, the paper classifies only. As tssd.py, with the
# response of dense heads; the weak head stands for the first level of the pyramid
distill = dict(
    short_T=4,
    task_weight=2.0,
    losses=dict(
        loss_self=dict(
            type='TemporalSpatialSelf',
            response=dict(type='DenseResponse'),
            student=['bbox_head[0]', 'backbone.layer2'],
            connector=[None, dict(type='WeakHead', pool=False)],
        ),
    ),
)
