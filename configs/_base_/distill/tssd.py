# TSSD (Zuo et al., 2024), a reconstruction, on classifiers, without a teacher: all 8 steps teach the first 4, and these
# a weak head on the second stage. The student's config gets T=8; tested with T=4
distill = dict(
    short_T=4,
    task_weight=2.0,  # CE after 4 steps and CE after 8: their sum, not their mean
    losses=dict(
        loss_self=dict(
            type='TemporalSpatialSelf',
            response=dict(type='LogitKL', tau=2.0),
            student=['head.fc', 'backbone.layer2'],
            connector=[None, dict(type='WeakHead')],
            alpha=1.0,
            beta=1.0,
        ),
    ),
)
