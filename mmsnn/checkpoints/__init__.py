"""Reading checkpoints safely, matching them with models, converting those of other codebases, refusing misfits."""
