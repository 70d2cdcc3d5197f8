# TSSD (Zuo et al., 2024), a reconstruction, on classifiers, without a teacher: all steps teach the first half of them,
# and these a weak head on the second stage. The config sets the weak head's classes and twice the time steps
distill = dict(
    losses=dict(
        loss_self=dict(
            type='TemporalSpatialSelf',
            student=['backbone.layer4|neck|head.fc', 'backbone.layer2'],
            connector=[None, dict(type='WeakHead', out_channels=10)],
            alpha=1.0,
            beta=1.0,
            tau=2.0,
        ),
    ),
)
