# MGD (Yang et al., ECCV 2022) on the levels of a detector's feature pyramid; constants for one-stage detectors
distill = dict(
    losses=dict(
        loss_mgd=dict(
            type='BlurMSE',
            student='neck',
            teacher='neck',
            connector=dict(type='BlurRestore', mask='spatial', ratio=0.65),
            weight=2e-5,
        ),
    ),
)
