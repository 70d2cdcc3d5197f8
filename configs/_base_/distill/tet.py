# TET (Deng et al., ICLR 2022) on classifiers, without a teacher: the cross-entropy of every step instead of the mean's
distill = dict(
    task_weight=0.0,
    losses=dict(loss_tet=dict(type='TET', student='backbone.layer4|neck|head.fc', l=1e-3)),
)
