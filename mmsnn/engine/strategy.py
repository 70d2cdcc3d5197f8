"""Fully sharded data parallel training (FSDP)."""

from mmengine._strategy import FSDPStrategy as Base
from mmengine.device import get_device
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from mmsnn.models.wrapper import Transparent, rename_inner, restore_inner
from mmsnn.registry import STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(Base):
    """mmengine's FSDP strategy for its FlexibleRunner, which shards weights, gradients and optimizer states.

    It differs from mmengine's in these points: a checkpoint is one file as without FSDP, for a Distiller that of the
    student; resuming works (mmengine passes the optimizer's state in the form of torch 1); ``clip_grad`` measures all
    shards together; ``sync_bn`` has an effect; it also runs on CPUs (gloo). The teacher is not sharded: every process
    holds all of it. It is tested with two processes on CPUs, and not on GPUs.

    Example::

        runner_type = 'FlexibleRunner'
        strategy = dict(type='mmsnn.FSDPStrategy')

    Args:
        model_wrapper: settings of mmengine's MMFullyShardedDataParallel, e.g. ``auto_wrap_policy``.
        kwargs: arguments of mmengine's strategy without ``state_dict_cfg``, which is ``full``.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs):
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg='full', **kwargs)
        if get_device() == 'cpu':
            self.model_wrapper = {**(model_wrapper or {}), 'device_id': 'cpu'}
            # On a CPU, offloading makes no copy, and torch would free memory that it still reads.
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, Transparent):
                module.shows_itself = True
        # FSDP moves only the modules of the model, to which the teacher does not belong.
        return super()._wrap_model(self.convert_model(model.to(get_device())))

    def build_optim_wrapper(self, optim_wrapper, model: nn.Module | None = None):
        """As mmengine's strategy, but ``clip_grad`` measures all shards together."""
        built = super().build_optim_wrapper(optim_wrapper, model)
        if getattr(built, 'clip_func', None) is nn.utils.clip_grad_norm_:
            built.clip_func = lambda _, **settings: model.clip_grad_norm_(**settings)
        return built

    def _transparent(self) -> list[tuple[Transparent, str]]:
        """The wrappers in the model, outermost first, with their prefixes in its state dict."""
        wrappers = [(m, f'{name}.') for name, m in self.model.named_modules() if isinstance(m, Transparent)]
        return [(module, prefix.replace('_fsdp_wrapped_module.', '')) for module, prefix in wrappers]

    def model_state_dict(self) -> dict:
        """All weights on rank 0 and nothing on others; a Distiller's connectors are included, under ``connectors.``"""
        state = super().model_state_dict()
        for module, prefix in reversed(self._transparent()):
            rename_inner(module, state, prefix)
        return state

    def load_model_state_dict(self, state_dict: dict, **kwargs) -> None:
        """Load the result of `model_state_dict`."""
        for module, prefix in self._transparent():
            restore_inner(module, state_dict, prefix)
        super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load a checkpoint's optimizer state."""
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(FSDP.optim_state_dict_to_load(self.model, optimizer, state_dict))
