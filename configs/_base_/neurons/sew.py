# SEW-ResNet's neuron (Fang et al., NeurIPS 2021), which BKD uses, too: no leak, the reset without gradient
neuron = dict(type='IF', detach_reset=True, surrogate='atan')
