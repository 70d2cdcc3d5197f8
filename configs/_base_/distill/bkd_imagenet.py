# BKD (BKDSNN, Xu et al., ECCV 2024) on ImageNet: the classifier's input restored from a blurred one, and soft labels
# weighted by how much better the teacher is
distill = dict(
    losses=dict(
        loss_blur=dict(
            type='BlurMSE',
            student='neck.gap',
            teacher='neck.gap',
            connector=dict(type='BlurRestore', ratio=0.15),
            weight=7e-5,  # alpha
        ),
        loss_soft=dict(type='WeightedSoftLabels', tau=2.0, student='head.fc', teacher='head.fc', weight=1.0),
    ),
)
