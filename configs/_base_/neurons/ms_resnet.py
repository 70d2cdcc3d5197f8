# MS-ResNet (Hu et al., TNNLS 2024) with the neuron and the norm of its authors' code: a quarter of the potential stays,
# and norms start at the threshold
ms_backbone = dict(
    type='mmsnn.MSResNet',
    neuron=dict(
        type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False, detach_reset=True, surrogate='rectangle', alpha=1.0
    ),
    joint_neuron=None,  # no neuron follows an addition
    norm_cfg=dict(type='mmsnn.TDBN', v_threshold=0.5),
)
