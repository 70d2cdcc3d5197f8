# MS-ResNet's neuron and norm (Hu et al., TNNLS 2024), as in the authors' code: a quarter of the potential stays, and
# norms start at the threshold
ms_neuron = dict(
    type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False, detach_reset=True, surrogate='rectangle', alpha=1.0
)
ms_norm = dict(type='mmsnn.TDBN', v_threshold=0.5)
