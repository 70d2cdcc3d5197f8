"""Numbers of parameters by module: trainable ones, frozen ones, and those that only training needs."""

from dataclasses import dataclass, field

from rich.table import Table
from torch import nn

from mmsnn.distill import Distiller


@dataclass(frozen=True)
class ModuleParameters:
    """Number of parameters of a module with its children; the name '' is the whole model."""

    name: str
    total: int
    trainable: int

    @property
    def frozen(self) -> int:
        """Number of parameters without ``requires_grad``."""
        return self.total - self.trainable


@dataclass(frozen=True)
class ParameterReport:
    """The result of `count_parameters`.

    Attributes:
        modules: modules with parameters, in the order of ``model.named_modules()``, the model itself first.
        training_only: connectors and teachers of a Distiller, which are not part of the student's checkpoints.
    """

    modules: list[ModuleParameters]
    training_only: list[ModuleParameters] = field(default_factory=list)

    @property
    def model(self) -> ModuleParameters:
        """The whole model; for a Distiller, the student."""
        return self.modules[0]

    def __getitem__(self, name: str) -> ModuleParameters:
        return next(m for m in (*self.modules, *self.training_only) if m.name == name)

    def as_dict(self) -> dict:
        """All results in a form that JSON can hold."""

        def figures(m):
            return dict(total=m.total, trainable=m.trainable, frozen=m.frozen)

        return dict(
            **figures(self.model),
            modules={m.name: figures(m) for m in self.modules[1:]},
            training_only={m.name: figures(m) for m in self.training_only},
        )

    def table(self, depth: int = 1) -> Table:
        """The report as a table for ``rich.print``, with modules down to a depth of ``depth`` names."""
        keys = ('total', 'trainable', 'frozen')
        table = Table(title='Parameters', caption='Statistics of norms and other buffers are not parameters')
        table.add_column('module', overflow='fold', min_width=20)
        for title in ('parameters', 'trainable', 'frozen'):
            table.add_column(title, justify='right', no_wrap=True)

        def row(m, name=None):
            table.add_row(m.name if name is None else name, *(f'{getattr(m, key):,}' for key in keys))

        for m in self.modules[1:]:
            if m.name.count('.') < depth:
                row(m)
        table.add_section()
        row(self.model, 'student' if self.training_only else 'total')
        table.add_section()
        for m in self.training_only:
            row(m, f'{m.name} (training only)')
        return table


def count_parameters(model: nn.Module) -> ParameterReport:
    """Parameters of every module of ``model``; for a `Distiller`, those of the student and separately the others.

    A parameter that two modules share counts in both of them, and once in the total.
    """
    rest = []
    if isinstance(model, Distiller):
        rest = [_count(f'connectors.{name}', link) for name, link in model.connectors.items()]
        rest += [_count(name, teacher.model) for name, teacher in model.teachers.items()]
        model = model.student
    modules = [_count(name, module) for name, module in model.named_modules()]
    return ParameterReport(modules[:1] + [m for m in modules[1:] if m.total], [m for m in rest if m.total])


def _count(name: str, module: nn.Module) -> ModuleParameters:
    # parameters() yields a shared parameter once.
    sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    return ModuleParameters(name, sum(n for n, _ in sizes), sum(n for n, trainable in sizes if trainable))
