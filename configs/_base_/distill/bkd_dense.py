# BKD (BKDSNN, Xu et al., ECCV 2024) on detectors and segmentors: ours, the paper classifies only. The last stage is
# restored from a blurred one; alpha is smaller because the sum runs over a whole map
distill = dict(
    losses=dict(
        loss_blur=dict(
            type='BlurMSE',
            student='backbone.layer4',
            teacher='backbone.layer4',
            connector=dict(type='BlurRestore', ratio=0.15),
            weight=2e-5,  # alpha
        ),
    ),
)
