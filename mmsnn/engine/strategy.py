"""Fully sharded data parallel training (FSDP)."""

from mmengine._strategy import FSDPStrategy as Base
from mmengine.device import get_device
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmsnn.models.wrapper import Transparent, rename_inner, restore_inner
from mmsnn.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(Base):
    """mmengine's FSDP strategy, for its FlexibleRunner: weights, gradients and optimizer states are shared out.

    What differs: a checkpoint is one file, as without FSDP and of a Distiller the student's; resuming works (mmengine's
    hands over the optimizer's state as torch 1 wanted it); ``clip_grad`` sees all shards, ``sync_bn`` is heeded;
    processes on a CPU will do (gloo). The teacher is not sharded, every process holds all of it. Tested on two CPU
    processes, not on GPUs.

    Example::

        runner_type = 'FlexibleRunner'
        strategy = dict(type='mmsnn.FSDPStrategy')

    Args:
        model_wrapper: settings of mmengine's MMFullyShardedDataParallel, e.g. ``auto_wrap_policy``.
        kwargs: as for mmengine's, without ``state_dict_cfg``, which is ``full``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs):
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg='full', **kwargs)
        if get_device() == 'cpu':
            self.model_wrapper = {**(model_wrapper or {}), 'device_id': 'cpu'}
            # a copy that is none: torch would free what it still reads
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, Transparent):
                module.shows_itself = True
        # FSDP moves the modules it finds, and the teacher is none of them
        return super()._wrap_model(self.convert_model(model.to(get_device())))

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None):
        """As mmengine's; ``clip_grad`` measures all shards together."""
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is nn.utils.clip_grad_norm_:
            built.clip_func = lambda _, **settings: model.clip_grad_norm_(**settings)
        return built

    def _transparent(self) -> list[tuple[Transparent, str]]:
        """The wrappers in the model, the outermost first, and where they stand in its state dict."""
        found = [(m, f'{name}.') for name, m in self.model.named_modules() if isinstance(m, Transparent)]
        return [(module, prefix.replace('_fsdp_wrapped_module.', '')) for module, prefix in found]

    def model_state_dict(self) -> dict:
        """The whole weights on rank 0, nothing elsewhere; a Distiller's connectors among them, under ``connectors.``"""
        state = super().model_state_dict()
        for module, prefix in reversed(self._transparent()):
            rename_inner(module, state, prefix)
        return state

    def load_model_state_dict(self, state_dict: dict, **kwargs) -> None:
        """Load what `model_state_dict` gave."""
        for module, prefix in self._transparent():
            restore_inner(module, state_dict, prefix)
        super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load a checkpoint's optimizer state."""
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(FSDP.optim_state_dict_to_load(self.model, optimizer, state_dict))
